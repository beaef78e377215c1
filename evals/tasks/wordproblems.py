"""Arithmetic word problems of one and two steps, made by rule: what an arithmetic specialist was never taught to read."""

from __future__ import annotations

from random import Random
from typing import Literal

from evals.tasks.skills.item import Item, Split

_NAMES = ("Ada", "Ben", "Chen", "Dina", "Emil", "Fay", "Gil", "Hana", "Ivo", "June", "Kofi", "Lena")
_THINGS = ("apples", "stamps", "marbles", "pencils", "eggs", "shells", "coins", "cards", "books", "buttons")
_FORMS: tuple[tuple[str, Literal["+", "-", "*", "+-", "*+", "*-"]], ...] = (
    ("{n} has {a} {t} and gets {b} more. How many {t} does {n} have now?", "+"),
    ("There are {a} {t} in a box and {b} on the table. How many {t} are there in all?", "+"),
    ("{n} had {a} {t} and gave {b} of them away. How many {t} are left?", "-"),
    ("A shop has {a} {t} and sells {b}. How many {t} does it still have?", "-"),
    ("{n} fills {a} bags with {b} {t} each. How many {t} is that?", "*"),
    ("A row has {a} seats and there are {b} rows. How many seats are there?", "*"),
    ("{n} has {a} {t}, buys {b} and loses {c}. How many {t} does {n} have now?", "+-"),
    ("{a} people are on a bus. At a stop {b} get on and {c} get off. How many are on the bus?", "+-"),
    ("{n} packs {a} boxes of {b} {t} and has {c} {t} left over. How many {t} are there?", "*+"),
    ("A ticket costs {b} coins. {n} buys {a} tickets and a map for {c} coins. How many coins does {n} pay?", "*+"),
    ("{n} bakes {a} trays of {b} rolls and sells {c} rolls. How many rolls are left?", "*-"),
)


def wordproblems(split: Split, n: int, seed: int = 0) -> list[Item]:
    """`n` problems with numbers of one and two digits, whose answers are above 0; splits are drawn apart.

    >>> wordproblems("test", 1)[0].kind
    'number'
    """
    rng = Random(f"word problems/{split}/{seed}")
    found: list[Item] = []
    seen: set[str] = set()
    while len(found) < n:
        form, kind = rng.choice(_FORMS)
        a, b, c = (rng.randint(2, 9), rng.randint(2, 12), rng.randint(2, 9)) if "*" in kind else _sums(rng)
        worth = {"+": a + b, "-": a - b, "*": a * b, "+-": a + b - c, "*+": a * b + c, "*-": a * b - c}[kind]
        text = form.format(n=rng.choice(_NAMES), t=rng.choice(_THINGS), a=a, b=b, c=c)
        if worth > 0 and text not in seen:
            seen.add(text)
            found.append(Item(f"words-{split}-{len(found):04d}", text, str(worth), "number", "wordproblems", split))
    return found


def _sums(rng: Random) -> tuple[int, int, int]:
    a = rng.randint(11, 80)
    return a, rng.randint(3, min(a, 60)), rng.randint(2, 9)
