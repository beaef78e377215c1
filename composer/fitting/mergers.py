"""`coe fit answers --mergers`: which expert makes a right answer of one right and two wrong responses, task by task."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random

import numpy as np
from numpy.typing import NDArray

from composer.answers.merge import merge_request
from composer.asker import Asker
from composer.errors import InputError
from composer.jsonl import Labelled
from composer.marks import mark
from composer.pipeline import Pipeline
from composer.places import mergers_folder
from composer.profile import Profile
from composer.records.mergers import ALL, Merger, Mergers, write_mergers
from composer.stages.asking import asking
from composer.state import lettered
from composer.types import Draft, Request
from routers.stats import bootstrap_interval, calibration_split
from routers.types import Outcomes, Questions

Column = NDArray[np.float64]

EVERY = "all"
MOST = 40
"""Prompts of a task, where nobody says."""
_LEAST = 20  # prompts of a task, under which the best of several is luck
_WRONG = 2  # responses beside the right one (METHODS A.9)
_FAILED = 0.1  # share of questions that may have a call without a reply


@dataclass(frozen=True, slots=True)
class FittedMergers:
    """The choices, over all tasks first; how many questions were `left` out, by reason."""

    choices: tuple[Merger, ...]
    left: Mapping[str, int]

    def lines(self) -> Iterator[str]:
        """For people."""
        for why, count in sorted(self.left.items(), key=lambda pair: -pair[1]):
            yield f"{count} questions left out: {why}"
        for one in self.choices:
            rated = ", ".join(
                f"{name} {share:.0%}" for name, share in sorted(one.rated.items(), key=lambda pair: -pair[1])
            )
            yield f"{one.task or 'all tasks'}: {one.expert}; {one.why}"
            if not one.own:
                yield f"  too few prompts to choose by ({one.prompts} of {_LEAST}): the choice over all tasks is taken"
            if rated:
                yield f"  {rated}"
            if one.rated and one.rated.get(one.expert, 0.0) <= _CHANCE:
                yield "  no more than picking a response at random: leave the merger out, and vote"


_CHANCE = 1 / 3  # one response of three is right


@dataclass(frozen=True, slots=True)
class _Prompt:
    """A question with the arms whose responses are to be merged: the right one, then the wrong ones."""

    item: Labelled
    row: int
    task: str
    arms: tuple[str, ...]

    @property
    def text(self) -> str:
        return lettered(self.item.question.text, self.item.question.choices)


def experts_of(pipeline: Pipeline, names: str) -> list[str]:
    """The experts that are named, parted by commas; all that answer for `all`. Raises InputError for one that is not there."""
    known = [name for name, arm in pipeline.settings.arms.items() if name == arm.expert]
    if names == EVERY:
        return known
    found = list(dict.fromkeys(name.strip() for name in names.split(",") if name.strip()))
    for name in found:
        if name not in known:
            what, remedy = pipeline.settings.unanswering(name, [*known, EVERY])
            raise InputError(what, where="--mergers", remedy=remedy)
    if not found:
        raise InputError("no expert is named", where="--mergers", remedy=f"name some, parted by commas, or {EVERY}")
    return found


def fit_mergers(
    pipeline: Pipeline,
    profile: Profile,
    items: Sequence[Labelled],
    experts: Sequence[str],
    *,
    most: int = MOST,
    say: Callable[[str], None] = lambda _text: None,
) -> FittedMergers:
    """Choose offline, per task, who merges (Symbolic-MoE, Chen et al. 2025; METHODS A.9), and install the choice.

    Of each question of the profile that one arm answered rightly and two wrongly a prompt is made of one right and two wrong
    drafts, `most` of a task; drafts come out of the store, or are drawn again. Every expert merges all of them, in one pass over
    the hosts, and is graded as everywhere (`marks.mark`), by the labels in `items`. The best is chosen on all but the calibration
    fifth, and shown there; a tie goes to the cheaper, then by name. A task of fewer than 20 prompts takes the choice over all.
    Questions that cannot be used are counted: never padded with empty responses. Closes the pipeline. Raises InputError where no
    choice can be made, or many calls fail."""
    registry = pipeline.registry
    prints, prices = registry.prints(), {arm.name: arm.price for arm in registry.arms()}
    left: Counter[str] = Counter()
    prompts = list(_prompts(pipeline, profile, items, most, left))
    with pipeline:
        say(f"{len(prompts)} questions with one right and {_WRONG} wrong responses: their drafts first")
        kept, texts = pipeline.complete(_drafts(pipeline, prompts, left))
        say(f"{len(kept)} prompts, each merged by {', '.join(experts)}")
        kept, right = pipeline.complete(_merges(pipeline, kept, texts, experts, left))
    questions, _ = profile.columns()
    choices = tuple(_chosen(kept, right, experts, prices, questions))
    arms = sorted({*experts, *(arm for one in kept for arm in one.arms)})
    write_mergers(mergers_folder(registry), Mergers(choices, {arm: prints[arm] for arm in arms}))
    return FittedMergers(choices, dict(left))


def _prompts(
    pipeline: Pipeline, profile: Profile, items: Sequence[Labelled], most: int, left: Counter[str]
) -> Iterator[_Prompt]:
    """The prompts that the profile's outcomes promise."""
    plain = {name for name, arm in pipeline.settings.arms.items() if name == arm.expert}
    questions, _ = profile.columns()
    arms = [arm for arm in pipeline.registry.arms() if arm.name in plain & profile.known]
    outcomes = profile.outcomes(questions, arms)
    worth, told = outcomes.matrix(len(questions)), _answered(outcomes, len(questions))
    known = {lettered(item.question.text, item.question.choices): item for item in items}
    many: Counter[str] = Counter()
    for row in Random(0).sample(range(len(questions)), len(questions)):  # `most` of a task are no special ones
        text, task = questions.text[row], questions.skills[row][0] if questions.skills else ""
        item = known.get(text)
        if item is None:
            left["no label is at hand"] += 1
            continue
        if item.question.tests:
            left["it asks for a program, and none is run here"] += 1
            continue
        draw = Random(text)
        right = [arm.name for place, arm in enumerate(arms) if worth[row, place] >= 1]
        wrong = [place for place in range(len(arms)) if worth[row, place] == 0]
        if not right or len(wrong) < _WRONG:
            left[f"it lacks {'a right response' if not right else 'two wrong responses'}"] += 1
            continue
        draw.shuffle(wrong)
        wrong.sort(key=lambda place: not told[row, place])  # of those without an answer nobody would ask a merger
        if not told[row, wrong[0]]:
            left["only the right response holds an answer"] += 1
            continue
        if many[task] >= most:
            left[f"there are {most} of its task already"] += 1
            continue
        many[task] += 1
        yield _Prompt(item, row, task, (draw.choice(right), *(arms[place].name for place in wrong[:_WRONG])))


