"""Does composing pay with models in the loop? Every way of it on the same questions, live, against every single expert.

What is chosen (the best single expert of each group, the tasks of BIG-Bench Hard that any arm can do) is chosen on questions of the
split `calibration`, and used once on `test`.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from composer.fitting.contrasting import Variant, prepared, try_all
from composer.jsonl import Labelled
from composer.marks import mark
from composer.pipeline import Pipeline
from composer.settings.specs import Settings
from composer.state import Query, State
from composer.trace import Drafted, Event
from composer.traced import settled_of, trace_of
from evals.contrast import voted
from evals.live_questions import BBH, questions
from evals.live_systems import VOTE, name_of, ways_of
from evals.metrics import Gap, Result, Row, gap, row
from evals.tasks import bbh

T = TypeVar("T")
WARM = 0.7  # temperature of self-consistency
CONSISTENT = "self-consistency"
RANDOM, ORACLE = "random expert", "oracle of the experts"
MOST = 12
"""Samples of it, at most."""
TIMED = 8
"""Questions that loads and seconds are counted on, with nothing in the store."""


@dataclass(frozen=True, slots=True)
class LiveRow(Row):
    """A row with the loads of weights and the seconds of wall that a system took for the first `TIMED` questions of the group, with a
    store and hosts of its own (None: not measured)."""

    loads: int | None
    wall: float | None


@dataclass(frozen=True, slots=True)
class Report:
    """Rows of every group, what each system gains over the best single expert and over the vote, and notes."""

    rows: tuple[LiveRow, ...]
    gaps: Mapping[str, tuple[Gap, ...]]
    notes: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Ran:
    """A system on the questions of a group; how often what was not needed was left out (`skipped`), and answers without one
    (`failed`); loads and wall as in `LiveRow`."""

    result: Result
    skipped: int = 0
    failed: int = 0
    loads: int | None = None
    wall: float | None = None


@dataclass(slots=True)
class Spent:
    """What was drafted on whose behalf: calls, tokens read and written, seconds of the drafts."""

    of: dict[str, list[float]] = field(default_factory=dict[str, list[float]])

    def __call__(self, event: Event) -> None:
        if isinstance(event, Drafted):
            usage, own = event.draft.usage, self.of.setdefault(event.id, [0.0, 0.0, 0.0])
            for place, more in enumerate((1, usage.tokens_in + usage.tokens_out, usage.seconds)):
                own[place] += more

    def columns(self, ids: Sequence[str]) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Calls, tokens and seconds of each."""
        calls, tokens, seconds = np.array([self.of.get(one, [0.0, 0.0, 0.0]) for one in ids], dtype=np.float64).T
        return calls, tokens, seconds


