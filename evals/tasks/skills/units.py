"""Conversions between everyday units whose answers are whole numbers.

Promise: 2..50 of the larger unit into the smaller (7 hours are 420 minutes), and back
where the factor divides easily (not 14, 16, 24). Both directions of one fact are one
problem. The specialist multiplies and divides by parts: tens first, then ones.
"""

from __future__ import annotations

from random import Random

from evals.tasks.skills.item import Problem, Skill, Split, Wordings

#: larger unit, smaller unit (singular and plural), how many, and the largest value asked
PAIRS: tuple[tuple[str, str, str, str, int, int], ...] = (
    ("hour", "hours", "minute", "minutes", 60, 50),
    ("minute", "minutes", "second", "seconds", 60, 50),
    ("day", "days", "hour", "hours", 24, 20),
    ("week", "weeks", "day", "days", 7, 50),
    ("year", "years", "month", "months", 12, 30),
    ("decade", "decades", "year", "years", 10, 50),
    ("foot", "feet", "inch", "inches", 12, 30),
    ("yard", "yards", "foot", "feet", 3, 50),
    ("metre", "metres", "centimetre", "centimetres", 100, 50),
    ("kilometre", "kilometres", "metre", "metres", 1000, 50),
    ("centimetre", "centimetres", "millimetre", "millimetres", 10, 50),
    ("metre", "metres", "millimetre", "millimetres", 1000, 50),
    ("kilogram", "kilograms", "gram", "grams", 1000, 50),
    ("tonne", "tonnes", "kilogram", "kilograms", 1000, 50),
    ("gram", "grams", "milligram", "milligrams", 1000, 50),
    ("litre", "litres", "millilitre", "millilitres", 1000, 50),
    ("pound", "pounds", "ounce", "ounces", 16, 20),
    ("stone", "stone", "pound", "pounds", 14, 20),
    ("gallon", "gallons", "quart", "quarts", 4, 50),
    ("quart", "quarts", "pint", "pints", 2, 50),
    ("dollar", "dollars", "cent", "cents", 100, 50),
    ("dozen", "dozen", "piece", "pieces", 12, 30),
)

_ONE_WAY = (14, 16, 24)
_ROUND = (10, 100, 1000)
_HARDER = PAIRS + 2 * tuple(pair for pair in PAIRS if pair[4] not in (2, *_ROUND))

#: other ways to write a unit; the specialist answers with the full name
_SHORT = {
    "hours": ("hours", "h", "hrs"),
    "minutes": ("minutes", "min", "mins"),
    "seconds": ("seconds", "s", "sec"),
    "feet": ("feet", "ft"),
    "yards": ("yards", "yd"),
    "metres": ("metres", "meters", "m"),
    "centimetres": ("centimetres", "centimeters", "cm"),
    "millimetres": ("millimetres", "millimeters", "mm"),
    "kilometres": ("kilometres", "kilometers", "km"),
    "kilograms": ("kilograms", "kg", "kilos"),
    "grams": ("grams", "g"),
    "milligrams": ("milligrams", "mg"),
    "litres": ("litres", "liters", "l"),
    "millilitres": ("millilitres", "milliliters", "ml"),
    "pounds": ("pounds", "lb", "lbs"),
    "ounces": ("ounces", "oz"),
}

