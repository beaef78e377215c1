"""Writes what happened to each request behind its answer, many at a time: a run in the store of the answers of one process."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable
from typing import Any

from composer.document import text_of
from composer.pipeline import Pipeline
from composer.running.resume import code_version
from composer.state import State, Status
from composer.store import Origin
from composer.traced import trace_of

_WAITING = 1000  # traces; when the store is slower than the answers, answers wait
_GATHER = 0.1  # seconds in which traces come together: a lock file and three commits for all of them
_PER_RUN = 1000  # questions; a run is read whole when questions are added to it

_Row = tuple[str, str, dict[str, Any], Status]


class Traces:
    """`put` returns at once, what was put is written by `close` at the latest. A crash loses the traces of the last
    moments, never a draft: those are in the store before they count. `say` hears of traces that could not be written."""

    def __init__(self, pipeline: Pipeline, say: Callable[[str], None]) -> None:
        self._pipeline = pipeline
        self._say = say
        self._name = f"serve-{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{secrets.token_hex(3)}"
        self._written = 0
        self._rows: asyncio.Queue[_Row | None] = asyncio.Queue(_WAITING)
        self._work = asyncio.create_task(self._write_all())

    async def put(self, state: State, model: str) -> None:
        """Keep the trace of every answer of `state`, which `model` gave."""
        for row, (query, answer) in enumerate(zip(state.queries, state.answers, strict=True)):
            name = f"{state.run}-{query.id}"
            trace = trace_of(state, row) | {"model": model, "run": state.run, "asked_as": name}
            await self._rows.put((name, query.sha, trace, answer.status))

    async def close(self) -> None:
        """Write what is left."""
        await self._rows.put(None)
        await self._work

    async def _write_all(self) -> None:
        ended = False
        while not ended:
            rows = [await self._rows.get()]
            await asyncio.sleep(_GATHER)
            while not self._rows.empty():
                rows.append(self._rows.get_nowait())
            ended = None in rows
            batch = [row for row in rows if row is not None]
            try:
                await self._write(batch)
            except Exception as why:  # whatever it is, answers must not wait for a writer that is gone
                self._say(f"{len(batch)} traces are lost: {why!r}")

    async def _write(self, rows: list[_Row]) -> None:
        if not rows:
            return
        store, settings = self._pipeline.store, self._pipeline.settings
        origin = Origin("serve", "", "", "", str(settings.path), text_of(settings.path))
        inputs = [(id, self._written + i, asked) for i, (id, asked, _, _) in enumerate(rows)]
        name = f"{self._name}-{self._written // _PER_RUN}"
        run = await store.begin(name, settings.config_sha, code_version(), inputs, origin)
        with run:
            await asyncio.gather(*(run.finish(id, 0, trace, status) for id, _, trace, status in rows))
            await run.end("finished", {})  # each lot is a start of its own: without a word it would count as killed
        self._written += len(rows)
