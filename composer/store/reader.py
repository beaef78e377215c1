"""Reads, from whichever thread asks, on a connection of its own: readers never wait for the writer."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Sequence
from pathlib import Path

from composer.store.rows import Cell, Row, sound
from composer.store.schema import UNREADABLE, Table, explain
from composer.store.writer import closed


class Reader:
    """Serves rows whose seal is intact. `corrupt` counts the damaged ones it met and did not serve."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self.corrupt = 0
        self._connection: sqlite3.Connection | None = connection
        self._path = path
        self._lock = threading.Lock()
        connection.execute("PRAGMA query_only = ON")

    def rows(self, table: Table, rest: str, values: Sequence[Cell], bound: tuple[str, ...] = ()) -> list[Row]:
        """The sound rows of `SELECT (columns of table) (rest)`, where `rest` begins with FROM.

        `bound` names columns of joined tables that the seal covers too; they are not part of the rows returned.
        Raises StoreError if the store is closed or cannot be read.
        """
        width = len(table.columns)
        sql = f"SELECT {', '.join((table.listed, *bound))} {rest}"
        with self._lock:
            if self._connection is None:
                raise closed(self._path)
            try:
                found: list[Row] = self._connection.execute(sql, values).fetchall()
            except UNREADABLE as why:
                raise explain(why, self._path) from why
            good = [row[:width] for row in found if sound(table, row[:width], *row[width:])]
            self.corrupt += len(found) - len(good)
        return good

    def figures(self, sql: str, values: Sequence[Cell] = ()) -> list[Row]:
        """Rows of counts and sums, for people: no seal covers them, and nothing is decided by them."""
        with self._lock:
            if self._connection is None:
                raise closed(self._path)
            try:
                return self._connection.execute(sql, values).fetchall()
            except UNREADABLE as why:
                raise explain(why, self._path) from why

    def close(self) -> None:
        """Safe to call twice."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None
