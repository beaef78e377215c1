"""Forms of questions that a planner is not taught as it is taught those of `twoskill`: it has to follow examples.

`chain` (two sums one after the other) comes in its lessons with examples only; `extract-convert` (an age or a stay out of a text, then
its months or hours) and `extract-times` (a price and a number of pieces out of a text, multiplied) in none.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from random import Random

from evals.tasks.skills.item import Lesson, Problem, Skill, Split, Wordings, lessons
from evals.tasks.skills.shapes import DOMAINS
from evals.tasks.twoskill import extraction_of, plan_of

CHAIN, EXTRACT, TIMES = "chain", "extract-convert", "extract-times"
NEW = (EXTRACT, TIMES)
"""Those that no lesson shows."""
_LARGEST = 99
_PRICES = (12, 15, 18, 19, 21, 24, 25, 32, 35, 40, 45, 48, 60, 75)
_ASKED = {  # the field, its unit and the one asked for, how many, and the largest value that the specialist was taught
    "person": ("age", "years", "months", 12, 30),
    "booking": ("nights", "days", "hours", 24, 12),
}

WORDINGS: Mapping[str, Wordings] = {
    CHAIN: Wordings(
        train=(
            "how much are {a} and {b}, if you then {verb}?",
            "what is {a} plus {b}, {word} {c}?",
            "add {a} and {b}, then {verb}.",
            "{a} + {b} {sign} {c}",
            "first {a} plus {b}; then {verb}. What is left in the end?",
        ),
        held=("take {a}, put {b} on top and {verb}.",),
        test=(
            "start at {a}, go up by {b} and {verb}: where are you?",
            "{a} people came, then {b} more. Now {verb}. How many is that?",
            "put {a} and {b} together and {verb}.",
        ),
    ),
    EXTRACT: Wordings(
        train=(
            "{s} How many {t} is the {n}?",
            "{s} Give the {n} in {t}.",
            "take the {n} from this text and convert it to {t}: {s}",
            "what is the {n} in {t}? {s}",
        ),
        held=("{s} Write the {n} as {t}.",),
        test=(
            "{s} What is the {n} if you count in {t}?",
            "look at this: {s} Now express the {n} in {t}.",
            "in {t}, how long is the {n}? {s}",
        ),
    ),
    TIMES: Wordings(
        train=(
            "{s} What do all of them cost?",
            "{s} How much is the price times the stock?",
            "what are all pieces of this worth? {s}",
        ),
        held=("{s} Multiply the price by the stock.",),
        test=(
            "{s} What would I pay for every single one?",
            "look at this: {s} Somebody buys them all. What is the bill?",
            "how much money is the whole stock? {s}",
        ),
    ),
}


def teach(form: str, split: Split, n: int, seed: int = 0) -> list[Lesson]:
    """`n` questions of one of these forms, each with the plan that solves it.

    >>> teach(TIMES, "test", 1)[0].item.kind
    'number'
    """
    draw = {CHAIN: chain, EXTRACT: extracted, TIMES: times}[form]
    return lessons(Skill(form, form, draw, WORDINGS), split, n, seed)


def chain(rng: Random, _split: Split) -> Problem:
    """a + b, and then c more or less."""
    first = rng.randint(4, 60)
    other = rng.randint(2, 80 - first)
    sign = rng.choice("+-")
    third = rng.randint(2, _LARGEST - first - other) if sign == "+" else rng.randint(2, first + other - 1)
    words = {"+": ("plus", f"add {third}"), "-": ("minus", f"take {third} away")}[sign]
    slots = {"a": str(first), "b": str(other), "c": str(third), "sign": sign, "word": words[0], "verb": words[1]}
    worth = first + other + (third if sign == "+" else -third)
    plan = plan_of([f"{first} + {other}", f"{{1}} {sign} {third}"])
    return Problem(CHAIN, f"{first}+{other}{sign}{third}", slots, str(worth), "number", plan)


def times(rng: Random, split: Split) -> Problem:
    """A price and a number of pieces out of a text, multiplied."""
    domain = next(one for one in DOMAINS if one.name == "product")
    facts = {field: rng.choice(pool) for field, pool in domain.fields.items()}
    facts["price"], facts["stock"] = rng.choice(_PRICES), rng.randint(2, 9)
    text = rng.choice(domain.shapes.of(split)).format_map({field: str(fact) for field, fact in facts.items()})
    plan = plan_of([f"Extract item, price and stock as JSON: {text}", "{1.price} * {1.stock}"])
    worth = int(facts["price"]) * int(facts["stock"])
    return Problem(TIMES, f"product{json.dumps(facts, sort_keys=True)}", {"s": text}, str(worth), "number", plan)


def extracted(rng: Random, split: Split) -> Problem:
    """A field out of a text into a smaller unit."""
    name = rng.choice(list(_ASKED))
    wanted, unit, smaller, factor, most = _ASKED[name]
    domain = next(one for one in DOMAINS if one.name == name)
    facts = {
        field: rng.choice([one for one in pool if field != wanted or int(one) <= most])
        for field, pool in domain.fields.items()
    }
    text = rng.choice(domain.shapes.of(split)).format_map({field: str(fact) for field, fact in facts.items()})
    slots = {"s": text, "n": wanted if wanted == "age" else f"number of {wanted}", "t": smaller}
    plan = plan_of([extraction_of(facts, wanted, text), f"{{1.{wanted}}} {unit} in {smaller}"])
    return Problem(
        EXTRACT, f"{name}{json.dumps(facts, sort_keys=True)}", slots, str(int(facts[wanted]) * factor), "number", plan
    )
