"""A file of questions in, a file of answers out; killed anywhere, it goes on where it was."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from composer.budget import Budget, Why
from composer.document import text_of
from composer.errors import StoreError
from composer.honours import refusal
from composer.jsonl import Dedupe, check_outputs, read_questions, write_atomic
from composer.outputs import (
    Form,
    errors_file,
    openai_line,
    partial_file,
    row_of,
    sweep_drafts_of,
    write_rows,
)
from composer.pipeline import Pipeline
from composer.pool.status import Status
from composer.resume import code_version, refuse_change
from composer.state import Answer, Query, State, as_queries, trace_of
from composer.store import Charge, Ending, Origin, Question, RunHandle
from composer.trace import Drafted, Event, Planned
from routers.types import Route

_AT_ONCE = 1024  # results on their way to the store: all rows of a large file at once would be most of its memory


@dataclass(frozen=True, slots=True)
class Summary:
    """What a start of a run did. `loads` counts weights opened, `distinct_models` the weight files among them, `failed`
    queries without an answer; tokens, passes, seconds, CPU seconds (hosts included) and money are of this start alone:
    cached drafts cost none, and `cost` None is unknown.

    `stopped` says what ended it early (None: nothing), `unfinished` how many queries are left for the next start; then
    the answers that are there are in `partial`, and `ledger` sums what all starts of the run cost, in all and per arm.
    `asking_seconds` are those between the plan and the last draft, `predicted_…` is what the plan of the first round said
    of them (seconds None: `coe calibrate` was never run), `bottleneck` what took most of them: a host's work, or its
    opening.
    """

    queries: int
    drafts: int
    cached: int
    loads: int
    distinct_models: int
    seconds: float
    cpu_seconds: float
    tokens_in: int
    tokens_out: int
    failed: int
    degraded: int
    bad_rows: int
    run_id: str
    passes: int = 0
    cost: float | None = None
    unfinished: int = 0
    stopped: Why | None = None
    partial: str | None = None
    ledger: Mapping[str, Any] = field(default_factory=dict[str, Any])
    asking_seconds: float | None = None
    predicted_seconds: float | None = None
    predicted_loads: int | None = None
    bottleneck: str | None = None


@dataclass(slots=True)
class _Clock:
    """What the plan said, and when it was made and the last draft came."""

    plan: Planned | None = None
    began: float = 0.0
    last: float = 0.0

    def hear(self, event: Event) -> None:
        if isinstance(event, Planned):
            self.plan, self.began = event, time.monotonic()
        elif isinstance(event, Drafted):
            self.last = time.monotonic()

    @property
    def asking(self) -> float | None:
        return round(max(0.0, self.last - self.began), 3) if self.plan is not None else None


def run_file(
    pipeline: Pipeline,
    source: Path,
    out: Path,
    *,
    summary: Path | None = None,
    budget: Budget | None = None,
    accept_change: bool = False,
    form: Form = "rows",
    dedupe: Dedupe | None = None,
    guard: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> Summary:
    """Answer every question of `source` into `out`, one row per id in input order; unusable lines go to
    `NAME.errors.jsonl` beside it (with `dedupe` those too whose id was there already), and the summary, as one JSON
    object, to `summary`.

    Every draft is in the store before it counts, so a second call asks nothing twice that was finished. Where the
    `budget` ends it early, `out` stays as it is, and the rows that are finished go to `NAME.partial.jsonl`. Closes the
    pipeline. Raises InputError (an output that cannot be written, or is an input) and DuplicateIds before anything
    runs, StoreLockedError while another process works on the same run, and ChangedError if the same work was begun
    with another registry or program and not finished, unless `accept_change` says that it is to begin anew.
    `guard` surrounds what may take long, inside its task (see `Stopper.guarding`).
    """
    began, cpu = time.monotonic(), _cpu_seconds()
    budget = budget or Budget()
    bad, partial = errors_file(out), partial_file(out)
    check_outputs([out, bad, partial, *([summary] if summary else [])], [source])
    read = read_questions(source, dedupe=dedupe, refuse=refusal(pipeline.settings))
    queries = [Query(row.id, row.text, row.choices, row.kind, row.tests, row.turns, row.wishes) for row in read.rows]
    bad.unlink(missing_ok=True)  # of an earlier run: what it complains of may be mended
    if read.errors:
        write_rows(bad, map(asdict, read.errors))
    inputs = [(query.id, row.line, query.sha) for query, row in zip(queries, read.rows, strict=True)]
    origin = _origin(pipeline, source, out, inputs)
    same = (origin.out, pipeline.settings.config_sha, code_version(), origin.inputs_sha)
    run_id = _sha(*same)[:16]  # what differs in any of these is another run: results of two are never mixed
    shown = {row.id: int(row.id) for row in read.rows if row.numeric}
    with pipeline:
        run = pipeline.complete(_begun(pipeline, run_id, origin, inputs, accept_change))
        with run:
            sweep_drafts_of(out, partial)  # nobody else is here
            try:
                clock = _Clock()
                state = pipeline.complete(_answered(pipeline, run, queries, budget, guard, clock))
                done = replace(
                    _written(pipeline, state, budget, out, form, shown),
                    asking_seconds=clock.asking,
                    predicted_seconds=clock.plan.seconds if clock.plan else None,
                    predicted_loads=clock.plan.loads if clock.plan else None,
                    seconds=round(time.monotonic() - began, 3),
                    cpu_seconds=round(_cpu_seconds() - cpu, 3),
                    bad_rows=len(read.errors),
                )
                pipeline.complete(run.end(_ending(done.stopped if done.unfinished else None), asdict(done)))
            except BaseException as why:
                with suppress(StoreError):
                    used = {"cpu_seconds": round(_cpu_seconds() - cpu, 3)}
                    pipeline.complete(run.end(_ending(budget.stopped, why), used))
                raise
            done = replace(done, ledger=pipeline.complete(pipeline.store.costs(run_id)).as_dict())
    if summary is not None:
        with write_atomic(summary) as file:
            file.write(json.dumps(asdict(done), indent=2) + "\n")
    return done


def _written(
    pipeline: Pipeline, state: State, budget: Budget, out: Path, form: Form, shown: Mapping[str, int]
) -> Summary:
    """Write the rows that are finished: to `out` if all are, else beside it; end the hosts; what came of it."""
    partial, left = partial_file(out), sum(state.withheld)
    if left < len(state.queries) or not left:
        write_rows(partial if left else out, _rows(state, form, shown))
    if not left:
        partial.unlink(missing_ok=True)
    status = pipeline.pool.status()
    pipeline.complete(pipeline.pool.close())  # what its hosts have used is known when they have ended
    ended = [answer.status for answer, off in zip(state.answers, state.withheld, strict=True) if not off]
    ledger = pipeline.ledger
    return Summary(
        queries=len(state.queries),
        drafts=ledger.drafts,
        cached=ledger.cached,
        loads=ledger.loads,
        distinct_models=len(ledger.weights),
        seconds=0.0,
        cpu_seconds=0.0,
        tokens_in=ledger.tokens_in,
        tokens_out=ledger.tokens_out,
        failed=ended.count("failed"),
        degraded=ended.count("degraded"),
        bad_rows=0,
        run_id=state.run,
        passes=ledger.passes,
        cost=ledger.cost,
        unfinished=left,
        stopped=budget.stopped or (budget.why if left else None),
        partial=str(partial) if left and partial.exists() else None,
        bottleneck=_bottleneck(status),
    )


def _bottleneck(status: Status) -> str | None:
    """What took most of the hosts' time; None where nobody was asked."""
    spent = {f"the work of {name}": host.busy for name, host in status.hosts.items()}
    spent |= {f"opening {name}": host.opening for name, host in status.hosts.items()}
    total, most = sum(spent.values()), max(spent, key=lambda what: spent[what], default=None)
    return f"{most}, {100 * spent[most] / total:.0f} % of {total:.1f} s" if most is not None and total > 0 else None


