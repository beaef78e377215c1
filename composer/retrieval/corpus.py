"""The passages of an index in one SQLite file: documents by name and content, passages with their places and vectors."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from composer.errors import ComposerError
from composer.retrieval.split import Passage
from routers.types import Array

BROKEN = (ComposerError, OSError, sqlite3.Error, RuntimeError, ValueError)
"""What searching an index raises that has been damaged, or is gone, since it was opened."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS document (name TEXT PRIMARY KEY, sha256 TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS passage (
    number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, document TEXT NOT NULL,
    start INTEGER NOT NULL, stop INTEGER NOT NULL, title TEXT NOT NULL, text TEXT NOT NULL, vector BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS passage_document ON passage (document);
"""
_COLUMNS = "id, document, start, stop, title, text"
_AT_ONCE = 500


class Corpus:
    """`write`: one process that builds; else read only, for a file that nobody changes any more."""

    def __init__(self, path: Path, *, write: bool = False) -> None:
        if write:
            self._file = sqlite3.connect(path)
            self._file.executescript("PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;" + _SCHEMA)
        else:
            self._file = sqlite3.connect(
                f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True, check_same_thread=False
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Also writes the journal back: the file is whole by itself afterwards."""
        self._file.close()

    def documents(self) -> dict[str, str]:
        """The sha256 of every document by its name."""
        return dict(self._file.execute("SELECT name, sha256 FROM document"))

    def put(self, documents: Iterable[tuple[str, str]], passages: Sequence[Passage], vectors: Array) -> None:
        """Store whole documents (name, sha256) with their passages and these vectors [n, dim] in the place of what they
        were: all of it or nothing."""
        blobs = np.ascontiguousarray(vectors, dtype="<f4")
        with self._file:
            for name, sha256 in documents:
                self._file.execute("DELETE FROM passage WHERE document = ?", (name,))
                self._file.execute("INSERT OR REPLACE INTO document VALUES (?, ?)", (name, sha256))
            self._file.executemany(
                f"INSERT INTO passage ({_COLUMNS}, vector) VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    (one.id, one.document, one.start, one.end, one.title, one.text, row.tobytes())
                    for one, row in zip(passages, blobs, strict=True)
                ),
            )

    def drop(self, names: Iterable[str]) -> None:
        """Forget documents."""
        with self._file:
            for name in names:
                self._file.execute("DELETE FROM passage WHERE document = ?", (name,))
                self._file.execute("DELETE FROM document WHERE name = ?", (name,))

    def renumber(self) -> int:
        """Number the passages 1 to n without gaps, in the order of documents and places; n."""
        with self._file:
            rows = self._file.execute("SELECT number FROM passage ORDER BY document, start, number").fetchall()
            moved = [(-place, number) for place, (number,) in enumerate(rows, 1) if place != number]
            if moved:  # first out of the way: numbers are unique at every moment
                self._file.executemany("UPDATE passage SET number = ? WHERE number = ?", moved)
                self._file.execute("UPDATE passage SET number = -number WHERE number < 0")
        return len(rows)

    def finish(self) -> None:
        """Put everything into the one file, and nothing beside it."""
        self._file.execute("PRAGMA journal_mode = DELETE")
        self._file.execute("VACUUM")

    def vectors(self, n: int, dim: int) -> Array:
        """[n, dim] by number. Raises ValueError where they do not have this shape."""
        found = np.empty((n, dim), dtype=np.float32)
        rows = self._file.execute("SELECT vector FROM passage ORDER BY number")
        place = 0
        for place, (blob,) in enumerate(rows, 1):
            if place > n or len(blob) != 4 * dim:
                raise ValueError("vectors of another encoder")
            found[place - 1] = np.frombuffer(blob, dtype="<f4")
        if place != n:
            raise ValueError(f"{place} vectors, expected {n}")
        return found

    def texts(self) -> Iterator[tuple[str, str]]:
        """(title, text) by number."""
        return iter(self._file.execute("SELECT title, text FROM passage ORDER BY number"))

    def get(self, numbers: Sequence[int]) -> dict[int, Passage]:
        """The passages of these numbers."""
        found: dict[int, Passage] = {}
        wanted = list(dict.fromkeys(numbers))
        for at in range(0, len(wanted), _AT_ONCE):
            part = wanted[at : at + _AT_ONCE]
            marks = ",".join("?" * len(part))
            query = f"SELECT number, {_COLUMNS} FROM passage WHERE number IN ({marks})"
            found.update({row[0]: Passage(*row[1:]) for row in self._file.execute(query, part)})
        return found
