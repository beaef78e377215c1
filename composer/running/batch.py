"""A file of questions in, a file of answers out; killed anywhere, it goes on where it was."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import asdict, dataclass, field, replace
from functools import partial as bound
from pathlib import Path
from typing import Any

from composer.budget import Budget, Why
from composer.config import AUTO
from composer.document import text_of
from composer.errors import StoreError, plain_errors
from composer.installed import installed_sha
from composer.jsonl import Dedupe, check_outputs, read_questions, write_atomic
from composer.pipeline import Pipeline
from composer.pool.status import Status
from composer.registry.indexes import content_sha
from composer.running.honours import refusal
from composer.running.outputs import Form, errors_file, partial_file, sweep_drafts_of, write_rows
from composer.running.results import Results
from composer.running.resume import code_version, refuse_change
from composer.serving import experts_of, put_on, served_by
from composer.state import Answer, Query, State, as_queries
from composer.store import Charge, Ending, Origin, Question, RunHandle
from composer.trace import Drafted, Event, Planned
from composer.traced import trace_of
from composer.types import Mix, Request, Sampling
from routers.types import Route

_WINDOW = 8192  # questions that are under way together, twice over


@dataclass(frozen=True, slots=True)
class Summary:
    """What a start of a run did. `drafts` are those that the answers were made of, `cached` those of them that were in the
    store, or of questions that an earlier start has answered. `loads` counts weights opened, `distinct_models` the weight
    files among them, `failed` queries without an answer; tokens, passes, seconds, CPU seconds (hosts included) and money are of this start alone:
    cached drafts cost none, and `cost` None is unknown.

    `stopped` says what ended it early (None: nothing), `unfinished` how many queries are left for the next start; then
    the answers that are there are in `partial`, and `ledger` sums what all starts of the run cost, in all and per arm.
    `asking_seconds` are those between the plan and the last draft, `predicted_…` is what the plan of the first round said
    of them (seconds None: `coe calibrate` was never run), `bottleneck` what took most of them: a host's work, or its
    opening. `merges` counts what a merger or a judge was asked to settle (`made`), and what not, by reason. `prefix_cache` are the tokens of prompts that hosts looked up and found there (None: none of them tells).
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
    prefix_cache: Mapping[str, int] | None = None
    merges: Mapping[str, int] = field(default_factory=dict[str, int])


