"""Runs: who may work on one, which questions it has, and which of them are finished."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self, cast

from composer.errors import StoreError
from composer.store.history import Charge, Ending, Origin, enter_charge, enter_ending, enter_start
from composer.store.lock import RunLock
from composer.store.reader import Reader
from composer.store.rows import Cell, Row, clean, dump, insert, now, text
from composer.store.schema import QUESTION, RESULT, RUN
from composer.store.writer import Writer

Status = Literal["ok", "degraded", "failed"]
Question = tuple[str, int, str]
"""custom_id, line number in the user's file, sha256 of the input (all that its answer may depend on)."""

_BOUND = ("run.config_sha", "question.input_sha")
_JOINED = "FROM result JOIN question USING (run_id, custom_id) JOIN run USING (run_id)"


@dataclass(frozen=True, slots=True)
class StoredResult:
    """A finished question. `payload` is the JSON object it was finished with."""

    custom_id: str
    k: int
    status: Status
    payload: dict[str, Any]


class RunHandle:
    """A run that this process works on, until `close`. `start` counts the starts of the run, this one included."""

    def __init__(
        self, run_id: str, start: int, lock: RunLock, reader: Reader, writer: Writer, siblings: set[RunHandle]
    ) -> None:
        self.run_id = run_id
        self.start = start
        self._siblings = siblings  # the open runs of the store, which it closes when it closes
        siblings.add(self)
        self._lock = lock
        self._reader = reader
        self._writer = writer
        self._closed = False

    async def results(self, names: Sequence[str] | None = None, k: int = 0) -> dict[str, StoredResult]:
        """The finished questions of sample `k`, by custom_id; of these `names` alone (at most 900) where they are given.
        Damaged ones are left out: they count as unfinished."""
        which, values = "WHERE result.run_id = ? AND k = ?", cast("list[Cell]", [self.run_id, k])
        if names is not None:
            which += f" AND result.custom_id IN ({', '.join('?' * len(names))})"
            values += map(clean, names)
        rows = await asyncio.to_thread(self._reader.rows, RESULT, f"{_JOINED} {which}", values, _BOUND)
        found = [_read_result(row) for row in rows]
        return {result.custom_id: result for result in found}

    async def finish(self, custom_id: str, k: int, payload: Mapping[str, Any], status: Status) -> None:
        """Record the one result of a question's sample; returns after the commit that holds it. The first one stays; but
        one that is `ok` takes the place of one that is degraded.

        `payload` is a JSON object; its `trace_id`, if it has one, is what `DraftStore.trace` finds it by. Raises
        StoreError if the run is closed, has no such question, or nothing can be written.
        """
        if self._closed:
            raise StoreError(f"the run {self.run_id!r} is closed", remedy="begin it again")
        custom_id = clean(custom_id)
        trace_id = payload.get("trace_id")
        cells = (self.run_id, custom_id, k, status, dump(dict(payload)), None if trace_id is None else clean(trace_id))

        def write(connection: sqlite3.Connection) -> None:
            # The seal covers what the result was made from: under another configuration or input it is not served.
            bound = connection.execute(
                "SELECT config_sha, input_sha FROM question JOIN run USING (run_id) WHERE run_id = ? AND custom_id = ?",
                cells[:2],
            ).fetchone()
            if bound is None:
                raise StoreError(f"the run {self.run_id!r} has no question {custom_id!r}")
            if status == "ok":
                worse = "DELETE FROM result WHERE run_id = ? AND custom_id = ? AND k = ? AND status = 'degraded'"
                connection.execute(worse, cells[:3])
            insert(connection, RESULT, cells, *bound)

        await asyncio.wrap_future(self._writer.submit(write))

    def charge(self, entry: Charge) -> None:
        """Enter what a draft cost. Returns at once: the entry is on disk when a later `finish` or `end` returns, and what
        was entered in the last 25 ms before a crash is lost."""
        self._writer.submit(lambda connection: enter_charge(self.run_id, self.start, entry, connection))

    async def end(self, state: Ending, summary: Mapping[str, Any]) -> None:
        """Record how this start ended, with its summary (a JSON object); returns after the commit. The first one stays."""

        def write(connection: sqlite3.Connection) -> None:
            enter_ending(self.run_id, self.start, state, summary, connection)

        await asyncio.wrap_future(self._writer.submit(write))

    def close(self) -> None:
        """Let others work on the run. Safe to call twice."""
        self._closed = True
        self._siblings.discard(self)
        self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def enter_run(
    run_id: str,
    config_sha: str,
    code_version: str,
    questions: Iterable[Question],
    reader: Reader,
    writer: Writer,
    origin: Origin | None = None,
) -> int:
    """Record a run and its questions, or check that they are those of the run that is being resumed; the number of this
    start of it, from 1. Blocks.

    The caller holds the run's lock. Raises StoreError if the configuration or a question's input has changed.
    """
    wanted: dict[str, Row] = {}
    for custom_id, line_no, input_sha in questions:
        name = clean(custom_id)
        if name in wanted:
            raise StoreError(
                f"two questions of one run have the id {name!r}, the second on line {line_no}",
                remedy="give each question an id of its own",
            )
        wanted[name] = (run_id, name, line_no, clean(input_sha))
    run = reader.rows(RUN, "FROM run WHERE run_id = ?", (run_id,))
    begun = text(run[0][1]) if run else config_sha
    if begun != config_sha:
        raise StoreError(
            f"the run {run_id!r} was begun with configuration {begun[:12]}, now it is {config_sha[:12]}",
            remedy="choose a new --out (drafts that are still valid are taken from the store), "
            "or bring back the registry the run was begun with",
        )
    stored = {text(row[1]): text(row[3]) for row in reader.rows(QUESTION, "FROM question WHERE run_id = ?", (run_id,))}
    changed = [name for name, row in wanted.items() if stored.get(name, row[3]) != row[3]]
    if changed:
        named = ", ".join(repr(name) for name in changed[:5]) + (", …" if len(changed) > 5 else "")
        raise StoreError(
            f"{len(changed)} question(s) of the run {run_id!r} have changed since it was begun: {named}",
            remedy="choose a new --out (drafts that are still valid are taken from the store), "
            "or bring back the old input",
        )

    started = 0

    def write(connection: sqlite3.Connection) -> None:
        nonlocal started
        insert(connection, RUN, (run_id, config_sha, code_version, now()))
        for name, row in wanted.items():
            if name not in stored:
                insert(connection, QUESTION, row)
        started = enter_start(run_id, code_version, origin, connection)

    writer.submit(write).result()
    return started


