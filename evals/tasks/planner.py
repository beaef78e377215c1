"""What a planner is taught: questions of two skills with the plans that solve them, and questions that need no plan.

Half of the lessons show solved questions first (`composer.planning.examples`). Where one of them is of the question's own form, the
plan to be written puts its steps as that example does: so a planner learns to follow examples, and can be shown
forms of questions, and ways of asking, that it was never taught.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from random import Random
from typing import NamedTuple

from composer.planning.examples import MOST, Example, shown
from evals.tasks.skills import DEFAULT
from evals.tasks.skills import teach as skill_lessons
from evals.tasks.skills.item import Lesson, Skill, lessons
from evals.tasks.twoskill import FORMS, WORDINGS, draw_form
from evals.tasks.twoskill_new import CHAIN
from evals.tasks.twoskill_new import teach as teach_new

NOTHING = '{"steps":[]}'
"""The plan of a question that one expert answers as it stands."""
_ALIKE = 0.85  # of the lessons with examples have one of their own form
_OWN = 0.3  # of them put their steps as lessons without examples do
_ALIEN = 4  # one lesson of so many with examples is of a form that comes with examples only


class Way(NamedTuple):
    """How steps are put: sums, differences, conversions, extractions."""

    plus: str
    minus: str
    convert: str
    extract: str


USUAL = Way("{a} + {b}", "{a} - {b}", "{v} {f} in {t}", "Extract {n} as JSON: {s}")
WAYS = (
    USUAL,
    Way("Add {b} to {a}.", "Subtract {b} from {a}.", "Convert {v} {f} to {t}.", "Give {n} as JSON. {s}"),
    Way(
        "What is {a} plus {b}?",
        "What is {a} minus {b}?",
        "How many {t} are {v} {f}?",
        "Read {n} out of this as JSON: {s}",
    ),
    Way("sum: {a} and {b}", "difference: {a} and {b}", "{v} {f} = ? {t}", "JSON with {n} of: {s}"),
    Way("calculate {a} + {b}", "calculate {a} - {b}", "change {v} {f} into {t}", "{s} Return {n} as JSON."),
)
_STEPS = (
    (re.compile(r"(?P<a>\S+) \+ (?P<b>\S+)"), "plus"),
    (re.compile(r"(?P<a>\S+) - (?P<b>\S+)"), "minus"),
    (re.compile(r"Extract (?P<n>.+?) as JSON: (?P<s>.+)"), "extract"),
    (re.compile(r"(?P<v>\S+) (?P<f>\S+) in (?P<t>\S+)"), "convert"),
)


def put(plan: str, way: Way) -> str:
    """The plan with its steps put another way.

    >>> put('{"steps":[{"ask":"3 + 4","gives":"number"}]}', WAYS[1])
    '{"steps":[{"ask":"Add 4 to 3.","gives":"number"}]}'
    """
    told = json.loads(plan)
    for step in told["steps"]:
        match, name = next((match, name) for pattern, name in _STEPS if (match := pattern.fullmatch(step["ask"])))
        step["ask"] = getattr(way, name).format_map(match.groupdict())
    return json.dumps(told, ensure_ascii=False, separators=(",", ":"))


def plans(n: int, seed: int = 0, share: float = 0.5) -> list[Lesson]:
    """`n` lessons, of which `share` have examples: two of three are questions of two skills, the others need no plan, which is one
    without steps."""
    rng = Random(f"planner/{seed}")
    pools = {form: _of_form(form, n, seed) for form in (*FORMS, CHAIN)}
    alone = [
        replace(one, target=NOTHING) for skill in DEFAULT for one in skill_lessons(skill, "train", n // 4 + MOST, seed)
    ]
    rng.shuffle(alone)
    found = [_lesson(rng, place, pools, alone, rng.random() < share) for place in range(n)]
    return [
        replace(one, item=replace(one.item, id=f"planner-{place:05d}", answer=one.target, kind="json", task="planner"))
        for place, one in enumerate(found)
    ]


def _lesson(
    rng: Random, place: int, pools: Mapping[str, Sequence[Lesson]], alone: Sequence[Lesson], more: bool
) -> Lesson:
    form = rng.choice(FORMS) if place % 3 else None
    if not more:
        return rng.choice(pools[form]) if form else rng.choice(alone)
    if form and not rng.randrange(_ALIEN):
        form = CHAIN
    way = USUAL if rng.random() < _OWN else rng.choice(WAYS[1:])
    lesson = rng.choice(pools[form] if form else alone)
    examples = [
        rng.choice(pools[rng.choice(FORMS)] if rng.random() < 2 / 3 else alone) for _ in range(rng.randrange(MOST + 1))
    ]
    alike = form is not None and (form == CHAIN or rng.random() < _ALIKE)
    if alike:
        assert form is not None
        examples = [*examples[: MOST - 1], rng.choice(pools[form])]
        rng.shuffle(examples)
    followed = way if alike else USUAL
    seen = [
        Example(one.item.question, put(one.target, followed))
        for one in examples
        if one.item.question != lesson.item.question
    ]
    return replace(
        lesson,
        item=replace(lesson.item, question=shown(lesson.item.question, seen)),
        target=put(lesson.target, followed),
    )


def _of_form(form: str, n: int, seed: int) -> list[Lesson]:
    if form == CHAIN:
        return teach_new(CHAIN, "train", n, seed)
    return lessons(Skill("twoskill", f"plan-{form}", partial(draw_form, form), WORDINGS), "train", n, seed)