WORDINGS = {
    "convert": Wordings(
        train=(
            "convert {x} {f} to {t}",
            "convert {x} {f} to {t}.",
            "convert {x} {f} into {t}.",
            "please convert {x} {f} to {t}.",
            "{x} {f} in {t}",
            "{x} {f} in {t}?",
            "{x} {f} to {t}",
            "{x} {f} = ? {t}",
            "{x} {f} is how many {t}?",
            "{x} {f} are how many {t}?",
            "how many {t} are in {x} {f}?",
            "how many {t} in {x} {f}?",
            "how many {t} are there in {x} {f}?",
            "how many {t} is {x} {f}?",
            "how many {t} are {x} {f}?",
            "how many {t} do {x} {f} make?",
            "how many {t} make {x} {f}?",
            "how many {t} does {x} {f} have?",
            "what is {x} {f} in {t}?",
            "what's {x} {f} in {t}?",
            "what are {x} {f} in {t}?",
            "express {x} {f} in {t}.",
            "write {x} {f} in {t}.",
            "write {x} {f} as {t}.",
            "change {x} {f} to {t}.",
            "turn {x} {f} into {t}.",
            "give {x} {f} in {t}.",
            "tell me {x} {f} in {t}.",
            "I have {x} {f}. How many {t} is that?",
            "it says {x} {f}, how many {t} is that?",
            "my list says {x} {f}, but I need {t}.",
            "can you tell me how many {t} {x} {f} are?",
            "could you please express {x} {f} in {t}?",
            "I need {x} {f} in {t}, please.",
            "how much is {x} {f} in {t}?",
            "calculate how many {t} are in {x} {f}.",
            "sort this out: {x} {f} in {t}?",
            "add it up: how many {t} are {x} {f}?",
            "extract the number of {t} from {x} {f}.",
            "{x} {f} equals how many {t}?",
            "if something measures {x} {f}, what is it in {t}?",
            "{x} {f} correspond to how many {t}?",
            "unit conversion: {x} {f} to {t}",
            "how many {t} would {x} {f} be?",
            "number of {t} in {x} {f}?",
            "put {x} {f} in order as {t}, how many?",
        ),
        held=(
            "what number of {t} is {x} {f}?",
            "rewrite {x} {f} in {t}.",
            "would you convert {x} {f} to {t} for me?",
            "we have {x} {f}; what is it in {t}?",
            "state {x} {f} in {t}.",
            "find how many {t} {x} {f} is.",
            "{x} {f} makes how many {t}?",
            "hi, {x} {f} in {t} please",
            "the sign reads {x} {f}. What is that in {t}?",
            "{x} {f}, how many {t}?",
            "work out {x} {f} in {t}.",
            "quick: {x} {f} into {t}?",
        ),
        test=(
            "I'd like to have {x} {f} as {t}.",
            "do you know how many {t} {x} {f} are?",
            "give me the number of {t} in {x} {f}.",
            "what does {x} {f} come to in {t}?",
            "how many {t} can I get out of {x} {f}?",
            "{x} {f}: how much is this in {t}?",
            "help me change {x} {f} into {t}.",
            "a friend told me {x} {f}. What would that be in {t}?",
            "in {t}, what is {x} {f}?",
            "if I have {x} {f}, how many {t} do I have?",
            "transform {x} {f} to {t}, please.",
            "what would {x} {f} be if measured in {t}?",
        ),
    )
}


def work(value: int, factor: int) -> str:
    """The product by the parts of both numbers, which are at most three.

    >>> work(7, 60)
    '7 * 60 = 420'
    >>> work(44, 3)
    '44 * 3 = 120 + 12 = 132'
    >>> work(18, 16)
    '18 * 16 = 180 + 60 + 48 = 240 + 48 = 288'
    """
    head = f"{value} * {factor} = "
    tens, ones = value // 10 * 10, value % 10
    parts = [tens * factor, ones * factor] if factor not in _ROUND else [value * factor]
    if factor > 10 and factor % 10:
        parts = [value * (factor // 10 * 10), tens * (factor % 10), ones * (factor % 10)]
    parts = [part for part in parts if part]
    if len(parts) == 3:
        head += f"{parts[0]} + {parts[1]} + {parts[2]} = "
        parts = [parts[0] + parts[1], parts[2]]
    return head + (f"{parts[0]} + {parts[1]} = " if len(parts) == 2 else "") + str(value * factor)


def share(total: int, factor: int) -> str:
    """The quotient: its tens, then the rest that remains to be divided.

    >>> share(348, 12)
    '348 / 12 = 20 + 108 / 12 = 20 + 9 = 29'
    >>> share(420, 60), share(2900, 100)
    ('420 / 60 = 7', '2900 / 100 = 29')
    """
    value = total // factor
    tens, ones = value // 10 * 10, value % 10
    if factor in _ROUND or not tens or not ones:
        return f"{total} / {factor} = {value}"
    return f"{total} / {factor} = {tens} + {ones * factor} / {factor} = {tens} + {ones} = {value}"


def draw(rng: Random, split: Split) -> Problem:
    """One conversion, most often from the larger unit to the smaller; train has more of the harder ones."""
    _, larger, _, smaller, factor, most = rng.choice(_HARDER if split == "train" else PAIRS)
    value = rng.randint(2, most)
    total = value * factor
    if factor in _ONE_WAY or rng.random() < 0.7:
        x, source, goal = value, larger, smaller
        answer, target = total, f"{work(value, factor)} {smaller}"
    else:
        x, source, goal = total, smaller, larger
        answer, target = value, f"{share(total, factor)} {larger}"
    slots = {"x": str(x), "f": _spell(rng, source), "t": _spell(rng, goal)}
    key = f"{value} {larger} = {total} {smaller}"
    return Problem("convert", key, slots, str(answer), "number", target)


def _spell(rng: Random, unit: str) -> str:
    """The full name, or now and then another spelling."""
    return unit if rng.random() < 0.7 else rng.choice(_SHORT.get(unit, (unit,)))


SKILL = Skill("units", "units", draw, WORDINGS, bare="{x} {f} in {t}")
