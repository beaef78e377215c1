"""The skills a text needs, found by embedding it against the profile's labelled questions; no token is generated."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Self

import numpy as np
from numpy.typing import NDArray

from routers.errors import NotFittedError, RouterError
from routers.records import Table, label_matrix, need_labels
from routers.types import Array, Indices, Questions

_SHARPEN = 3  # regression on 0/1 labels shrinks to the middle; cubed, shares are closest to how often they hold
_ENOUGH = 0.5  # under this sum of weights "none of the known skills" is more likely than any
_KIN = 5  # how many nearest others the automatic floor looks at
_STRAYS = 0.01  # the share of profile questions that may lie under it


@dataclass(frozen=True, slots=True)
class Found:
    """The skills of n texts.

    `weights` [n, skill] are shares: a row sums to at most 1, to 0 where no skill was found. `similarity` [n, skill] is
    the cosine to the nearest profile question of each skill; `nearest` and `cosine` [n, m] are the nearest profile
    questions of all (rows of the fitted questions) and their cosines. `near` [n] is False where not even the nearest
    one reaches the floor.
    """

    skills: tuple[str, ...]
    weights: Table
    similarity: Table
    nearest: Indices
    cosine: Table
    near: NDArray[np.bool_]


@dataclass(slots=True)
class SkillFinder:
    """Kernel ridge regression from a text's cosines with the profile's questions to their skill labels.

    raw(x) = max(0, sum over profile questions i of exp((cos(x, i) - 1) / width) * alpha_i), alpha = (K + ridge I)^-1
    labels: one matrix product and one exponential for a whole batch. The weights are the cubes of raw, scaled to raw's
    sum or to 1 if that is less; a sum under one half is no skill at all. Unlike a mean over nearest neighbours this
    learns which differences matter, and that keeps a question whose surface words point elsewhere ("sort out this
    sum: 23 plus 48") with its own skill.

    `floor`: a text whose nearest profile question has a smaller cosine has no known skill. None: chosen at fit as the
    value that 1 % of the profile's questions would miss, each compared with the mean of its five nearest others (the
    mean, because a profile made from templates holds near-copies that a user's question will not have).
    `most`: fitting costs the cube of the number of questions, so a larger profile is thinned evenly per set of labels.
    """

    floor: float | None = None
    width: float = 0.6
    ridge: float = 0.1
    most: int = 2000
    skills_: tuple[str, ...] = field(default=(), init=False, repr=False, compare=False)
    rows_: Indices = field(default_factory=lambda: np.zeros(0, dtype=np.int64), init=False, repr=False, compare=False)
    vectors_: Table = field(default_factory=lambda: np.zeros((0, 0)), init=False, repr=False, compare=False)
    labels_: Table = field(default_factory=lambda: np.zeros((0, 0)), init=False, repr=False, compare=False)
    pull_: Table = field(default_factory=lambda: np.zeros((0, 0)), init=False, repr=False, compare=False)
    floor_: float = field(default=0.0, init=False, repr=False, compare=False)

    def fit(self, questions: Questions) -> Self:
        """Learn the skills of labelled questions; one without a label is an example of no skill.

        Raises RouterError when none is labelled.
        """
        need_labels(questions)
        self.skills_, labels = label_matrix(questions)
        self.rows_ = _thinned(questions, self.most)
        # float64: a row's result must not depend on how many rows are multiplied together
        self.vectors_ = questions.vectors[self.rows_].astype(np.float64)
        self.labels_ = labels[self.rows_]
        cosine = self.vectors_ @ self.vectors_.T
        shares = self.labels_ / np.maximum(self.labels_.sum(axis=1, keepdims=True), 1)
        self.pull_ = np.linalg.solve(self._kernel(cosine) + self.ridge * np.eye(len(cosine)), shares)
        self.floor_ = _floor(cosine) if self.floor is None else self.floor
        return self

    def find(self, vectors: Array, *, nearest: int = 3) -> Found:
        """The skills of texts given as unit rows [n, dim]; raises NotFittedError before `fit`."""
        cosine = self._cosine(vectors)
        weights, near = self._weights(cosine)
        columns = [np.flatnonzero(self.labels_[:, column]) for column in range(len(self.skills_))]
        similarity = np.stack([cosine[:, rows].max(axis=1, initial=-1) for rows in columns], axis=1)
        wanted = min(nearest, cosine.shape[1])
        order = np.argpartition(-cosine, wanted - 1, axis=1)[:, :wanted]
        order = np.take_along_axis(order, np.argsort(-np.take_along_axis(cosine, order, 1), axis=1, kind="stable"), 1)
        return Found(self.skills_, weights, similarity, self.rows_[order], np.take_along_axis(cosine, order, 1), near)

    def weights(self, vectors: Array) -> Table:
        """Only the weights of `find`, [n, skill]: what a decision needs."""
        return self._weights(self._cosine(vectors))[0]

    def _cosine(self, vectors: Array) -> Table:
        if not self.skills_:
            raise NotFittedError("the skill finder has not been fitted\n  next: call fit(questions)")
        if vectors.shape[1:] != self.vectors_.shape[1:]:
            raise RouterError(
                f"the questions' vectors have the shape {vectors.shape}, the profile's {self.vectors_.shape}\n"
                "  next: embed both with the same encoder"
            )
        cosine: Table = vectors.astype(np.float64) @ self.vectors_.T
        return cosine

    def _weights(self, cosine: Table) -> tuple[Table, NDArray[np.bool_]]:
        near = cosine.max(axis=1) >= self.floor_
        weights = _shares(np.maximum(self._kernel(cosine) @ self.pull_, 0))
        weights[~near] = 0
        return weights, near

    def _kernel(self, cosine: Table) -> Table:
        near: Table = np.exp((cosine - 1) / self.width)
        return near


def _shares(raw: Table) -> Table:
    """Regression values (non-negative, [n, skill]) as shares."""
    total = np.minimum(raw.sum(axis=1, keepdims=True), 1)
    sharp = raw**_SHARPEN
    shares: Table = sharp * total / np.maximum(sharp.sum(axis=1, keepdims=True), np.finfo(float).tiny)
    return np.where(total >= _ENOUGH, shares, 0)


def _floor(cosine: Table) -> float:
    """The automatic floor of a profile with these cosines among its questions."""
    n = len(cosine)
    if n < 2:
        return 0.0
    others = np.sort(np.where(np.eye(n, dtype=bool), -np.inf, cosine), axis=1)[:, -min(_KIN, n - 1) :]
    near = np.sort(others.mean(axis=1))
    return float(np.interp(_STRAYS * (n - 1), np.arange(n), near))  # np.quantile would load numpy.ma: 30 ms


def _thinned(questions: Questions, most: int) -> Indices:
    """All rows, or `most` of them: round by round one of each set of labels, evenly spread over its questions."""
    n = len(questions)
    if n <= most:
        return np.arange(n)
    groups: dict[tuple[str, ...], list[int]] = {}
    for row, own in enumerate(questions.skills):
        groups.setdefault(tuple(sorted(own)), []).append(row)
    kept: list[int] = []
    left = most
    for place, rows in enumerate(sorted(groups.values(), key=len)):  # small groups first: what they leave is shared
        share = min(len(rows), left // (len(groups) - place))
        kept += [rows[int(i)] for i in np.linspace(0, len(rows) - 1, share)]
        left -= share
    return np.array(sorted(kept), dtype=np.int64)
