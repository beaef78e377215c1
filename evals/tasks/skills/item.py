"""Labelled questions made by rule: the value, its split, and how wordings are drawn."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random
from typing import Literal, get_args

from composer.types import Kind

Split = Literal["train", "profile", "calibration", "test"]

SPLITS: tuple[Split, ...] = get_args(Split)
_UPPER: tuple[tuple[int, Split], ...] = (
    (60, "train"),
    (72, "profile"),
    (80, "calibration"),
    (100, "test"),
)
#: sentences around a training question: a specialist learns that they say nothing
_BEFORE = (
    "Hello! ", "Hi there. ", "Hey, ", "Question: ", "Quick question: ", "Task: ", "Exercise: ",
    "Next one: ", "One more. ", "Please help me. ", "My sister asks: ", "For school: ", "OK. ",
    "At work we have this: ", "I am stuck. ", "Be brief. ", "Listen. ", "Dear assistant, ",
    "Here is a small problem. ", "Our neighbour wants to know: ", "It is late. ", "Now this: ",
)  # fmt: skip
_AFTER = (
    " Thanks.", " Thank you!", " Please.", " Be careful.", " It is for my homework.", " Go.",
    " I am in a hurry.", " No explanation.", " That is all.", " Cheers!", " My boss needs it.",
)  # fmt: skip
_AROUND = 0.25  # of the training questions have a sentence before, as many one after
_PATIENCE = 400  # draws without a new problem before a problem may come back in other words


@dataclass(frozen=True, slots=True)
class Item:
    """One question with its right answer."""

    id: str
    question: str
    answer: str  # canonical gold; alternatives of kind text are parted by '|'
    kind: Kind
    task: str
    split: Split


@dataclass(frozen=True, slots=True)
class Lesson:
    """An item and the text a specialist learns to write for it."""

    item: Item
    target: str


@dataclass(frozen=True, slots=True)
class Wordings:
    """Templates by use: `train` never meets `test`; `held` is for profile and calibration."""

    train: tuple[str, ...]
    held: tuple[str, ...]
    test: tuple[str, ...]

    def of(self, split: Split) -> tuple[str, ...]:
        """The templates a split may use; only profile and calibration also see `train`."""
        if split == "train":
            return self.train
        return self.test if split == "test" else self.train + self.held


@dataclass(frozen=True, slots=True)
class Problem:
    """A problem before it is put into words; equal `key` means the same problem."""

    form: str
    key: str
    slots: Mapping[str, str]
    answer: str
    kind: Kind
    target: str


@dataclass(frozen=True, slots=True)
class Skill:
    """How one skill's problems are drawn and worded."""

    task: str
    prefix: str
    draw: Callable[[Random, Split], Problem]
    wordings: Mapping[str, Wordings]  # by form
    bare: str = ""  # the template of a problem almost without words, where there is one


def split_of(key: str) -> Split:
    """The only split a problem may appear in: a stable hash of the problem decides.

    >>> split_of("17+25") == split_of("17+25")
    True
    """
    place = int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big") % 100
    return next(split for upper, split in _UPPER if place < upper)


def lessons(skill: Skill, split: Split, n: int, seed: int = 0) -> list[Lesson]:
    """`n` lessons of a split, the same for the same seed; a shorter list is a prefix.

    Outside train no question repeats, and no problem does while new ones are found.
    """
    rng = Random(f"{skill.prefix}/{split}/{seed}")
    found: list[Lesson] = []
    problems: set[str] = set()
    questions: set[str] = set()
    idle = 0
    while len(found) < n:
        problem = skill.draw(rng, split)
        if split_of(problem.key) != split:
            continue
        template = rng.choice(skill.wordings[problem.form].of(split))
        question = capital(template.format_map(problem.slots))
        if split == "train":
            question = _surrounded(rng, question)
        known = question in questions or (problem.key in problems and idle < _PATIENCE)
        if known and split != "train":
            idle += 1
            continue
        idle = 0 if idle < _PATIENCE else idle  # once exhausted, problems stay allowed
        problems.add(problem.key)
        questions.add(question)
        name = f"{skill.prefix}-{split}-{len(found):04d}"
        item = Item(name, question, problem.answer, problem.kind, skill.task, split)
        found.append(Lesson(item, problem.target))
    return found


def _surrounded(rng: Random, question: str) -> str:
    """The question, now and then with an idle sentence before or after it."""
    before = rng.choice(_BEFORE) if rng.random() < _AROUND else ""
    after = rng.choice(_AFTER) if rng.random() < _AROUND else ""
    return before + question + after


def capital(text: str) -> str:
    """The text with its first letter upper case, the rest as it is.

    >>> capital("what is 2 pounds in ounces?")
    'What is 2 pounds in ounces?'
    """
    return text[:1].upper() + text[1:]
