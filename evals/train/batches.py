"""Lessons as batches of token numbers: long ones with long ones, so little is padding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from random import Random
from typing import Any

from evals.tasks.skills import SKILLS, Item, Lesson, split_of, teach
from evals.tasks.skills.item import Problem
from evals.train.base import prompt

_WINDOW = 12  # batches whose lessons are sorted by length together
_THREE_DIGIT = 0.08  # of the arithmetic lessons
_DRILLS = 0.4  # of the lessons of skills that have a bare form: several problems teach more per token
_PROBLEMS = 4  # in a drill


@dataclass(frozen=True, slots=True)
class Example:
    """The tokens of a prompt with its target, and where the target starts."""

    tokens: tuple[int, ...]
    start: int


def mix(skills: Sequence[str], n: int, seed: int) -> list[Lesson]:
    """`n` training lessons in equal shares of the skills, shuffled."""
    found: list[Lesson] = []
    for place, skill in enumerate(skills):
        share = n // len(skills) + (place < n % len(skills))
        if SKILLS[skill].bare:
            found += drills(skill, drilled := round(share * _DRILLS), seed)
            share -= drilled
        if skill == "arithmetic":
            found += teach("arithmetic-3digit", "train", extra := round(share * _THREE_DIGIT), seed)
            share -= extra
        found += teach(skill, "train", share, seed)
    Random(seed).shuffle(found)
    return found


def drills(skill: str, n: int, seed: int) -> list[Lesson]:
    """`n` lessons of several problems almost without words, each solved in turn.

    `47 + 36; 9 - 4` -> `47 + 36 = 83; 9 - 4 = 5`
    """
    taught, rng = SKILLS[skill], Random(f"drills of {skill}/{seed}")

    def problems() -> Iterator[Problem]:
        while True:
            problem = taught.draw(rng, "train")
            if split_of(problem.key) == "train":
                yield problem

    drawn, made = problems(), []
    for number in range(n):
        group = list(islice(drawn, _PROBLEMS))
        question = "; ".join(taught.bare.format_map(problem.slots) for problem in group)
        last = group[-1]
        item = Item(f"{skill}-drill-{number:04d}", question, last.answer, last.kind, taught.task, "train")
        made.append(Lesson(item, "; ".join(problem.target for problem in group)))
    return made


def encode(tokenizer: Any, lessons: Sequence[Lesson]) -> list[Example]:
    """The lessons in the chat format; the closing mark belongs to the target."""
    made = []
    for lesson in lessons:
        head = tokenizer(prompt(lesson.item.question), add_special_tokens=False).input_ids
        tail = tokenizer(lesson.target + "<|im_end|>", add_special_tokens=False).input_ids
        made.append(Example((*head, *tail), len(head)))
    return made


def batches(examples: Sequence[Example], size: int, seed: int) -> list[list[Example]]:
    """Full batches of similar length in random order; a rest that fills none is dropped."""
    rng = Random(seed)
    made: list[list[Example]] = []
    for at in range(0, len(examples), size * _WINDOW):
        window = sorted(examples[at : at + size * _WINDOW], key=lambda one: len(one.tokens))
        group = [window[i : i + size] for i in range(0, len(window) - size + 1, size)]
        rng.shuffle(group)
        made += group
    return made
