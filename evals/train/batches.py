"""Lessons as batches of token numbers: long ones with long ones, so little is padding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any

from evals.tasks.skills import Lesson, teach
from evals.train.base import prompt

_WINDOW = 12  # batches whose lessons are sorted by length together
_THREE_DIGIT = 0.08  # of the arithmetic lessons
_DRILLS = 0.5  # of the arithmetic lessons: several bare sums at once teach more per token
_SUMS = 4  # in a drill


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
        if skill == "arithmetic":
            extra, drilled = round(share * _THREE_DIGIT), round(share * _DRILLS)
            found += teach("arithmetic-3digit", "train", extra, seed) + drills(drilled, seed + 1)
            share -= extra + drilled
        found += teach(skill, "train", share, seed)
    Random(seed).shuffle(found)
    return found


def drills(n: int, seed: int) -> list[Lesson]:
    """`n` lessons of several sums without words: `47 + 36; 9 - 4` -> `47 + 36 = 83; 9 - 4 = 5`."""
    single = teach("arithmetic", "train", n * _SUMS, seed)
    made = []
    for at in range(0, len(single), _SUMS):
        group = single[at : at + _SUMS]
        question = "; ".join(lesson.target.split(" = ")[0] for lesson in group)
        item = replace(group[-1].item, question=question)
        made.append(Lesson(item, "; ".join(lesson.target for lesson in group)))
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
