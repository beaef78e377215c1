"""Recorded questions cut into splits, with what arms answered: what every evaluation on records starts from."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from composer.errors import InputError
from composer.grid import Grid
from composer.recorded import Recorded
from routers.types import Array, Indices, Outcomes, Questions

TWINS = 0.95  # a profile question this near to a test question is the same question
_STEP = 512


@dataclass(frozen=True, slots=True)
class Data:
    """Questions, their outcomes as routers learn from them, and the same as a grid."""

    questions: Questions
    outcomes: Outcomes
    grid: Grid

    @classmethod
    def of(cls, record: Recorded, vectors: Array) -> Data:
        """The whole record; `vectors` [n, dim] are the questions'."""
        return cls(record.questions(vectors), record.outcomes, Grid.of(record))

    def take(self, rows: Indices) -> Data:
        """The questions at `rows`."""
        return Data(self.questions.take(rows), self.outcomes.take(rows), self.grid.take(rows))

    @property
    def asked(self) -> Questions:
        """As they come at serving time: without labels."""
        return replace(self.questions, skills=())


def splits(record: Recorded, test_split: str) -> tuple[Indices, Indices]:
    """The rows of the profile and of the test split. Raises InputError where one is empty."""
    split = np.array(record.split)
    profile, test = np.flatnonzero(split == "profile"), np.flatnonzero(split == test_split)
    for name, rows in (("profile", profile), (test_split, test)):
        if not len(rows):
            raise InputError(
                f"no question is of the split {name!r}",
                remedy=f"splits that are there: {', '.join(sorted(set(record.split)))}",
            )
    return profile, test


def distinct(profile: Indices, test: Indices, vectors: Array, strict: bool, notes: list[str]) -> Indices:
    """The profile without near-copies of test questions, which are counted in `notes`; with `strict` they are an error."""
    twin = np.zeros(len(profile), dtype=bool)
    for start in range(0, len(profile), _STEP):
        part = profile[start : start + _STEP]
        twin[start : start + _STEP] = (vectors[part] @ vectors[test].T >= TWINS).any(axis=1)
    if twin.any():
        text = f"{int(twin.sum())} profile questions are near-copies of test questions (cosine {TWINS} or more)"
        if strict:
            raise InputError(text, remedy="remove them, or run without --strict to leave them out")
        notes.append(f"{text}: left out")
    return profile[~twin]
