"""Lessons as batches of token numbers: long ones with long ones, so little is padding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from evals.tasks.skills import Lesson, teach
from evals.train.base import prompt

_WINDOW = 12  # batches whose lessons are sorted by length together
_THREE_DIGIT = 0.08  # of the arithmetic lessons


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
        extra = round(share * _THREE_DIGIT) if skill == "arithmetic" else 0
        found += teach(skill, "train", share - extra, seed)
        found += teach("arithmetic-3digit", "train", extra, seed) if extra else []
    Random(seed).shuffle(found)
    return found


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
