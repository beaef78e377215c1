"""Questions that need two skills, one expert's result being the next one's input; and the plans that solve them.

Made by rule like the skills: `add-convert` (a sum or difference, then units), `convert-add` (units, then a sum or
difference) and `extract-add` (an age or a number of nights out of a text, then years or nights more or fewer). No question
is in words of a skill's own. A plan's steps are put as their specialists know them, and `{1.age}` is what a step gave.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from random import Random

from evals.tasks.skills.item import Item, Lesson, Problem, Skill, Split, Wordings, lessons
from evals.tasks.skills.shapes import DOMAINS
from evals.tasks.skills.units import PAIRS

FORMS = ("add-convert", "convert-add", "extract-add")
_SMALLEST, _LARGEST = 2, 99
_COUNTED = {"person": ("age", "years"), "booking": ("nights", "nights")}

WORDINGS = {
    "add-convert-plus": Wordings(
        train=(
            "add {a} and {b} and convert that many {f} to {t}.",
            "one part takes {a} {f} and the other {b} {f}. How many {t} is that together?",
            "first add {a} {f} and {b} {f}, then give the result in {t}.",
            "{a} {f} plus {b} {f}: how many {t}?",
            "I have {a} {f} and get {b} {f} more. What is that in {t}?",
            "what are {a} {f} and another {b} {f}, in {t}?",
            "sum up {a} {f} and {b} {f} and tell me the {t}.",
            "how many {t} are {a} {f} and {b} {f} in total?",
        ),
        held=("put {a} {f} and {b} {f} together and express it in {t}.",),
        test=(
            "on Monday we used {a} {f}, on Tuesday {b} {f}. How many {t} did we use?",
            "what do {a} {f} and {b} {f} make if you count in {t}?",
            "take {a} {f}, put {b} {f} on top, and tell me how many {t} there are.",
        ),
    ),
    "add-convert-minus": Wordings(
        train=(
            "subtract {b} from {a} and convert that many {f} to {t}.",
            "of {a} {f} {b} {f} are gone. How many {t} are left?",
            "first take {b} {f} from {a} {f}, then give the result in {t}.",
            "{a} {f} minus {b} {f}: how many {t}?",
            "I had {a} {f} and gave away {b} {f}. What is left, in {t}?",
            "take {b} {f} off {a} {f} and tell me the {t}.",
            "how many {t} remain of {a} {f} without {b} {f}?",
        ),
        held=("{b} {f} of {a} {f} are used up. Express the rest in {t}.",),
        test=(
            "we started with {a} {f} and used {b} {f}. How many {t} do we still have?",
            "what remains of {a} {f} once {b} {f} are spent, counted in {t}?",
            "remove {b} {f} from {a} {f}, and tell me how many {t} there are.",
        ),
    ),
    "convert-add-plus": Wordings(
        train=(
            "convert {x} {f} to {t} and add {b}.",
            "how many {t} are {x} {f} and {b} {t}?",
            "{x} {f} and then {b} {t} more: how many {t} in all?",
            "first give {x} {f} in {t}, then add {b} to it.",
            "I have {x} {f} and {b} {t}. How many {t} is that?",
            "write {x} {f} as {t} and put {b} {t} on top.",
            "what is {x} {f} in {t}, plus {b}?",
        ),
        held=("turn {x} {f} into {t} and raise it by {b}.",),
        test=(
            "a trip of {x} {f} became {b} {t} longer. How many {t} was it?",
            "count {x} {f} in {t} and then {b} {t} extra. What do you get?",
            "in {t}, how much are {x} {f} together with {b} {t}?",
        ),
    ),
    "convert-add-minus": Wordings(
        train=(
            "convert {x} {f} to {t} and subtract {b}.",
            "how many {t} are {x} {f} without {b} {t}?",
            "{x} {f} less {b} {t}: how many {t} remain?",
            "first give {x} {f} in {t}, then take {b} from it.",
            "I had {x} {f} and lost {b} {t}. How many {t} are left?",
            "write {x} {f} as {t} and take {b} {t} off.",
            "what is {x} {f} in {t}, minus {b}?",
        ),
        held=("turn {x} {f} into {t} and lower it by {b}.",),
        test=(
            "a trip of {x} {f} became {b} {t} shorter. How many {t} was it?",
            "count {x} {f} in {t} and leave out {b} {t}. What do you get?",
            "in {t}, how much are {x} {f} when {b} {t} are missing?",
        ),
    ),
    "extract-add-plus": Wordings(
        train=(
            "{s} What will the {n} be when {b} {u} are added?",
            "{s} Add {b} to the {n}.",
            "{s} How much is the {n} plus {b}?",
            "read this and add {b} {u} to the {n}: {s}",
            "take the {n} from this text and add {b}: {s}",
            "what is the {n} with {b} {u} more? {s}",
        ),
        held=("{s} Raise the {n} by {b} {u}.",),
        test=(
            "{s} What is the {n} if it goes up by {b} {u}?",
            "look at this: {s} Now make the {n} {b} {u} more. What is it?",
            "with {b} {u} on top, what {n} do we get? {s}",
        ),
    ),
    "extract-add-minus": Wordings(
        train=(
            "{s} What will the {n} be when {b} {u} are taken off?",
            "{s} Subtract {b} from the {n}.",
            "{s} How much is the {n} minus {b}?",
            "read this and take {b} {u} from the {n}: {s}",
            "take the {n} from this text and subtract {b}: {s}",
            "what is the {n} with {b} {u} less? {s}",
        ),
        held=("{s} Lower the {n} by {b} {u}.",),
        test=(
            "{s} What is the {n} if it goes down by {b} {u}?",
            "look at this: {s} Now make the {n} {b} {u} less. What is it?",
            "with {b} {u} left out, what {n} do we get? {s}",
        ),
    ),
}


def twoskill(split: Split, n: int, seed: int = 0) -> list[Item]:
    """`n` questions of all three forms, whose answers are numbers.

    >>> twoskill("test", 1)[0].kind
    'number'
    """
    return [lesson.item for lesson in teach(split, n, seed)]


def teach(split: Split, n: int, seed: int = 0) -> list[Lesson]:
    """The same questions with the plan that solves each, as JSON."""
    return lessons(SKILL, split, n, seed)


def draw(rng: Random, split: Split) -> Problem:
    """One question: a third of each form, and of each a half with plus and with minus."""
    return draw_form(rng.choice(FORMS), rng, split)


def draw_form(form: str, rng: Random, split: Split) -> Problem:
    """One question of a form."""
    sign = rng.choice("+-")
    if form == "extract-add":
        return _extracted(rng, split, sign)
    pair = rng.choice(PAIRS)
    return _added(rng, pair, sign) if form == "add-convert" else _converted(rng, pair, sign)


def _added(rng: Random, pair: tuple[str, str, str, str, int, int], sign: str) -> Problem:
    _, larger, _, smaller, factor, most = pair
    worth = rng.randint(4, most)
    other = rng.randint(_SMALLEST, worth - _SMALLEST) if sign == "+" else rng.randint(_SMALLEST, _LARGEST - worth)
    first = worth - other if sign == "+" else worth + other
    steps = [f"{first} {sign} {other}", f"{{1}} {larger} in {smaller}"]
    slots = {"a": str(first), "b": str(other), "f": larger, "t": smaller}
    return _problem("add-convert", sign, f"{first}{sign}{other} {larger} in {smaller}", slots, worth * factor, steps)


def _converted(rng: Random, pair: tuple[str, str, str, str, int, int], sign: str) -> Problem:
    _, larger, _, smaller, factor, most = pair
    while factor * _SMALLEST > _LARGEST - _SMALLEST:  # then the sum is one of two digits
        _, larger, _, smaller, factor, most = rng.choice(PAIRS)
    value = rng.randint(_SMALLEST, min(most, (_LARGEST - _SMALLEST) // factor))
    total = value * factor
    other = rng.randint(_SMALLEST, _LARGEST - total) if sign == "+" else rng.randint(1, total - 1)
    steps = [f"{value} {larger} in {smaller}", f"{{1}} {sign} {other}"]
    slots = {"x": str(value), "b": str(other), "f": larger, "t": smaller}
    worth = total + other if sign == "+" else total - other
    return _problem("convert-add", sign, f"{value} {larger} in {smaller} {sign}{other}", slots, worth, steps)


def _extracted(rng: Random, split: Split, sign: str) -> Problem:
    name = rng.choice(list(_COUNTED))
    domain = next(one for one in DOMAINS if one.name == name)
    wanted, unit = _COUNTED[name]
    facts = {field: rng.choice(pool) for field, pool in domain.fields.items()}
    value = facts[wanted]
    assert isinstance(value, int)
    most = _LARGEST - value if name == "person" else 20
    other = rng.randint(_SMALLEST, most) if sign == "+" else rng.randint(1, value - 1)
    text = rng.choice(domain.shapes.of(split)).format_map({field: str(fact) for field, fact in facts.items()})
    steps = [extraction_of(facts, wanted, text), f"{{1.{wanted}}} {sign} {other}"]
    slots = {"s": text, "n": wanted if wanted == "age" else f"number of {wanted}", "b": str(other), "u": unit}
    worth = value + other if sign == "+" else value - other
    return _problem("extract-add", sign, f"{name}{json.dumps(facts, sort_keys=True)}", slots, worth, steps)


def extraction_of(facts: Mapping[str, object], wanted: str, text: str) -> str:
    """The step that reads a field out of a text, with two others: the specialist was taught three fields and more."""
    beside = [field for field in facts if field != wanted][:2]
    return f"Extract {', '.join(beside)} and {wanted} as JSON: {text}"


def _problem(form: str, sign: str, key: str, slots: dict[str, str], worth: int, steps: Sequence[str]) -> Problem:
    form = f"{form}-{'plus' if sign == '+' else 'minus'}"
    return Problem(form, key, slots, str(worth), "number", plan_of(steps))


def plan_of(steps: Sequence[str]) -> str:
    """The plan of these steps as JSON: extractions give objects, all others numbers.

    >>> plan_of(["3 + 4"])
    '{"steps":[{"ask":"3 + 4","gives":"number"}]}'
    """
    told = [{"ask": ask, "gives": "json" if ask.startswith("Extract ") else "number"} for ask in steps]
    return json.dumps({"steps": told}, ensure_ascii=False, separators=(",", ":"))


SKILL = Skill("twoskill", "twoskill", draw, WORDINGS)
