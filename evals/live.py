"""Does composing pay with models in the loop? Every way of it on the same questions, live, against every single expert.

What is chosen (the best single expert of each group, who merges) is chosen on questions of the split `calibration`, and used once
on `test`.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from composer.contrasting import Variant, prepared, try_all
from composer.jsonl import Labelled, Question, read_questions
from composer.marks import mark
from composer.pipeline import Pipeline
from composer.specs import Settings, StageSpec
from composer.state import Query, State
from composer.trace import Drafted, Event
from evals.contrast import voted
from evals.metrics import Gap, Result, Row, gap, row
from evals.skills import HERE
from evals.tasks.skills import DEFAULT, Item, items
from evals.tasks.twoskill import twoskill

TWO, NO = "twoskill", "noskill"
GROUPS = (*DEFAULT, TWO, NO)
SEED = 3  # of the test questions; other evaluations ask those of 1 and 2
WARM = 0.7  # temperature of self-consistency
ROUTED, VOTE, MERGED, JUDGED, DISCUSSED, PLANNED = (
    "routed",
    "vote of three",
    "merged",
    "judged",
    "discussed",
    "planned",
)
WAYS = (ROUTED, VOTE, MERGED, JUDGED, DISCUSSED, PLANNED)
CONSISTENT = "self-consistency"
MOST = 12
"""Samples of it, at most."""

Steps = tuple[tuple[str, Mapping[str, Any]], ...]


@dataclass(frozen=True, slots=True)
class LiveRow(Row):
    """A row with the loads of weights and the seconds of wall that a system took for the whole group."""

    loads: int
    wall: float


@dataclass(frozen=True, slots=True)
class Report:
    """Rows of every group, what each system gains over the best single expert and over the vote, and notes."""

    rows: tuple[LiveRow, ...]
    gaps: Mapping[str, tuple[Gap, ...]]
    notes: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Ran:
    """A system on the questions of a group: right, calls, tokens per question; loads and wall of all; how often what was
    not needed was left out (`skipped`), and answers without one (`failed`)."""

    result: Result
    loads: int
    wall: float
    skipped: int = 0
    failed: int = 0


@dataclass(slots=True)
class _Spent:
    """What was drafted on whose behalf."""

    calls: dict[str, int] = field(default_factory=dict[str, int])
    tokens: dict[str, int] = field(default_factory=dict[str, int])

    def __call__(self, event: Event) -> None:
        if isinstance(event, Drafted):
            usage = event.draft.usage
            self.calls[event.id] = self.calls.get(event.id, 0) + 1
            self.tokens[event.id] = self.tokens.get(event.id, 0) + usage.tokens_in + usage.tokens_out


def with_systems(settings: Settings, merger: str, planner: str | None) -> Settings:
    """The registry with a pipeline per way of composing. Without a planner nothing is planned."""
    draw: Steps = (("generate", {}), ("verify", {}))
    ways: dict[str, Steps] = {
        ROUTED: (("decide", {"k": 1}), *draw, ("aggregate", {"by": "best"})),
        VOTE: (("decide", {"k": 3}), *draw, ("aggregate", {"by": "majority"})),
        MERGED: (("decide", {"k": 3}), *draw, ("merge", {"by": merger}), ("aggregate", {"by": "majority"})),
        JUDGED: (("decide", {"k": 3}), *draw, ("judge", {"by": merger}), ("aggregate", {"by": "majority"})),
        DISCUSSED: (("decide", {"k": 3}), *draw, ("discuss", {"rounds": 1}), ("aggregate", {"by": "majority"})),
    }
    if planner is not None:
        ways[PLANNED] = (("decide", {"k": 1}), ("plan", {"planner": planner}), *draw, ("aggregate", {"by": "best"}))
    pipelines = {
        _by(name): tuple(StageSpec(use, dict(options), 1) for use, options in steps) for name, steps in ways.items()
    }
    return replace(settings, pipelines={**settings.pipelines, **pipelines})


def questions(group: str, split: str, n: int) -> list[Labelled]:
    """`n` questions of a group; of the 50 that need no skill every third is for choosing."""
    if group == NO:
        found = read_questions(HERE / "noskill.jsonl", labelled=True).rows
        return [one for place, one in enumerate(found) if (place % 3 == 0) == (split == "calibration")][:n]
    made: list[Item] = twoskill(split, n, SEED) if group == TWO else items(group, split, n, SEED)  # type: ignore[arg-type]
    return [Labelled(Question(one.id, one.question, (), one.kind, 1), one.answer, one.task, one.split) for one in made]


async def _ran(pipeline: Pipeline, by: str, name: str, asked: Sequence[Labelled], *, chosen: bool = False) -> Ran:
    """A pipeline or an expert on these questions."""
    spent, loads, began = _Spent(), pipeline.ledger.loads, time.monotonic()
    queries = [Query(one.question.id, one.question.text, one.question.choices, kind=one.question.kind) for one in asked]
    state = await pipeline.astate(queries, by=by, hear=spent)
    ids = [one.question.id for one in asked]
    result = Result(
        name,
        np.array([_worth(one, state, place) for place, one in enumerate(asked)]),
        np.array([spent.calls.get(one, 0) for one in ids], dtype=np.float64),
        np.array([spent.tokens.get(one, 0) for one in ids], dtype=np.float64),
        np.full(len(ids), np.nan),
        chosen,
    )
    merged = [one for one in state.merged if one is not None]
    return Ran(
        result,
        pipeline.ledger.loads - loads,
        time.monotonic() - began,
        sum(one.reply is None for one in merged),
        sum(answer.status == "failed" for answer in state.answers),
    )


def _worth(item: Labelled, state: State, place: int) -> float:
    answer = state.answers[place]
    return float(mark(item, answer.text, answer.status != "failed")[1] or 0.0)


async def _consistent(pipeline: Pipeline, arm: str, asked: Sequence[Labelled], tokens: float) -> Ran:
    """The arm sampled and voted, with the fewest samples that read and write at least so many tokens per question (up to
    `MOST`)."""
    loads, began = pipeline.ledger.loads, time.monotonic()
    given = await asyncio.to_thread(prepared, pipeline, asked)
    many = 2
    while True:
        [tried] = await try_all(pipeline, given, [Variant(arm, samples=many, temperature=WARM)])
        if many == MOST or float(tried.tokens.mean()) >= tokens:
            break
        many = min(MOST, max(many + 1, math.ceil(many * tokens / float(tried.tokens.mean()))))
    result = replace(voted(given, tried, many), system=f"{CONSISTENT}, {many} samples")
    return Ran(result, pipeline.ledger.loads - loads, time.monotonic() - began, failed=int((~tried.told).sum()))


def measure(
    settings: Settings,
    groups: Sequence[str],
    n: int,
    folder: Path,
    *,
    offline: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> Report:
    """Every system on `n` test questions of each group; half as many choose the best single expert. Each system has a store and
    hosts of its own, so that its loads, tokens and seconds are its own. Raises what asking raises."""
    rows: list[LiveRow] = []
    gaps: dict[str, tuple[Gap, ...]] = {}
    notes: dict[str, tuple[str, ...]] = {}
    for group in groups:
        tuning, asked = questions(group, "calibration", n // 2), questions(group, "test", n)
        say(f"{group}: {len(tuning)} questions to choose on, {len(asked)} test questions")
        best, found = _group(_Alone(settings, folder, offline, say), tuning, asked)
        whole = range(len(asked))
        rows += [
            LiveRow(**asdict(row(one.result, group, whole)), loads=one.loads, wall=round(one.wall, 2)) for one in found
        ]
        single, vote = (next(one.result for one in found if one.result.system == name) for name in (best, VOTE))
        gaps[group] = tuple(
            gap(one.result, other, whole) for one in found for other in (single, vote) if one.result is not other
        )
        notes[group] = tuple(_notes(best, found))
    return Report(tuple(rows), gaps, notes)


@dataclass(frozen=True, slots=True)
class _Alone:
    """Runs something in a pipeline of its own."""

    settings: Settings
    folder: Path
    offline: bool
    say: Callable[[str], None]

    def __call__(self, name: str, work: Callable[[Pipeline], Coroutine[Any, Any, Ran]]) -> Ran:
        self.say(f"  {name}")
        with TemporaryDirectory(dir=self.folder) as own:
            store = Path(own) / "drafts.sqlite"
            with Pipeline(self.settings, store=store, offline=self.offline, say=self.say) as pipeline:
                return pipeline.complete(work(pipeline))


def _group(alone: _Alone, tuning: Sequence[Labelled], asked: Sequence[Labelled]) -> tuple[str, list[Ran]]:
    """The best single expert on the first questions, and all systems on the second ones."""
    settings = alone.settings
    experts = [name for name, arm in settings.arms.items() if arm.evidence is None and arm.contrast is None]
    ways = [name for name in WAYS if _by(name) in settings.pipelines]
    rated = {one: alone(f"{one}, to choose", partial(_ran, by=one, name=one, asked=tuning)) for one in experts}
    best = max(experts, key=lambda one: float(rated[one].result.right.mean()))
    found = [alone(one, partial(_ran, by=one, name=one, asked=asked, chosen=one == best)) for one in experts]
    found += [alone(one, partial(_ran, by=_by(one), name=one, asked=asked)) for one in ways]
    dearest = max(float(one.result.tokens.mean()) for one in found[len(experts) :])
    found.append(alone(CONSISTENT, partial(_consistent, arm=best, asked=asked, tokens=dearest)))
    return best, [*found, _oracle(found[: len(experts)])]


def _by(name: str) -> str:
    return name.replace(" ", "-")


def _oracle(found: Sequence[Ran]) -> Ran:
    """Right where any single expert is; it asks all of them."""
    columns = {name: np.sum([getattr(one.result, name) for one in found], axis=0) for name in ("calls", "tokens")}
    right = np.max([one.result.right for one in found], axis=0)
    seconds = np.full(len(right), np.nan)
    return Ran(
        Result("oracle of the experts", right, columns["calls"], columns["tokens"], seconds),
        sum(one.loads for one in found),
        sum(one.wall for one in found),
    )


def _notes(best: str, found: Sequence[Ran]) -> Iterator[str]:
    yield f"best single expert on calibration: {best}"
    for one in found:
        if one.skipped:
            yield f"{one.result.system}: nobody was asked to settle {one.skipped} of {len(one.result.right)} questions"
        if one.failed:
            yield f"{one.result.system}: {one.failed} answers failed, and count as wrong"


LEGEND = (
    "* the best single expert on calibration. to single, to vote: points more often right than that expert and than the vote of three,",
    "with paired 95 % intervals, each for itself. calls and tokens (read and written) per question; loads and seconds of the group.",
)


def lines(report: Report) -> Iterator[str]:
    """For people: a table per group, its notes, and what the columns mean."""
    for group, found in report.gaps.items():
        own = [one for one in report.rows if one.group == group]
        single = next(one.system for one in own if one.chosen)
        gains = {(one.system, one.other): _points(one) for one in found}
        yield f"{group} ({own[0].n} questions)"
        head = f"  {'system':30}{'accuracy':>9}{'interval':>15}{'to single':>22}{'to vote':>22}"
        yield f"{head}{'calls':>7}{'tokens':>8}{'loads':>7}{'seconds':>9}"
        for one in own:
            name = one.system + (" *" if one.chosen else "")
            first, second = (gains.get((one.system, other), "-") for other in (single, VOTE))
            interval = f"[{100 * one.low:.1f}, {100 * one.high:.1f}]"
            yield (
                f"  {name:30}{100 * one.accuracy:9.1f}{interval:>15}{first:>22}{second:>22}"
                f"{one.calls or 0:7.1f}{one.tokens or 0:8.1f}{one.loads:7d}{one.wall:9.1f}"
            )
        yield from (f"  {note}" for note in report.notes[group])
        yield ""
    yield from LEGEND


def _points(one: Gap) -> str:
    return f"{100 * one.mean:+.1f} [{100 * one.low:+.1f}, {100 * one.high:+.1f}]"