def _answered(outcomes: Outcomes, n: int) -> NDArray[np.bool_]:
    """[question, arm]: whether an answer could be read."""
    found = np.zeros((n, len(outcomes.arms)), dtype=bool)
    for question, arm, answer in zip(outcomes.question, outcomes.arm, outcomes.answer, strict=True):
        found[question, arm] = answer is not None
    return found


async def _drafts(
    pipeline: Pipeline, prompts: Sequence[_Prompt], left: Counter[str]
) -> tuple[list[_Prompt], list[list[str]]]:
    """The prompts whose drafts are still what the profile says of them, with the texts. In the store they are where the profile
    was measured here; one that is drawn again by another release of an engine may differ."""
    registry = pipeline.registry
    requests: dict[tuple[int, str], Request] = {}
    for one in prompts:
        for arm in one.arms:
            stream = registry.stream(arm, registry.messages(arm, one.text))
            name = f"{one.row}:{arm}:0"
            requests[one.row, arm] = Request(name, (stream,), registry.sampling(arm), arm=arm, parent=str(one.row))
    drafts = await asking(pipeline.pool)(list(requests.values()))
    kept, texts = [], []
    for one in prompts:
        own = [drafts[requests[one.row, arm].id] for arm in one.arms]
        if not all(draft.ok and draft.text.strip() for draft in own):
            left["a response is empty, cut off or failed"] += 1
        elif [mark(one.item, draft.text, True)[1] == 1 for draft in own] != [True] + [False] * _WRONG:
            left["a response that was drawn again is not what the profile says"] += 1
        else:
            kept.append(one)
            texts.append([draft.text for draft in own])
    return kept, texts


