"""What a coder is taught: questions of the skills whose answers a line of Python can compute, with that line.

`54 + 34`, `39 * 4`, `123 // 3`, `sorted("sea bowl room".split())`. It computes nothing itself: the arm `coder@code` runs what it writes.
"""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial
from random import Random

from evals.tasks.skills import SKILLS
from evals.tasks.skills.item import Lesson, Problem, Split, lessons

TAUGHT = ("arithmetic", "arithmetic-3digit", "sorting", "units")
"""The skills, with the extra group of sums of three digits."""
_SHARES = (0.3, 0.1, 0.3, 0.3)


def programs(n: int, seed: int = 0) -> list[Lesson]:
    """`n` training lessons of all skills, shuffled.

    >>> programs(1)[0].item.split
    'train'
    """
    found = [
        one
        for skill, share in zip(TAUGHT, _SHARES, strict=True)
        for one in teach(skill, "train", round(n * share) + 1, seed)
    ]
    Random(seed).shuffle(found)
    return [replace(one, item=replace(one.item, answer=one.target, kind="text", task="coder")) for one in found[:n]]


def teach(skill: str, split: Split, n: int, seed: int = 0) -> list[Lesson]:
    """`n` questions of a skill of `TAUGHT`, each with a program whose value is the answer."""
    own = SKILLS[skill]
    return lessons(replace(own, prefix=f"code-{own.prefix}", draw=partial(_drawn, skill)), split, n, seed)


def _drawn(skill: str, rng: Random, split: Split) -> Problem:
    problem = SKILLS[skill].draw(rng, split)
    if skill == "sorting":
        things = [word for word in re.findall(r"[a-z]+", problem.slots["x"]) if word != "and"]
        return replace(problem, target=f'sorted("{" ".join(things)}".split())')
    return replace(problem, target=problem.target.split(" = ")[0].replace(" / ", " // "))