def find_trace(trace_id: str, reader: Reader) -> dict[str, Any] | None:
    """The payload of the result with this trace id. Blocks."""
    rows = reader.rows(RESULT, f"{_JOINED} WHERE trace_id = ?", (clean(trace_id),), _BOUND)
    return _read_result(rows[0]).payload if rows else None


def find_results(reader: Reader, custom_id: str) -> list[tuple[str, dict[str, Any]]]:
    """(run, payload) of the results of every question with this id, in the order of the runs' beginnings. Blocks."""
    rows = reader.rows(RESULT, f"{_JOINED} WHERE result.custom_id = ? ORDER BY started", (clean(custom_id),), _BOUND)
    return [(text(row[0]), _read_result(row).payload) for row in rows]


def run_of_trace(reader: Reader, trace_id: str) -> str | None:
    """The run that the result with this trace id belongs to. Blocks."""
    rows = reader.rows(RESULT, f"{_JOINED} WHERE trace_id = ?", (clean(trace_id),), _BOUND)
    return text(rows[0][0]) if rows else None


def all_traces(run_id: str | None, reader: Reader) -> list[dict[str, Any]]:
    """The payloads of the results of one run (None: of all), oldest run first, then by id. Blocks."""
    which = "" if run_id is None else " WHERE result.run_id = ?"
    rows = reader.rows(
        RESULT,
        f"{_JOINED}{which} ORDER BY run.started, result.run_id, result.custom_id, k",
        () if run_id is None else (run_id,),
        _BOUND,
    )
    return [_read_result(row).payload for row in rows]


def _read_result(row: Row) -> StoredResult:
    _, custom_id, k, status, payload, _, _ = row
    return StoredResult(text(custom_id), cast(int, k), cast(Status, text(status)), json.loads(text(payload)))