def _origin(pipeline: Pipeline, source: Path, out: Path, inputs: Sequence[Question]) -> Origin:
    registry = pipeline.settings.path
    return Origin(
        kind="run",
        source=str(source.resolve()),
        out=str(out.resolve()),
        inputs_sha=_sha(*(part for name, _, sha in inputs for part in (name, sha))),
        registry_path=str(registry),
        registry_text=text_of(registry),
    )


async def _begun(
    pipeline: Pipeline, run_id: str, origin: Origin, inputs: Sequence[Question], accept_change: bool
) -> RunHandle:
    config_sha = pipeline.settings.config_sha
    await refuse_change(pipeline.store, origin, run_id, config_sha, accept=accept_change)
    return await pipeline.store.begin(run_id, config_sha, code_version(), inputs, origin)


def _rows(state: State, form: Form, shown: Mapping[str, int]) -> Iterator[dict[str, Any]]:
    """The rows of the finished queries, in their order; ids as they were written in the input."""
    for row, answer in enumerate(state.answers):
        if state.withheld[row]:
            continue
        told = row_of(answer)
        if form == "rows":
            yield told | {"id": shown.get(answer.id, answer.id)}
        else:
            yield openai_line(told, trace_of(state, row), state.run)


def ask_once(
    pipeline: Pipeline, question: str, budget: Budget | None = None
) -> tuple[Answer, dict[str, Any], Route, bool]:
    """Answer one question as a run of its own: the answer, its trace (kept in the store), its route, and whether the
    budget ended it early (then the answer is made of what was there, and not kept). Call it inside `with pipeline:`."""
    [query] = as_queries([question])
    run_id, settings = secrets.token_hex(8), pipeline.settings
    origin = Origin("ask", "", "", query.sha, str(settings.path), text_of(settings.path))

    async def asked() -> State:
        inputs = [(query.id, 1, query.sha)]
        run = await pipeline.store.begin(run_id, settings.config_sha, code_version(), inputs, origin)
        with run:
            try:
                state = await _answered(pipeline, run, [query], budget or Budget(), nullcontext)
            except BaseException as why:
                with suppress(StoreError):
                    await run.end(_ending(None, why), {})
                raise
            await run.end("out-of-budget" if state.withheld[0] else "finished", {})
        return state

    state = pipeline.complete(asked())
    return state.answers[0], trace_of(state, 0), state.route(0), state.withheld[0]


