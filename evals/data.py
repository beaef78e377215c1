"""Recorded questions cut into splits, with what arms answered: what every evaluation on records starts from."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from composer.errors import InputError
from composer.learning.grid import Grid
from composer.recorded import Recorded
from routers.types import Array, Indices, Outcomes, Questions

NONE = "no category"
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
        """The whole record; `vectors` [n, dim] are the questions'. Where some questions have a category, the others are a
        category of their own."""
        questions = record.questions(vectors)
        if any(questions.skills):
            questions = replace(questions, skills=tuple(own or (NONE,) for own in questions.skills))
        return cls(questions, record.outcomes, Grid.of(record))

    def take(self, rows: Indices) -> Data:
        """The questions at `rows`."""
        return Data(self.questions.take(rows), self.outcomes.take(rows), self.grid.take(rows))

    @property
    def asked(self) -> Questions:
        """As they come at serving time: without labels."""
        return replace(self.questions, skills=())


def has_categories(questions: Questions) -> bool:
    """Whether these (profile) questions are labelled with two categories at least."""
    return len({name for own in questions.skills for name in own}) > 1 and all(questions.skills)


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


def covered(record: Recorded, profile: Indices, test: Indices, notes: list[str]) -> Recorded:
    """The record without arms that nobody ran on the profile, or on the test split; they, and cells that nobody ran, are
    noted. Raises InputError where fewer than two arms are left, or fewer than two profile questions.
    """
    if len(profile) < 2:
        raise InputError(
            f"{len(profile)} profile questions are left",
            remedy="mark more questions as `profile`, other than the test's",
        )
    ran = np.zeros((len(record), len(record.outcomes.arms)), dtype=bool)
    ran[record.outcomes.question, record.outcomes.arm] = True
    both: NDArray[np.bool_] = np.logical_and(ran[profile].any(axis=0), ran[test].any(axis=0))
    names = [arm.name for arm in record.outcomes.arms]
    if not both.all():
        out = [name for name, there in zip(names, both, strict=True) if not there]
        notes.append(f"left out, for nobody ran them on one of the splits: {', '.join(out)}")
    kept = [name for name, there in zip(names, both, strict=True) if there]
    if len(kept) < 2:
        raise InputError(f"{len(kept)} models were run on both splits", remedy="give outcomes of two models at least")
    share = float(ran[np.concatenate([profile, test])][:, both].mean())
    if share < 1:
        notes.append(
            f"{100 * share:.1f} % of the cells were run; an answer that nobody ran is wrong where it is asked for"
        )
    return record if both.all() else replace(record, outcomes=record.outcomes.only(kept))
