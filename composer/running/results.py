"""What came of the questions of a run: each is recorded as soon as it is answered, and read back to be written out."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from composer.errors import StoreCorruptError
from composer.pipeline import Pipeline
from composer.running.outputs import Form, openai_line, row_of
from composer.state import State
from composer.store import RunHandle
from composer.traced import settled_of, trace_of

MADE = "made"
_AT_ONCE = (
    500  # results on their way to the store or back: all rows of a large file at once would be most of its memory
)


@dataclass(slots=True)
class Results:
    """The results of the questions `names`, in file order. What is finished is in the store alone; `failed` ones (their
    traces) and `withheld` ones are left open there for the next start. `before` are those that earlier starts have
    answered, and that are not asked again; `settled` counts merges and judgements that were made (`made`), and skipped ones by their reason."""

    names: Sequence[str]
    before: set[str] = field(default_factory=set)
    failed: dict[str, dict[str, Any]] = field(default_factory=dict)
    withheld: set[str] = field(default_factory=set)
    degraded: int = 0
    drafts_before: int = 0
    settled: Counter[str] = field(default_factory=Counter[str])

    async def look_up(self, run: RunHandle) -> None:
        """Find out what earlier starts have answered. A degraded answer is none yet: what failed is asked again."""
        for start in range(0, len(self.names), _AT_ONCE):
            found = await run.results(self.names[start : start + _AT_ONCE])
            self.before.update(name for name, result in found.items() if result.status == "ok")

    async def settle(self, run: RunHandle, state: State) -> None:
        """Record rows that are answered; returns when they would survive a power cut."""
        rows = range(len(state.queries))
        for start in range(0, len(rows), _AT_ONCE):
            await asyncio.gather(*(self._settle(run, state, row) for row in rows[start : start + _AT_ONCE]))

    async def _settle(self, run: RunHandle, state: State, row: int) -> None:
        answer = state.answers[row]
        if state.withheld[row]:
            self.withheld.add(answer.id)
        elif answer.status == "failed":
            self.failed[answer.id] = trace_of(state, row)
        else:
            await run.finish(answer.id, 0, trace_of(state, row), answer.status)

    def rows(
        self, pipeline: Pipeline, run: RunHandle, form: Form, shown: Mapping[str, int]
    ) -> Iterator[dict[str, Any]]:
        """The rows of the questions that are not withheld, in file order; ids as they were written in the input. Counts
        on the way. Raises StoreCorruptError where a result that was recorded cannot be read."""
        self.degraded = self.drafts_before = 0
        self.settled = Counter()
        for start in range(0, len(self.names), _AT_ONCE):
            names = self.names[start : start + _AT_ONCE]
            found = pipeline.complete(run.results(names))
            for name in names:
                if name in self.withheld:
                    continue
                if name in found:  # an answer that is there stands, though what it lacked failed again
                    self.failed.pop(name, None)
                trace = found[name].payload if name in found else self.failed.get(name)
                if trace is None:
                    raise StoreCorruptError(
                        f"the answer to the question {name!r} was recorded and cannot be read",
                        where=str(pipeline.store.path),
                        remedy="run the same command again: it asks for what is missing",
                    )
                self.degraded += trace["status"] == "degraded"
                self.drafts_before += len(trace["drafts"]) if name in self.before else 0
                if (why := settled_of(trace)) is not None:
                    self.settled[why or MADE] += 1
                row = row_of(trace)
                if form == "rows":
                    yield row | {"id": shown.get(name, name)}
                else:
                    yield openai_line(row, trace, run.run_id)
