"""What a file of questions will cost, before anything is asked: routed, looked up in the store, planned, and predicted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from composer.jsonl import Dedupe, read_questions
from composer.pipeline import Pipeline
from composer.running.bounds import most_calls
from composer.running.honours import refusal
from composer.show import many, route_data, route_text
from composer.stages.contrast import decided_contrasts
from composer.stages.foresight import may_want
from composer.stages.generate import first_requests
from composer.stages.knowledge import foreseen
from composer.stages.persona import voiced
from composer.stages.retrieve import evidence_of, writing
from composer.state import Query, State, as_queries
from composer.types import Evidence
from routers.types import Route

if TYPE_CHECKING:
    from composer.pool.plan import Forecast

_ROUTES = 3


@dataclass(frozen=True, slots=True)
class Preview:
    """`forecast` is of what is asked first, its tokens and seconds too; a policy may ask `more` calls after it, and each stage that plans or settles (`settling`)
    so many at most, an upper bound. `routes` are the first three."""

    queries: int
    bad_rows: int
    forecast: Forecast
    more: int
    settling: Mapping[str, int]
    routes: tuple[tuple[str, Route], ...]

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        routes = [route_data(text, route) for text, route in self.routes]
        told: dict[str, Any] = {"queries": self.queries, "bad_rows": self.bad_rows, "more_calls": self.more}
        told |= {"settling_calls": dict(self.settling)}
        return told | asdict(self.forecast) | {"routes": routes}

    def lines(self) -> Iterator[str]:
        """For people."""
        found = self.forecast
        left_out = f" ({many(self.bad_rows, 'line')} cannot be used)" if self.bad_rows else ""
        calls, stored = sum(found.calls.values()), sum(found.stored.values())
        yield f"{many(self.queries, 'question')}{left_out}: {many(calls, 'call')}, {stored} more are in the store"
        for arm in sorted({*found.calls, *found.stored}):
            yield f"  {arm}: {many(found.calls.get(arm, 0), 'call')}, {found.stored.get(arm, 0)} in the store"
        if self.more:
            yield f"the policy may ask up to {many(self.more, 'call')} more"
        for name, calls in self.settling.items():
            yield f"`{name}` may ask up to {many(calls, 'call')} more: an upper bound, fewer where answers agree"
        yield f"{many(found.loads, 'load')} (the fewest possible: {found.floor}), at most {found.peak / 2**20:.0f} MiB at a time"
        for step in found.steps:
            seconds = "" if step.load_seconds is None else f", to open {step.load_seconds:.1f} s"
            work = "" if step.work_seconds is None else f", to answer {step.work_seconds:.1f} s"
            yield f"  {step.host}: {many(step.calls, 'call')}{seconds}{work}"
        bound = ", where answers are as long as they may be" if found.bound else ""
        passes = f", in up to {found.passes} passes" if found.passes > found.tokens_out else ""
        first = " for the first drafts, without what may be asked after them" if self.more or self.settling else ""
        yield f"about {found.tokens_in} tokens read and {found.tokens_out} written{passes}{bound}{first}"
        yield (
            "seconds: unknown; `coe calibrate` measures this machine once"
            if found.seconds is None
            else f"about {found.seconds:.0f} s{bound}{first}"
        )
        if len(self.routes) < self.queries:
            yield ""
            yield f"routes of the first {len(self.routes)} of {self.queries} questions"
        for text, route in self.routes:
            yield ""
            yield f"question {text}"
            yield route_text(route)


def preview_file(pipeline: Pipeline, source: Path, *, dedupe: Dedupe | None = None) -> Preview:
    """Route every question of `source`, and predict what asking them costs. Nothing is generated, opened or fetched but
    the encoder. Closes the pipeline. Raises InputError and DuplicateIds as `run_file`, MemoryBudgetError for a host that
    cannot fit."""
    read = read_questions(source, dedupe=dedupe, refuse=refusal(pipeline.settings))
    queries = as_queries(
        [Query(row.id, row.text, row.choices, row.kind, row.tests, row.turns, row.wishes) for row in read.rows]
    )
    with pipeline:
        state = pipeline.decided(queries)
        state = state.apply({"evidence": evidence_of(pipeline.kit, state)})
        options = next(step.options for step in pipeline.settings.pipeline if step.use == "generate")
        registry = pipeline.registry
        pairs = [(row, arm) for row, arms in enumerate(state.wanted) for arm in arms if writing(registry, arm)]
        written, more = foreseen(registry, [(arm, queries[row]) for row, arm in pairs])
        state = state.apply({"evidence": _unwritten(state.evidence, pairs)})
        step = next((step for step in pipeline.settings.pipeline if step.use == "contrast"), None)
        if step is not None:
            state = state.apply({"contrasted": decided_contrasts(pipeline.kit, state, **step.options)})
        if any(step.use == "persona" for step in pipeline.settings.pipeline):
            state = state.apply({"voiced": voiced(pipeline.kit, state)})
        requests = [*written, *first_requests(pipeline.kit, state, **options)]
        forecast = pipeline.complete(pipeline.pool.preview(requests, pipeline.typical))
    later = sum(map(len, may_want(state))) * int(options.get("samples", 1)) + more
    first = min(_ROUTES, len(queries))
    routes = tuple((queries[row].text, state.route(row)) for row in range(first))
    return Preview(len(queries), len(read.errors), forecast, later, _settling(pipeline, state, options), routes)


def _settling(pipeline: Pipeline, state: State, options: Mapping[str, Any]) -> dict[str, int]:
    """Per stage the calls that it may make beside the drafts, over all questions."""
    found: dict[str, int] = {}
    arms = len(pipeline.registry.arms())
    for wanted, later in zip(state.wanted, may_want(state), strict=True):
        asked = len({*wanted, *later})
        drafts = asked * int(options.get("samples", 1))
        for name, calls in most_calls(pipeline.settings.pipeline, drafts, asked, arms).items() if wanted else ():
            found[name] = found.get(name, 0) + calls
    return {name: calls for name, calls in found.items() if calls}


def _unwritten(
    evidence: Sequence[Mapping[str, Evidence]], pairs: Sequence[tuple[int, str]]
) -> tuple[Mapping[str, Evidence], ...]:
    """With something in the place of what experts will write: the reader's prompt is another one than without."""
    found = [dict(own) for own in evidence]
    for row, arm in pairs:
        found[row][arm] = Evidence("…\n")
    return tuple(found)
