"""Care of the store's file: what is in it, which drafts nobody refers to, which rows are damaged."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

from composer.errors import StoreLockedError
from composer.store.history import run_records
from composer.store.lock import sweep
from composer.store.reader import Reader
from composer.store.rows import Cell, Row, sound, text
from composer.store.schema import RESULT, TABLES, UNREADABLE, Table, connect, explain

_SCRAP = 500  # rows deleted in one transaction: others wait for it

# A run refers to a draft by its charges; one of before charges were kept by the drafts in its results.
_UNUSED = """FROM call WHERE created <= ? AND call_key NOT IN (SELECT call_key FROM charge) AND call_key NOT IN (
    SELECT json_extract(draft.value, '$.key') FROM result, json_each(result.payload, '$.drafts') AS draft
    WHERE json_valid(result.payload) AND json_extract(draft.value, '$.key') IS NOT NULL
)"""


@dataclass(frozen=True, slots=True)
class Scrap:
    """Drafts that no run refers to: how many, their bytes of text, and the stale locks that went with them."""

    drafts: int
    size: int
    locks: int
    removed: bool


@dataclass(frozen=True, slots=True)
class Damage:
    """A row whose seal is broken: its table and its primary key as far as it can be read."""

    table: str
    key: tuple[str, ...]


def stats(path: Path) -> dict[str, Any]:
    """The size of the store in bytes (log included), rows per table, and per arm its drafts, their bytes of text, how often
    runs asked for one (`asked`) and how often it was there (`hits`)."""
    with _reading(path) as connection:
        rows = {table.name: _one(connection, f"SELECT count(*) FROM {table.name}") for table in TABLES}
        arms: dict[str, dict[str, int]] = {}
        for arm, drafts, size in connection.execute(
            "SELECT arm, count(*), total(length(CAST(response AS BLOB))) FROM call GROUP BY arm"
        ):
            arms[text(arm)] = {"drafts": drafts, "bytes": int(size), "asked": 0, "hits": 0}
        for arm, asked, hits in connection.execute(
            "SELECT arm, count(*), sum(cached) FROM charge WHERE stop <> 'cancelled' GROUP BY arm"
        ):
            arms.setdefault(text(arm), {"drafts": 0, "bytes": 0}).update(asked=asked, hits=hits)
    size = sum(part.stat().st_size for part in _parts(path))
    return {"path": str(path), "bytes": size, "rows": rows, "arms": dict(sorted(arms.items()))}


def collect_garbage(path: Path, older_than: timedelta, *, dry_run: bool = False) -> Scrap:
    """Remove the drafts that no run refers to (those of `coe profile` and `coe eval` are among them) and that are older
    than `older_than`, give their room back, and remove locks that killed processes left; `dry_run` only counts.

    Raises StoreLockedError while a run is under way: what it has just read it may not have entered yet.
    """
    before = (datetime.now(UTC) - older_than).isoformat(timespec="seconds")
    with _reading(path) as connection:
        drafts, size = connection.execute(
            f"SELECT count(*), total(length(CAST(response AS BLOB))) {_UNUSED}", (before,)
        ).fetchone()
        if dry_run:
            return Scrap(drafts, int(size), 0, removed=False)
        running = [run.run_id for run in run_records(Reader(connection, path), path) if run.state == "running"]
        connection.execute("PRAGMA query_only = OFF")
        if running:
            raise StoreLockedError(
                f"a run is under way: {', '.join(running[:3])}",
                where=str(path),
                remedy="wait until it ends, or stop it",
            )
        connection.execute(f"CREATE TEMP TABLE scrap AS SELECT call_key {_UNUSED}", (before,))
        for first in range(1, drafts + 1, _SCRAP):
            some = "SELECT call_key FROM scrap WHERE rowid BETWEEN ? AND ?"
            connection.execute(f"DELETE FROM call WHERE call_key IN ({some})", (first, first + _SCRAP - 1))
        if drafts:
            connection.execute("VACUUM")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return Scrap(drafts, int(size), sweep(path), removed=True)


def find_damage(path: Path, *, remove: bool = False) -> tuple[int, list[Damage]]:
    """Recompute the seal of every row: how many rows there are, and the damaged ones; `remove` deletes those (what only
    they held is asked again). Raises StoreCorruptError where the file itself cannot be read."""
    rows, found = 0, []
    with _reading(path) as connection:
        [verdict] = connection.execute("PRAGMA integrity_check(1)").fetchone()
        if verdict != b"ok":
            broken = sqlite3.DatabaseError(text(verdict))
            broken.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
            raise broken
        for table in TABLES:
            bad: list[Row] = []
            for row in connection.execute(_sealed(table)):
                rows += 1
                width = len(table.columns)
                if not sound(table, row[:width], *row[width:]):
                    bad.append(row[: table.keys])
            found += [Damage(table.name, tuple(map(_shown, key))) for key in bad]
            if remove and bad:
                connection.execute("BEGIN IMMEDIATE")
                same = " AND ".join(f"CAST({name} AS BLOB) = CAST(? AS BLOB)" for name in table.columns[: table.keys])
                connection.executemany(f"DELETE FROM {table.name} WHERE {same}", bad)
                connection.execute("COMMIT")
    return rows, found


def _sealed(table: Table) -> str:
    """The rows of a table, with the cells of others that its seal covers. A result without its question is damaged."""
    if table is not RESULT:
        return f"SELECT {table.listed} FROM {table.name}"
    return (
        f"SELECT {table.listed}, run.config_sha, question.input_sha FROM result "
        "LEFT JOIN question USING (run_id, custom_id) LEFT JOIN run USING (run_id)"
    )


@contextmanager
def _reading(path: Path) -> Iterator[sqlite3.Connection]:
    with closing(connect(path)) as connection:
        try:
            yield connection
        except UNREADABLE as why:
            raise explain(why, path) from why


def _one(connection: sqlite3.Connection, sql: str) -> int:
    return cast(int, connection.execute(sql).fetchone()[0])


def _parts(path: Path) -> list[Path]:
    return [part for end in ("", "-wal") if (part := path.with_name(path.name + end)).exists()]


def _shown(cell: Cell) -> str:
    return cell.decode("utf-8", "replace") if isinstance(cell, bytes) else str(cell)
