"""`coe fit answers --plans`: go through labelled questions, follow plans, and keep those that gave the right answer as examples."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from composer.config import AUTO
from composer.errors import InputError
from composer.jsonl import Labelled
from composer.marks import mark
from composer.pipeline import PLAN, Pipeline
from composer.places import plans_folder
from composer.planning.examples import MOST, Example
from composer.planning.memory import Memory, planner_print, write_memory
from composer.planning.plan import PlanError, read
from composer.stages.kit import Kit
from composer.stages.plan import planned, splits
from composer.state import Query, State
from routers.stats import calibration_split, paired_difference

LEAST = 10
"""Questions that are needed, to learn from and to try it on."""
BATCH = 16
"""Questions that are asked before what was learnt of them is used."""
DRAWS = 2
"""Other plans that are drawn where the first was wrong."""
WARM = 0.7
"""The temperature they are drawn at."""


@dataclass(frozen=True, slots=True)
class Tried:
    """One question: the plan that was followed (None: what the planner wrote was none, or broke off, and the question was asked as it
    stands), what the answer was worth, and how many examples the planner was shown."""

    id: str
    plan: str | None
    right: float
    shown: int


@dataclass(frozen=True, slots=True)
class Learnt:
    """The memory after the questions that were learnt from, the first try of each in their order, and the tries that followed where that
    was wrong. `gain`: how much more often `held` other questions were right with examples than without (mean, low, high)."""

    memory: Memory
    first: tuple[Tried, ...]
    more: tuple[Tried, ...]
    gain: tuple[float, float, float]
    held: int

    @property
    def installed(self) -> bool:
        """Whether it is shown that examples help."""
        return self.gain[1] > 0

    def lines(self) -> Iterator[str]:
        """For people."""
        rights = [one.right for one in self.first]
        half = len(rights) // 2
        yield f"{len(rights)} questions, {sum(rights):g} right at the first try"
        if half:
            first, second = np.mean(rights[:half]), np.mean(rights[half:])
            yield f"  first half {first:.1%}, second half {second:.1%} (other questions: no test of anything)"
        yield f"  {len(self.more)} more plans were tried where the first was wrong, {sum(one.right for one in self.more):g} of them right"
        mean, low, high = self.gain
        yield f"  with examples - without: {100 * mean:+.1f} points [{100 * low:+.1f}, {100 * high:+.1f}] on {self.held} held-out questions"
        kept = (
            f"{len(self.memory)} plans are remembered"
            if self.installed
            else "nothing is remembered: that they help is not shown"
        )
        yield f"  {kept}"


@dataclass(slots=True)
class Learner:
    """Plans questions in the pipeline `by`, open meanwhile, and remembers what came of it. Raises InputError where that pipeline
    plans nothing."""

    pipeline: Pipeline
    by: str
    memory: Memory = field(default_factory=Memory)
    draws: int = DRAWS
    kit: Kit = field(init=False)
    planner: str = field(init=False)
    most: int = field(init=False)

    def __post_init__(self) -> None:
        self.kit, steps = self.pipeline.kit_of(self.by)
        options: Mapping[str, Any] | None = next((step.options for step in steps if step.use == PLAN), None)
        if options is None:
            raise InputError(
                "this pipeline plans nothing",
                where=f"{self.pipeline.settings.path} ({self.by})",
                remedy="write `- {use: plan, options: {planner: NAME}}` after `decide`",
            )
        self.planner, self.most = str(options["planner"]), int(options.get("examples", MOST))

    async def learn(self, rows: Sequence[Labelled], run: str) -> tuple[list[Tried], list[Tried]]:
        """Plan these questions with what is remembered, and remember the plans that were right; where the first was wrong, others are
        drawn. Returns the first try of each, and the others. Raises what asking raises."""
        vectors = await asyncio.to_thread(self.kit.encoder().encode, [row.question.text for row in rows])
        examples = self.memory.examples(vectors, self.most)
        first = await self.attempt(rows, examples, run)
        left = [place for place, tried in enumerate(first) if tried.right < 1]
        told = list(enumerate(first))
        for draw in range(1, self.draws + 1):
            if not left:
                break
            own = await self.attempt(
                [rows[place] for place in left], [examples[place] for place in left], run, sample=draw
            )
            told += zip(left, own, strict=True)
            left = [place for place, tried in zip(left, own, strict=True) if tried.right < 1]
        kept = [(place, tried.plan, tried.right) for place, tried in told if tried.plan is not None and tried.right > 0]
        self.memory = self.memory.learn(
            [rows[place].question.text for place, *_ in kept],
            [plan for _, plan, _ in kept],
            [right for *_, right in kept],
            vectors[[place for place, *_ in kept]],
        )
        return first, [tried for _, tried in told[len(rows) :]]

    async def attempt(
        self, rows: Sequence[Labelled], examples: Sequence[Sequence[Example]], run: str, *, sample: int = 0
    ) -> list[Tried]:
        """Plan these questions, each after its examples, and follow the plans; remember nothing."""
        queries = [Query(row.question.id, row.question.text, kind=row.question.kind) for row in rows]
        state = State.of(tuple(queries), f"{run}-{sample}")
        update = await planned(
            self.kit,
            self.planner,
            state,
            dict(enumerate(examples)),
            sample=sample,
            temperature=WARM if sample else None,
        )
        state = state.apply(update)
        alone = [place for place in range(len(rows)) if not state.replies[place]]
        found = await self.kit.solve([queries[place] for place in alone], {}, run) if alone else None
        texts = {place: _answer(state, place) for place in range(len(rows)) if state.replies[place]}
        if found is not None:
            texts |= {place: _answer(found, own) for own, place in enumerate(alone)}
        return [
            Tried(row.question.id, _plan(state, place), _worth(row, texts[place]), len(examples[place]))
            for place, row in enumerate(rows)
        ]


def learn_plans(
    pipeline: Pipeline, rows: Sequence[Labelled], *, by: str | None = None, say: Callable[[str], None] = lambda _: None
) -> Learnt:
    """Go through labelled questions in their order, `BATCH` at a time, but for a held-out fifth (seeded, near-duplicates together), on which
    the planner is then tried with examples and without. What was learnt is kept for the pipeline's registry where the paired interval of what
    examples gain lies above 0; what was kept before is gone either way. `by`: the pipeline that plans (None: the first one that does). Rows
    with options or tests, and of the split `test`, are left out. Raises InputError where fewer than `LEAST` are left, or no pipeline plans."""
    own = [
        row
        for row in rows
        if row.split != "test" and splits(Query(row.question.id, row.question.text, row.question.choices))
    ]
    if len(own) < LEAST:
        raise InputError(
            f"{len(own)} of {len(rows)} questions can be planned, expected at least {LEAST}",
            where="--plans",
            remedy="give questions without options that are not of the split `test`",
        )
    first: list[Tried] = []
    more: list[Tried] = []
    with pipeline:
        learner = Learner(pipeline, by or planning(pipeline))
        vectors = pipeline.encoder().encode([row.question.text for row in own])
        held = calibration_split([row.question.id for row in own], vectors)
        if not held.any():
            raise InputError(
                "all questions are near-duplicates of each other: none can be held out",
                where="--plans",
                remedy="give questions that differ in more than their numbers",
            )
        learn, check = ([row for row, away in zip(own, held, strict=True) if away == part] for part in (False, True))
        for at in range(0, len(learn), BATCH):
            tried, others = pipeline.complete(learner.learn(learn[at : at + BATCH], f"plans-{at}"))
            first += tried
            more += others
            say(f"{len(first)} of {len(learn)} questions, {sum(one.right for one in first):g} right at the first try")
        examples = learner.memory.examples(vectors[held], learner.most)
        without = pipeline.complete(learner.attempt(check, [()] * len(check), "plans-without"))
        with_them = pipeline.complete(learner.attempt(check, examples, "plans-with"))
        pairs = (np.array([one.right for one in tried]) for tried in (with_them, without))
        learnt = Learnt(learner.memory, tuple(first), tuple(more), paired_difference(*pairs), len(check))
        kept = learnt.memory if learnt.installed else Memory()
        registry = pipeline.registry
        whose = planner_print(registry, learner.planner)
        write_memory(plans_folder(registry), kept, encoder=registry.encoder_sha, planner=whose)
    return learnt


def planning(pipeline: Pipeline) -> str:
    """The first pipeline of the registry that plans. Raises InputError where none does."""
    for name, steps in ((AUTO, pipeline.settings.pipeline), *pipeline.settings.pipelines.items()):
        if any(step.use == PLAN for step in steps):
            return name
    raise InputError(
        "no pipeline of this registry plans",
        where=str(pipeline.settings.path),
        remedy="write `- {use: plan, options: {planner: NAME}}` after `decide`",
    )


def _plan(state: State, place: int) -> str | None:
    """The text of the plan that was followed to its end; that of one without steps too."""
    told = state.planned[place]
    if told is not None and told.why:
        return None
    drafts = [one.draft for one in state.beside[place] if one.role == "plan"]
    try:
        return read(drafts[-1].text).text if drafts and drafts[-1].ok else None
    except PlanError:
        return None


def _answer(state: State, place: int) -> tuple[str, bool]:
    """The text of the answer, and whether it is whole: of the last step of a plan, else of the pipeline's answer, whoever settled
    it."""
    if state.planned[place] is not None:
        return next(((one.said, one.draft.ok) for one in state.replies[place]), ("", False))
    answer = state.answers[place]
    return answer.text, answer.status != "failed"


def _worth(row: Labelled, answer: tuple[str, bool]) -> float:
    return float(mark(row, *answer)[1] or 0.0)