async def _merges(
    pipeline: Pipeline,
    prompts: Sequence[_Prompt],
    texts: Sequence[Sequence[str]],
    experts: Sequence[str],
    left: Counter[str],
) -> tuple[list[_Prompt], Column]:
    """The prompts that every expert has merged, and which of the merged answers are right: [prompt, expert]."""
    if not prompts:
        raise InputError(
            f"no prompt of one right and {_WRONG} wrong responses: {_told(left)}",
            remedy="give the labelled questions that were profiled: --labelled FILE",
        )
    asked = [
        [merge_request(pipeline.registry, expert, one.text, own, Asker(str(one.row))) for expert in experts]
        for one, own in zip(prompts, texts, strict=True)
    ]
    drafts = await asking(pipeline.pool)([request for own in asked for request in own])
    replies = [[drafts[request.id] for request in own] for own in asked]
    whole = [place for place, own in enumerate(replies) if all(_replied(draft) for draft in own)]
    if len(whole) < (1 - _FAILED) * len(prompts):
        errors = (draft.error for own in replies for draft in own)
        first = next((error.message for error in errors if error is not None), "they were cut short")
        raise InputError(
            f"{len(prompts) - len(whole)} of {len(prompts)} prompts have a merge that failed: {first}",
            remedy="coe experts check",
        )
    if len(whole) < len(prompts):
        left["a merge failed"] += len(prompts) - len(whole)
    right = [[mark(prompts[place].item, draft.text, draft.ok)[1] or 0.0 for draft in replies[place]] for place in whole]
    return [prompts[place] for place in whole], np.array(right, dtype=np.float64)


def _replied(draft: Draft) -> bool:
    return draft.error is None and draft.stop != "cancelled"


def _told(left: Mapping[str, int]) -> str:
    return "; ".join(f"{count}: {why}" for why, count in left.items()) or "the profile has no questions"


def _chosen(
    prompts: Sequence[_Prompt],
    right: Column,
    experts: Sequence[str],
    prices: Mapping[str, float],
    questions: Questions,
) -> Iterator[Merger]:
    """The choice over all tasks, then that of each."""
    rows = [one.row for one in prompts]
    held = calibration_split([questions.ids[row] for row in rows], questions.vectors[rows])
    tasks = np.array([one.task for one in prompts], dtype=object)
    if (many := int((~held).sum())) < _LEAST:
        raise InputError(
            f"{many} prompts are too few to choose a merger by: {_LEAST} are needed",
            remedy="measure more questions with `coe profile`, and give them: --labelled FILE",
        )
    order = sorted(range(len(experts)), key=lambda place: (prices[experts[place]], experts[place]))
    overall = _best(ALL, right[~held], right[held], experts, order)
    yield overall
    for task in sorted(set(tasks)):
        learn, check = right[~held & (tasks == task)], right[held & (tasks == task)]
        own = _best(task, learn, check, experts, order if len(learn) >= _LEAST else [experts.index(overall.expert)])
        yield own


def _best(task: str, learn: Column, check: Column, experts: Sequence[str], among: Sequence[int]) -> Merger:
    """The best of the experts at the places `among`, the first of equal ones."""
    means = learn.mean(axis=0) if len(learn) else np.zeros(len(experts))
    best = max(among, key=lambda place: means[place])
    low, high = bootstrap_interval(check[:, best]) if len(check) else (None, None)
    return Merger(
        task,
        experts[best],
        float(means[best]),
        len(learn),
        {name: float(mean) for name, mean in zip(experts, means, strict=True)},
        len(check),
        float(check[:, best].mean()) if len(check) else None,
        low,
        high,
        own=len(learn) >= _LEAST,
    )