async def _answered(
    pipeline: Pipeline,
    run: RunHandle,
    queries: list[Query],
    budget: Budget,
    guard: Callable[[], AbstractContextManager[None]],
    clock: _Clock | None = None,
) -> State:
    """Everything the budget allows, each draft charged, each finished question recorded."""
    others = pipeline.hearer

    def hear(event: Event) -> None:
        if isinstance(event, Drafted):
            run.charge(Charge.of(event.id, event.arm, "draft", event.sample, event.draft))
        if clock is not None:
            clock.hear(event)
        others(event)

    with guard():
        state = await pipeline.astate(queries, run=run.run_id, budget=budget, hear=hear)
    left = budget.left()
    if left is not None and left <= 0:
        pipeline.registry.stopped = True  # else a download would have to end before we can
    for first in range(0, len(queries), _AT_ONCE):
        rows = range(first, min(first + _AT_ONCE, len(queries)))
        await asyncio.gather(*(_finish(run, state, row) for row in rows))
    return state


async def _finish(run: RunHandle, state: State, row: int) -> None:
    """A result is final, so a query that failed, or whose drafts are not all there, is left open for the next start."""
    answer = state.answers[row]
    if answer.status != "failed" and not state.withheld[row]:
        await run.finish(answer.id, 0, trace_of(state, row), answer.status)


def _ending(why: Why | None, error: BaseException | None = None) -> Ending:
    """How a start ended, in the store's words."""
    match why:
        case "interrupted" | "terminated" | "hung-up":
            return why
        case None if error is None:
            return "finished"
        case None:
            return "interrupted" if isinstance(error, KeyboardInterrupt) else "error"
        case _:
            return "out-of-budget"


def _sha(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode("utf-8", "replace")).hexdigest()


def _cpu_seconds() -> float:
    """CPU seconds of this process and of the children that have ended."""
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system
