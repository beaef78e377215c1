"""Between values and rows: text made storable, rows sealed with a checksum, drafts written and read back."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import cast

from composer.store.schema import Table
from composer.types import Draft, Request, Stop, TokenLogprob, Usage

Cell = str | bytes | int | float | None
Row = tuple[Cell, ...]


def clean(text: str) -> str:
    """`text` as UTF-8 can hold it: surrogate pairs are joined, each lone surrogate becomes U+FFFD.

    >>> clean("a\\ud800b") == "a\\ufffdb"
    True
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def dump(value: object) -> str:
    """JSON that can be stored."""
    return clean(json.dumps(value, ensure_ascii=False, separators=(",", ":")))


def text(cell: Cell) -> str:
    """A text cell of a row whose seal was checked."""
    return cell.decode() if isinstance(cell, bytes) else str(cell)


def seal(*cells: Cell) -> str:
    """The sha256 (hex) over cells, each with its kind and length, so that no two rows share one by concatenation.

    Text counts as its UTF-8 bytes, so a row can be checked exactly as it was read, before anything is decoded.
    """
    digest = hashlib.sha256()
    for cell in cells:
        data = cell.encode() if isinstance(cell, str) else cell if isinstance(cell, bytes) else repr(cell).encode()
        kind = b"t" if isinstance(cell, str | bytes) else b"v"
        digest.update(b"%s%d:" % (kind, len(data)))
        digest.update(data)
    return digest.hexdigest()


def sound(table: Table, row: Row, *bound: Cell) -> bool:
    """Whether a row as read is the row as written. `bound` are cells of other rows that its seal covers too."""
    return row[-1] == seal(table.name, *row[:-1], *bound).encode()


def insert(connection: sqlite3.Connection, table: Table, cells: Sequence[Cell], *bound: Cell) -> None:
    """Add a row with its seal. A row that is already there stays, unless its seal is broken: then it is replaced."""
    row = (*cells, seal(table.name, *cells, *bound))
    values = f"INTO {table.name} VALUES ({', '.join('?' * len(row))})"
    if connection.execute(f"INSERT OR IGNORE {values}", row).rowcount:
        return
    match = " AND ".join(f"{column} = ?" for column in table.columns[: table.keys])
    there = connection.execute(f"SELECT {table.listed} FROM {table.name} WHERE {match}", row[: table.keys]).fetchone()
    if there is None or not sound(table, there, *bound):
        connection.execute(f"INSERT OR REPLACE {values}", row)


def draft_cells(draft: Draft, request: Request) -> Row:
    """A draft and where it comes from, as the cells of `call` without the seal."""
    logprobs = None
    if draft.logprobs is not None:
        logprobs = dump([[token.token, token.logprob, token.top, token.id] for token in draft.logprobs])
    return (
        clean(draft.key),
        clean(request.streams[0].expert),
        clean(request.arm),
        request.role,
        _request_sha(request),
        clean(draft.text),
        draft.stop,
        dump(asdict(draft.usage)),
        logprobs,
        clean(draft.served_by),
        clean(draft.stop_detail),
        now(),
    )


def read_draft(row: Row) -> Draft:
    """The draft of a sound row of `call`, marked as cached."""
    key, _, _, _, _, response, stop, usage, logprobs, served_by, stop_detail, _, _ = row
    tokens = None
    if logprobs is not None:
        tokens = tuple(
            TokenLogprob(token, logprob, tuple((other, value) for other, value in top), id)
            for token, logprob, top, id in json.loads(text(logprobs))
        )
    return Draft(
        key=text(key),
        text=text(response),
        stop=cast(Stop, text(stop)),
        usage=Usage(**json.loads(text(usage))),
        served_by=text(served_by),
        logprobs=tokens,
        cached=True,
        stop_detail=text(stop_detail),
    )


def now() -> str:
    """The time for people (UTC, to the millisecond, so that runs can be listed in their order); no result depends on it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _request_sha(request: Request) -> str:
    """What was asked, without the fingerprints of who serves it: the same across versions of an expert."""
    asked = [
        [asdict(stream) for stream in request.streams],
        asdict(request.sampling),
        asdict(request.mix) if request.mix else None,
        request.sample,
        *([] if request.target is None else [request.target]),
    ]
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