@dataclass(slots=True)
class _Clock:
    """What the plans said, and when the first was made and the last draft came."""

    host_of: Callable[[str], str]
    plans: list[Planned] = field(default_factory=list[Planned])
    began: float = 0.0
    last: float = 0.0

    def hear(self, event: Event) -> None:
        if isinstance(event, Planned):
            self.began = self.began or time.monotonic()
            self.plans.append(event)
        elif isinstance(event, Drafted):
            self.last = time.monotonic()

    @property
    def asking(self) -> float | None:
        return round(max(0.0, self.last - self.began), 3) if self.plans else None

    @property
    def predicted(self) -> float | None:
        told = [plan.seconds for plan in self.plans]
        return None if not told or None in told else sum(seconds for seconds in told if seconds is not None)

    @property
    def loads(self) -> int | None:
        """Several plans are of windows that share their hosts, which are all open together: each is opened once."""
        if not self.plans:
            return None
        asked = {
            self.host_of(arm)
            for plan in self.plans
            for arm, calls in plan.calls.items()
            if calls > plan.stored.get(arm, 0)
        }
        return min(len(asked), sum(plan.loads for plan in self.plans))


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
    options: Sequence[str] = (),
) -> Summary:
    """Answer every question of `source` into `out`, one row per id in input order; unusable lines go to
    `NAME.errors.jsonl` beside it (with `dedupe` those too whose id was there already), and the summary, as one JSON
    object, to `summary`.

    Every draft is in the store before it counts, so a second call asks nothing twice that was finished. Where the
    `budget` ends it early, `out` stays as it is, and the rows that are finished go to `NAME.partial.jsonl`. Closes the
    pipeline. Raises InputError (an output that cannot be written, or is an input) and DuplicateIds before anything
    runs, StoreLockedError while another process works on the same run, and ChangedError if the same work was begun
    with another registry or program and not finished, unless `accept_change` says that it is to begin anew.
    `guard` surrounds what may take long, inside its task (see `Stopper.guarding`); `options` are the words of the command
    that a later start has to be told again, kept for who asks the store.
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
    origin = replace(_origin(pipeline, source, out, inputs), options=tuple(options))
    made_with = content_sha(pipeline.settings), installed_sha(pipeline.registry), code_version()
    same = (origin.out, *made_with, origin.inputs_sha)
    run_id = _sha(*same)[:16]  # what differs in any of these is another run: results of two are never mixed
    shown = {row.id: int(row.id) for row in read.rows if row.numeric}
    bad_rows, results = len(read.errors), Results([query.id for query in queries])
    del read  # of a large file this is a good part of its memory
    with pipeline:
        run = pipeline.complete(_begun(pipeline, run_id, origin, inputs, accept_change))
        del inputs
        with run:
            sweep_drafts_of(out, partial)  # nobody else is here
            try:
                clock = _Clock(_host_of(pipeline))
                pipeline.complete(_settled(pipeline, run, queries, results, budget, guard, clock))
                done = replace(
                    _written(pipeline, run, results, budget, out, form, shown),
                    asking_seconds=clock.asking,
                    predicted_seconds=clock.predicted,
                    predicted_loads=clock.loads,
                    seconds=round(time.monotonic() - began, 3),
                    cpu_seconds=round(_cpu_seconds() - cpu, 3),
                    bad_rows=bad_rows,
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
    pipeline: Pipeline,
    run: RunHandle,
    results: Results,
    budget: Budget,
    out: Path,
    form: Form,
    shown: Mapping[str, int],
) -> Summary:
    """Write the rows that are finished: to `out` if all are, else beside it; end the hosts; what came of it."""
    partial, left = partial_file(out), len(results.withheld)
    if left < len(results.names) or not left:
        write_rows(partial if left else out, results.rows(pipeline, run, form, shown))
    if not left:
        partial.unlink(missing_ok=True)
    status = pipeline.pool.status()
    pipeline.complete(pipeline.pool.close())  # what its hosts have used is known when they have ended
    ledger = pipeline.ledger
    return Summary(
        queries=len(results.names),
        drafts=ledger.drafts + results.drafts_before,
        cached=ledger.cached + results.drafts_before,
        loads=ledger.loads,
        distinct_models=len(ledger.weights),
        seconds=0.0,
        cpu_seconds=0.0,
        tokens_in=ledger.tokens_in,
        tokens_out=ledger.tokens_out,
        failed=len(results.failed),
        degraded=results.degraded,
        bad_rows=0,
        run_id=run.run_id,
        passes=ledger.passes,
        cost=ledger.cost,
        unfinished=left,
        stopped=budget.stopped or (budget.why if left else None),
        partial=str(partial) if left and partial.exists() else None,
        bottleneck=_bottleneck(status),
        prefix_cache=asdict(ledger.reused) if ledger.reused is not None else None,
        merges=dict(results.settled),
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
    config_sha = content_sha(pipeline.settings)
    await refuse_change(pipeline.store, origin, run_id, config_sha, accept=accept_change)
    return await pipeline.store.begin(run_id, config_sha, code_version(), inputs, origin)


def ask_once(
    pipeline: Pipeline,
    question: str,
    budget: Budget | None = None,
    *,
    by: str = AUTO,
    signalled: Callable[[], Ending] = lambda: "interrupted",
) -> tuple[Answer, dict[str, Any], Route, bool]:
    """Answer one question as a run of its own: the answer, its trace (kept in the store), its route, and whether the
    budget ended it early (then the answer is made of what was there, and not kept); `by` is who answers, as in
    `Pipeline.astate`, and `signalled` says which signal it was that cut it short. Call it inside `with pipeline:`. Raises
    InputError for a name that nobody has."""
    [query] = as_queries([question])
    run_id, settings = secrets.token_hex(8), pipeline.settings
    origin = Origin("ask", "", "", query.sha, str(settings.path), text_of(settings.path))
    pipeline.check_model(by)

    def told(state: State) -> dict[str, Any]:
        return trace_of(state, 0) | ({} if by == AUTO else {"model": by})

    async def asked() -> State:
        inputs = [(query.id, 1, query.sha)]
        run = await pipeline.store.begin(run_id, content_sha(settings), code_version(), inputs, origin)
        hear = _charging(pipeline, run)
        with run:
            try:
                state = await pipeline.astate([query], run=run_id, by=by, budget=budget, hear=hear)
                if state.answers[0].status != "failed" and not state.withheld[0]:
                    await run.finish(query.id, 0, told(state), state.answers[0].status)
            except BaseException as why:
                with suppress(StoreError):
                    await run.end(_ending(None, why, signalled()), {})
                raise
            await run.end("out-of-budget" if state.withheld[0] else "finished", {})
        return state

    state = pipeline.complete(asked())
    return state.answers[0], told(state), state.route(0), state.withheld[0]


async def _settled(
    pipeline: Pipeline,
    run: RunHandle,
    queries: list[Query],
    results: Results,
    budget: Budget,
    guard: Callable[[], AbstractContextManager[None]],
    clock: _Clock,
) -> None:
    """Everything the budget allows that no earlier start has answered, each draft charged, each question recorded as soon
    as it is answered."""
    if not pipeline.whole:
        await results.look_up(run)
        queries = [query for query in queries if query.id not in results.before]
    charge = _charging(pipeline, run)

    def hear(event: Event) -> None:
        clock.hear(event)
        charge(event)

    apart = pipeline.whole or not _fits(pipeline)
    window = len(queries) if apart else _WINDOW
    under_way = asyncio.Semaphore(2)  # the end of one leaves nobody idle

    async def answer(part: list[Query]) -> None:
        try:
            await pipeline.settle(part, bound(results.settle, run), run=run.run_id, budget=budget, hear=hear)
        finally:
            under_way.release()

    with guard(), plain_errors():
        async with asyncio.TaskGroup() as group:
            for start in range(0, len(queries), max(1, window)):
                await under_way.acquire()
                if budget.ended is not None:
                    results.withheld.update(query.id for query in queries[start:])
                    break
                group.create_task(answer(queries[start : start + window]))
    left = budget.left()
    if left is not None and left <= 0:
        pipeline.registry.stopped = True  # else a download would have to end before we can


def _host_of(pipeline: Pipeline) -> Callable[[str], str]:
    """The host of an arm, as the pipeline decodes it."""
    registry = pipeline.registry
    decoded = put_on(registry, lambda: pipeline.contrasts)
    return lambda arm: served_by(registry, decoded.get(arm, arm))


def _fits(pipeline: Pipeline) -> bool:
    """Whether every host fits into memory beside the others: then the order of the questions costs no load, and a large
    file is routed and asked a window after the other."""
    registry = pipeline.registry
    decoded = put_on(registry, lambda: pipeline.contrasts)
    names = [*(decoded.get(arm.name, arm.name) for arm in registry.arms()), *pipeline.settings.writers]
    every = []
    for name in names:
        streams = tuple(registry.stream(one, "") for one in experts_of(registry, name))
        every.append(Request(name, streams, Sampling(), mix=Mix("logit") if streams[1:] else None, arm=name))
    return pipeline.pool.keeps(every)


def _charging(pipeline: Pipeline, run: RunHandle) -> Callable[[Event], None]:
    """Enters every draft into the ledger of the run, and passes every event on."""
    others = pipeline.hearer

    def hear(event: Event) -> None:
        if isinstance(event, Drafted):
            run.charge(Charge.of(event.id, event.arm, event.role, event.sample, event.draft))
        others(event)

    return hear


def _ending(why: Why | None, error: BaseException | None = None, signalled: Ending = "interrupted") -> Ending:
    """How a start ended, in the store's words."""
    if why is not None:
        return why if why in ("interrupted", "terminated", "hung-up") else "out-of-budget"
    if isinstance(error, KeyboardInterrupt | asyncio.CancelledError):  # a loop's answer to Ctrl-C is to cancel its task
        return signalled
    return "finished" if error is None else "error"


def _sha(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode("utf-8", "replace")).hexdigest()


def _cpu_seconds() -> float:
    """CPU seconds of this process and of the children that have ended."""
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system