def measure(
    settings: Settings,
    groups: Sequence[str],
    n: int,
    folder: Path,
    *,
    data: Path | None = None,
    programs: Settings | None = None,
    offline: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> Report:
    """Every system on about `n` test questions of each group; half as many choose the best single expert. `programs` is the same registry
    with arms that answer by programs. Drafts are kept in
    `folder`, so that systems which ask the same share them, and a run that was interrupted goes on; tokens and seconds count every draft
    of a system, whoever drew it. Raises what asking raises."""
    rows: list[LiveRow] = []
    gaps: dict[str, tuple[Gap, ...]] = {}
    notes: dict[str, tuple[str, ...]] = {}
    for group in groups:
        found = _measured(settings, programs, group, n, folder, data, offline, say)
        found.notes += _remarks(found.systems)
        rows += [_row(one, group, range(len(found.asked))) for one in found.systems]
        rows += [_row(one, f"{group}: {task}", at) for task, at in found.tasks.items() for one in found.systems]
        gaps[group] = tuple(found.gaps())
        notes[group] = tuple(found.notes)
    return Report(tuple(rows), gaps, notes)


def _measured(
    settings: Settings,
    programs: Settings | None,
    group: str,
    n: int,
    folder: Path,
    data: Path | None,
    offline: bool,
    say: Callable[[str], None],
) -> _Found:
    def within(own: Settings, work: Callable[[_Group], Coroutine[Any, Any, T]]) -> T:
        with Pipeline(own, store=folder / f"{group}.sqlite", offline=offline, say=say) as pipeline:
            return pipeline.complete(work(_Group(pipeline, group, data, say)))

    tasks: Sequence[str] = bbh.TASKS
    told: list[str] = []
    if group == BBH:
        tasks, told = within(programs or settings, lambda one: one.possible())
        if not tasks:
            return _Found(
                (), "", [], [*told, "nobody does any of its tasks better than by chance: nothing was measured"]
            )
    found = within(settings, lambda one: one.measured(n, tasks))
    if programs is not None:
        within(programs, lambda one: one.with_programs(found, n, tasks))
    within(settings, lambda one: one.with_consistent(found))  # last: as dear as the dearest of all others
    found.notes[:0] = told
    every = [settings] if programs is None else [settings, programs]
    found.systems = [_timed(every, one, found.asked, folder, offline) for one in found.systems]
    return found


@dataclass(slots=True)
class _Found:
    asked: Sequence[Labelled]
    best: str
    systems: list[Ran]
    notes: list[str]
    best_of_all: str | None = None

    @property
    def tasks(self) -> dict[str, list[int]]:
        """The places of each task's questions, where there are several tasks."""
        found: dict[str, list[int]] = {}
        for place, one in enumerate(self.asked):
            found.setdefault(one.task or "", []).append(place)
        return found if len(found) > 1 and self.best else {}

    def gaps(self) -> list[Gap]:
        """Every system against the best single expert, against the vote, and against the best arm where programs are among them."""
        if not self.asked:
            return []
        names = dict.fromkeys((self.best, VOTE, self.best_of_all or VOTE))
        others = [next(one.result for one in self.systems if one.result.system == name) for name in names]
        whole = range(len(self.asked))
        return [gap(one.result, other, whole) for one in self.systems for other in others if one.result is not other]


@dataclass(slots=True)
class _Group:
    """Measures one group of questions in an open pipeline."""

    pipeline: Pipeline
    group: str
    data: Path | None
    say: Callable[[str], None]

    async def possible(self) -> tuple[list[str], list[str]]:
        """The tasks of BIG-Bench Hard that some arm does better than by chance, and what is told of each: the Wilson interval of the best
        arm lies above how often one is right who always gives the commonest answer."""
        tuning = questions(self.group, "calibration", 0, self.data)
        self.say(f"{self.group}: {len(tuning)} questions to choose tasks on")
        rated = {one: (await self._ran(one, one, tuning)).result.right for one in (*self.experts, *self.writing)}
        kept, told = [], []
        for task in bbh.TASKS:
            at = [place for place, one in enumerate(tuning) if one.task == task]
            best = max(rated, key=lambda one, at=at: float(rated[one][at].mean()))  # type: ignore[misc]
            right = rated[best][at].sum()
            by_chance = bbh.chance(self.data or Path(), task)
            likely = float(binomtest(int(right), len(at)).proportion_ci(method="wilson").low) > by_chance
            kept += [task] if likely else []
            told.append(
                f"{task}: {best} has {right:g} of {len(at)} on calibration, chance {by_chance:.0%}: {'kept' if likely else 'left out'}"
            )
        return kept, told

    async def measured(self, n: int, tasks: Sequence[str]) -> _Found:
        tuning = questions(self.group, "calibration", n // 2, self.data, tasks)
        self.say(f"{self.group}: {len(tuning)} questions to choose on")
        rated = {one: (await self._ran(one, one, tuning)).result.right.mean() for one in self.experts}
        best = max(rated, key=lambda one: float(rated[one]))
        asked = questions(self.group, "test", n, self.data, tasks)
        self.say(f"{self.group}: {len(asked)} test questions; best single expert: {best}")
        singles = [await self._ran(one, one, asked, chosen=one == best) for one in self.experts]
        ways = [await self._ran(by, name, asked) for name, by in self.ways.items()]
        notes = [f"best single expert on {len(tuning)} questions of calibration: {best}"]
        return _Found(asked, best, [*_bounds(singles), *singles, *ways], notes)

    async def with_programs(self, found: _Found, n: int, tasks: Sequence[str]) -> None:
        """Add the arms that answer by programs, each alone, and the pipelines that ask them. Those are also compared with the best of
        all arms, chosen on the same questions as the best expert."""
        tuning, asked = questions(self.group, "calibration", n // 2, self.data, tasks), found.asked
        every = (*self.experts, *self.writing)
        rated = {one: (await self._ran(one, one, tuning)).result.right.mean() for one in every}
        found.best_of_all = max(rated, key=lambda one: float(rated[one]))
        found.systems += [await self._ran(one, one, asked) for one in self.writing]
        found.systems += [await self._ran(by, name, asked) for name, by in self.ways.items()]
        found.notes.append(
            f"best single arm, programs among them, on {len(tuning)} questions of calibration: {found.best_of_all}"
        )

    async def with_consistent(self, found: _Found) -> None:
        """Add self-consistency, sampled until it reads and writes as much as the dearest system that is there."""
        asked, best = found.asked, found.best
        dearest = max(found.systems, key=_tokens)
        for name, arms in ((best, [best] * len(asked)), ("the routed", await self._routed(asked))):
            one = await self._consistent(arms, f"{CONSISTENT} of {name}", asked, _tokens(dearest))
            found.systems.append(one)
            if _tokens(one) < _tokens(dearest):
                found.notes.append(
                    f"{one.result.system}: more are not drawn; {_tokens(one):.0f} tokens a question, {dearest.result.system} "
                    f"has {_tokens(dearest):.0f}"
                )

    @property
    def experts(self) -> list[str]:
        """Those that answer alone."""
        arms = self.pipeline.settings.arms
        return [name for name, arm in arms.items() if arm.plain == name and arm.evidence is None]

    @property
    def writing(self) -> list[str]:
        """Those that answer by programs."""
        return [name for name, arm in self.pipeline.settings.arms.items() if arm.strategy is not None]

    @property
    def ways(self) -> dict[str, str]:
        """The systems and the pipelines that are they."""
        return {name: name_of(name) for name in ways_of(self.pipeline.settings)}

    async def _ran(self, by: str, name: str, asked: Sequence[Labelled], *, chosen: bool = False) -> Ran:
        self.say(f"  {name}")
        return await ran(self.pipeline, by, name, asked, chosen=chosen)

    async def _routed(self, asked: Sequence[Labelled]) -> list[str]:
        """Whom the router would ask."""
        queries = [Query(one.question.id, one.question.text, one.question.choices) for one in asked]
        return [route.arms[0] for route in await asyncio.to_thread(self.pipeline.route, queries)]

    async def _consistent(self, arms: Sequence[str], name: str, asked: Sequence[Labelled], tokens: float) -> Ran:
        """These arms sampled and voted, with the fewest samples that read and write at least so many tokens per question (up to
        `MOST`)."""
        self.say(f"  {name}")
        given = await asyncio.to_thread(prepared, self.pipeline, asked)
        many = 2
        while True:
            columns = np.zeros((4, len(asked)))
            for arm in dict.fromkeys(arms):
                rows = np.flatnonzero([own == arm for own in arms])
                own = given.only(rows)
                [tried] = await try_all(self.pipeline, own, [Variant(arm, samples=many, temperature=WARM)])
                result = voted(own, tried, many)
                columns[:, rows] = result.right, result.calls, result.tokens, tried.seconds
            if many == MOST or columns[2].mean() >= tokens:
                break
            many = min(MOST, max(many + 1, math.ceil(many * tokens / columns[2].mean())))
        return Ran(Result(f"{name}, {many} samples", *columns))


async def ran(pipeline: Pipeline, by: str, name: str, asked: Sequence[Labelled], *, chosen: bool = False) -> Ran:
    """A pipeline or an expert on these questions."""
    spent = Spent()
    queries = [Query(one.question.id, one.question.text, one.question.choices, kind=one.question.kind) for one in asked]
    state = await pipeline.astate(queries, by=by, hear=spent)
    right = np.array([_worth(one, state, place) for place, one in enumerate(asked)])
    result = Result(name, right, *spent.columns([one.question.id for one in asked]), chosen=chosen)
    return Ran(
        result,
        sum(bool(settled_of(trace_of(state, row))) for row in range(len(asked))),
        sum(answer.status == "failed" for answer in state.answers),
    )


def _worth(item: Labelled, state: State, place: int) -> float:
    answer = state.answers[place]
    return float(mark(item, answer.text, answer.status != "failed")[1] or 0.0)


def _timed(every: Sequence[Settings], one: Ran, asked: Sequence[Labelled], folder: Path, offline: bool) -> Ran:
    """With the loads and the wall of the first questions, where a pipeline or an expert of its name is asked."""
    by = name_of(one.result.system)
    settings = next((own for own in every if by in {*own.pipelines, *own.arms}), None)
    if settings is None:
        return one
    with TemporaryDirectory(dir=folder) as own:
        began = time.monotonic()
        with Pipeline(settings, store=Path(own) / "drafts.sqlite", offline=offline) as pipeline:
            pipeline.complete(ran(pipeline, by, "", asked[:TIMED]))
            loads = pipeline.ledger.loads
    return replace(one, loads=loads, wall=time.monotonic() - began)


def _tokens(one: Ran) -> float:
    """What a system reads and writes for a question; a bound is no system."""
    return 0.0 if one.result.system in (RANDOM, ORACLE) else float(one.result.tokens.mean())


def _bounds(singles: Sequence[Ran]) -> tuple[Ran, Ran]:
    """A random expert per question, in expectation; and the oracle, right where any of them is, which asks all."""
    stacked = {
        name: np.array([getattr(one.result, name) for one in singles])
        for name in ("right", "calls", "tokens", "seconds")
    }
    random = Result(RANDOM, *(stacked[name].mean(axis=0) for name in stacked))
    oracle = Result(
        ORACLE,
        stacked["right"].max(axis=0),
        *(stacked[name].sum(axis=0) for name in list(stacked)[1:]),
    )
    return Ran(random), Ran(oracle)


def _row(one: Ran, group: str, at: Sequence[int]) -> LiveRow:
    whole = len(at) == len(one.result.right)
    wall = None if one.wall is None or not whole else round(one.wall, 2)
    return LiveRow(**asdict(row(one.result, group, at)), loads=one.loads if whole else None, wall=wall)


def _remarks(systems: Sequence[Ran]) -> list[str]:
    found = []
    for one in systems:
        if one.skipped:
            found.append(
                f"{one.result.system}: nobody was asked to settle {one.skipped} of {len(one.result.right)} questions"
            )
        if one.failed:
            found.append(f"{one.result.system}: {one.failed} answers failed, and count as wrong")
    return found
