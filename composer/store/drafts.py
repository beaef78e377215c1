"""The draft store: what was generated once is kept, and what was acknowledged survives a crash."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Self

import platformdirs

from composer.costs import Cost, Sums
from composer.store.history import (
    Charge,
    Origin,
    RunRecord,
    charges,
    costs,
    enter_ending,
    enter_start,
    landed,
    open_questions,
    questions_of,
    run_records,
    same_work,
    uses,
)
from composer.store.lock import RunLock, sweep
from composer.store.reader import Reader
from composer.store.rows import Row, clean, draft_cells, insert, read_draft
from composer.store.runs import Question, RunHandle, all_traces, enter_run, find_results, find_trace, run_of_trace
from composer.store.schema import CALL, WHOLE_SQL, connect
from composer.store.writer import Writer
from composer.types import Draft, Request

CHUNK = 500  # keys per query; SQLite's oldest limit is 999 values


def default_path() -> Path:
    """The file that `COE_STORE` names, else `drafts.sqlite` in the user's data folder."""
    named = os.environ.get("COE_STORE")
    return Path(named).expanduser() if named else platformdirs.user_data_path("coe") / "drafts.sqlite"


class DraftStore:
    """Drafts by key, and runs, in one SQLite file that many processes may use at once. Not for network file systems.

    Text is stored as UTF-8: a lone surrogate becomes U+FFFD (see `clean`), everything else comes back as it was. Each
    row is sealed with a sha256; a damaged row counts as missing, is counted in `corrupt`, and the next write of it
    replaces it. Do not use a store in a forked child: open it there.
    """

    def __init__(self, path: Path, reader: Reader, writer: Writer) -> None:
        self.path = path
        self._reader = reader
        self._writer = writer
        self._runs: set[RunHandle] = set()

    @classmethod
    def open(cls, path: Path | None = None) -> Self:
        """Open or make the store at `path` (None: `default_path`).

        Raises StoreCorruptError if the file is damaged, StoreError if it cannot be used or a newer version made it.
        """
        path = (default_path() if path is None else path).absolute()
        writing = connect(path)
        return cls(path, Reader(connect(path), path), Writer(writing, path))

    @property
    def commits(self) -> int:
        """Transactions written since it was opened; rows that arrive together share one."""
        return self._writer.commits

    @property
    def corrupt(self) -> int:
        """Damaged rows met since it was opened; none of them was served."""
        return self._reader.corrupt

    async def get(self, keys: Sequence[str]) -> dict[str, Draft]:
        """The stored drafts among `keys`, marked as cached, with the usage of when they were generated. One that ended at its
        `bound` is whole for requests that mean it to end there alone (see `composer.types.ended`)."""
        return await asyncio.to_thread(self._get, [clean(key) for key in keys])

    async def put(self, draft: Draft, request: Request) -> None:
        """Keep a complete draft; returns after the commit that holds it. The first one under a key stays.

        A failed or truncated draft is not kept: it must never be served. Raises StoreError if nothing can be written,
        ValueError if the draft has no key. If the caller is cancelled, the draft is kept all the same.
        """
        if not draft.ok:
            return
        if not draft.key:
            raise ValueError("a draft without a key cannot be stored")
        cells = draft_cells(draft, request)
        await asyncio.wrap_future(self._writer.submit(lambda connection: insert(connection, CALL, cells)))

    async def begin(
        self,
        run_id: str,
        config_sha: str,
        code_version: str,
        questions: Iterable[Question],
        origin: Origin | None = None,
    ) -> RunHandle:
        """Begin a run, or resume it where it was left; `questions` are (custom_id, line number, sha256 of the input).

        Raises StoreLockedError while another process works on it, and StoreError if it was begun with another
        configuration or a question of the same id had another input. New questions may be added.
        """
        named = clean(run_id), clean(config_sha), clean(code_version)
        return await asyncio.to_thread(self._begin, *named, questions, origin)

    async def trace(self, trace_id: str) -> dict[str, Any] | None:
        """The payload of the result whose payload has this `trace_id`."""
        return await asyncio.to_thread(find_trace, trace_id, self._reader)

    async def traces(self, run_id: str | None = None) -> list[dict[str, Any]]:
        """The payloads of all finished questions (of one run), by run and id; damaged ones are left out."""
        return await asyncio.to_thread(all_traces, None if run_id is None else clean(run_id), self._reader)

    async def runs(self) -> list[RunRecord]:
        """Every run the store knows, oldest first."""
        return await asyncio.to_thread(run_records, self._reader, self.path)

    async def same_work(self, origin: Origin) -> list[RunRecord]:
        """The runs of the same questions into the same file, whatever their registry."""
        return await asyncio.to_thread(same_work, self._reader, self.path, origin)

    async def supersede(self, run_id: str) -> None:
        """Mark a run as one that nobody will go on with. Raises StoreLockedError while a process works on it."""
        await asyncio.to_thread(self._supersede, clean(run_id))

    async def charges(self, run_id: str | None = None) -> list[tuple[int, Charge]]:
        """What each start of a run (None: of all runs) was charged, as (start, entry)."""
        return await asyncio.to_thread(charges, self._reader, None if run_id is None else clean(run_id))

    async def costs(self, run_id: str) -> Sums:
        """What a run cost over all its starts, in all and per arm."""
        return await asyncio.to_thread(self._costs, clean(run_id))

    async def costs_by_question(self, run_id: str) -> dict[str, Cost]:
        """What each question of a run cost over all its starts."""
        return await asyncio.to_thread(costs, self._reader, clean(run_id), "custom_id")

    async def landed(self, run_id: str) -> tuple[int, int]:
        """Whole drafts that the last start of a run has received, and for how many questions."""
        return await asyncio.to_thread(landed, self._reader, clean(run_id))

    async def uses(self, run_id: str | None = None) -> list[tuple[str, tuple[str, ...]]]:
        """(run, arms that had to answer) per question of a run (None: of all), in the order of runs and lines."""
        return await asyncio.to_thread(uses, self._reader, None if run_id is None else clean(run_id))

    async def open_questions(self, run_id: str) -> list[tuple[str, int]]:
        """(id, line) of the questions of a run that have no final answer."""
        return await asyncio.to_thread(open_questions, self._reader, clean(run_id))

    async def questions(self, run_id: str) -> dict[str, tuple[int, str]]:
        """The line, and the sha256 of the input, of each question of a run."""
        return await asyncio.to_thread(questions_of, self._reader, clean(run_id))

    async def finished(self, name: str) -> list[tuple[str, dict[str, Any]]]:
        """(run, payload) of the result with this trace id, else of all questions with this id, the last run's last."""
        run_id = await asyncio.to_thread(run_of_trace, self._reader, name)
        if run_id is None:
            return await asyncio.to_thread(find_results, self._reader, name)
        payload = await self.trace(name)
        return [(run_id, payload)] if payload is not None else []

    def close(self) -> None:
        """Commit what is under way, free the runs, close the file. Safe to call twice."""
        self._writer.close()
        for run in list(self._runs):
            run.close()
        self._reader.close()

    async def aclose(self) -> None:
        """`close` without holding up the event loop."""
        await asyncio.to_thread(self.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def _costs(self, run_id: str) -> Sums:
        return Sums(costs(self._reader, run_id)[""], costs(self._reader, run_id, "arm"))

    def _supersede(self, run_id: str) -> None:
        lock = RunLock(self.path, run_id)
        try:

            def write(connection: sqlite3.Connection) -> None:
                start = enter_start(run_id, "", None, connection)
                enter_ending(run_id, start, "superseded", {}, connection)

            self._writer.submit(write).result()
        finally:
            lock.release()

    def _get(self, keys: list[str]) -> dict[str, Draft]:
        rows: list[Row] = []
        for start in range(0, len(keys), CHUNK):
            chunk = keys[start : start + CHUNK]
            # Nothing else is ever put; a file that was written by something else is not believed.
            whole = f"FROM call WHERE finish_reason IN {WHOLE_SQL} AND call_key IN ({', '.join('?' * len(chunk))})"
            rows += self._reader.rows(CALL, whole, chunk)
        return {draft.key: draft for draft in map(read_draft, rows)}

    def _begin(
        self,
        run_id: str,
        config_sha: str,
        code_version: str,
        questions: Iterable[Question],
        origin: Origin | None,
    ) -> RunHandle:
        lock = RunLock(self.path, run_id)
        sweep(self.path)  # what was killed could not remove its own
        try:
            start = enter_run(run_id, config_sha, code_version, questions, self._reader, self._writer, origin)
        except BaseException:
            lock.release()
            raise
        return RunHandle(run_id, start, lock, self._reader, self._writer, self._runs)
