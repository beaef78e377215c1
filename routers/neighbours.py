"""The neighbour router: an arm is as good as it was on the profile questions nearest to this one (METHODS I.4)."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import product

import numpy as np

from routers.errors import RouterError
from routers.nearest import Bank, Group, Nearest
from routers.perarm import Column, PerArm, Table, mean_seen
from routers.stats import differences
from routers.types import Array, Outcomes, Questions, Reason

_GRID = tuple(product((30, 100, 300), (0.15, 0.3, 1.0), (3.0, 10.0, 30.0)))  # k, width, prior
_SAMPLE = 2000  # questions that leave-one-out looks at


@dataclass(slots=True)
class NeighbourRouter(PerArm):
    """P(right) = (sum over the `k` nearest of K x score + `prior` x overall) / (sum of K + `prior`), with the kernel
    K = exp(-(1 - cosine) / `width`).

    After C3PO's kernel regression over the routing of successful neighbours (METHODS I.4), transposed from a mixture's
    pathways to whole arms: neighbours vote with outcomes, not with routing weights, and the interpolation with the
    model's own routing becomes the prior, the arm's overall share right. Far from the profile the evidence is small and
    the score falls back to that share by itself.

    A setting that is None is chosen at fit by leave-one-out on the fitted questions: smallest squared error of the
    differences between a question's arms.
    """

    k: int | None = None
    width: float | None = None
    prior: float | None = None
    bank_: Bank = field(default_factory=Bank, init=False, repr=False, compare=False)
    used_: tuple[int, float, float] = field(default=(30, 0.3, 5.0), init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name, value in (("k", self.k), ("width", self.width), ("prior", self.prior)):
            if value is not None and value <= 0:
                raise RouterError(f"{name} is {value}\n  next: give a number above 0, or leave it out")

    def _common(self, questions: Questions, outcomes: Outcomes) -> None:
        self.bank_ = Bank().fit(questions)
        grid = [(self.k or k, self.width or width, self.prior or prior) for k, width, prior in _GRID]
        grid = list(dict.fromkeys(grid))
        self.used_ = grid[0] if len(grid) == 1 else _left_out(questions.vectors, outcomes.matrix(len(questions)), grid)

    def _column(self, questions: Questions, score: Table, cost: Table) -> Column:
        seen = ~np.isnan(score)
        rows = self.bank_.rows(questions, seen)
        return {"rows": rows, "score": score[seen], "overall": np.array(mean_seen(score))}

    def _stack(self) -> list[Group]:
        return self.bank_.groups(self.columns_, "score")

    def _score(self, questions: Questions) -> Table:
        k, width, prior = self.used_
        overall = np.array([float(column["overall"]) for column in self.columns_])
        found = np.zeros((len(questions), len(self.columns_)))
        for group in self.stacked_:
            right, weight = group.sums(questions.vectors, k, width)
            found[:, group.arms] = (right + prior * overall[group.arms]) / (weight + prior)
        return found

    def _explain(self, questions: Questions) -> list[Reason]:
        if self.stacked_ is None:
            self.stacked_ = self._stack()
        most = max(self.stacked_, key=lambda group: len(group.rows))
        k, width, prior = self.used_
        note = f"by the outcomes of the {k} nearest profile questions (width {width:g}, prior {prior:g})"
        return [Reason(nearest=near, note=note) for near in self.bank_.named(most, questions.vectors)]


def _estimate(scores: Table, cosine: Table, overall: Table, width: float, prior: float) -> Table:
    """P(right), [m, arm], from the neighbours' scores [m, k, arm] and cosines [m, k]."""
    kernel = np.exp((cosine - 1) / width)
    seen = ~np.isnan(scores)
    right = np.einsum("mk,mka->ma", kernel, np.where(seen, scores, 0.0))
    weight = np.einsum("mk,mka->ma", kernel, seen.astype(float))
    found: Table = (right + prior * overall) / (weight + prior)
    return found


def _left_out(vectors: Array, scores: Table, grid: list[tuple[int, float, float]]) -> tuple[int, float, float]:
    """The setting whose estimates for questions left out of their own neighbourhood have the smallest squared error."""
    n = len(scores)
    asked = np.unique(np.linspace(0, n - 1, min(n, _SAMPLE)).astype(np.int64))
    most = max(k for k, _, _ in grid)
    rows, cosine = Nearest().fit(vectors).find(vectors[asked], most + 1)
    others = rows != asked[:, None]
    others[others.all(axis=1), -1] = False  # a twin pushed the question itself out of its own list
    keep = (len(asked), rows.shape[1] - 1)
    rows, cosine = rows[others].reshape(keep), cosine[others].reshape(keep)
    seen = ~np.isnan(scores)
    overall = np.where(seen, scores, 0).sum(axis=0) / np.maximum(seen.sum(axis=0), 1)
    hidden = np.where(seen[asked], 0.0, np.nan)
    target = differences(scores[asked])
    near = scores[rows]

    def error(k: int, width: float, prior: float) -> float:
        found = differences(_estimate(near[:, :k], cosine[:, :k], overall, width, prior) + hidden)
        return float(np.nanmean((found - target) ** 2))

    return min(grid, key=lambda setting: error(*setting))
