"""The cluster router: which arms did best where the question lies (Avengers and Avengers-Pro; METHODS I.1)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from routers.errors import RouterError
from routers.perarm import Column, PerArm, Table
from routers.types import Outcomes, Questions, Reason

Use = Literal["rank", "score"]
_SEED = 42


@dataclass(slots=True)
class ClusterRouter(PerArm):
    """K-means on the profile's vectors; per cluster and arm the mean score (and cost); a question's `near` nearest
    clusters vote with weights softmax(-`beta` x cosine distance).

    After Avengers and Avengers-Pro (METHODS I.1; the released defaults are 35 clusters with one near, or 25 with three).
    `use`: `rank` (as released) sums weight / rank of the arm in the cluster; `score` (default, ours) the arm's share
    right, which keeps how close two arms are and predicts P(right). `quality` is Avengers-Pro's alpha: below 1 an arm's
    worth in a cluster is alpha x accuracy + (1 - alpha) x (1 - cost), both scaled within the cluster.

    What differs: centroids are scaled to unit length, so that a cosine is one; an arm's share in a cluster is shrunk
    with `prior` pseudo-counts to its overall share, so that a small cluster decides little; a missing cost is refused
    where costs count (as released it passes for free).
    """

    clusters: int = 25
    near: int = 3
    beta: float = 9.0
    use: Use = "score"
    quality: float = 1.0
    prior: float = 5.0
    centres_: Table = field(default_factory=lambda: np.zeros((0, 0)), init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.use not in ("rank", "score"):
            raise RouterError(f"use is {self.use!r}\n  next: give rank or score")
        if self.clusters < 1 or self.near < 1 or self.prior < 0:
            raise RouterError("clusters and near must be at least 1, prior not under 0")
        if not 0 <= self.quality <= 1:
            raise RouterError(
                f"quality is {self.quality}\n  next: give a number from 0 (price only) to 1 (accuracy only)"
            )

    def _common(self, questions: Questions, outcomes: Outcomes) -> None:
        from sklearn.cluster import KMeans  # noqa: PLC0415 - half a second

        vectors = questions.vectors.astype(np.float64)
        distinct = len(np.unique(vectors.round(6), axis=0))
        model = KMeans(min(self.clusters, distinct), n_init=10, random_state=_SEED).fit(vectors)
        centres = model.cluster_centers_
        norm = np.linalg.norm(centres, axis=1, keepdims=True)
        self.centres_ = centres / np.where(norm > 0, norm, 1)

    def _column(self, questions: Questions, score: Table, cost: Table) -> Column:
        own = (questions.vectors.astype(np.float64) @ self.centres_.T).argmax(axis=1)
        seen = ~np.isnan(score)
        width = len(self.centres_)
        if self.quality < 1 and bool(np.isnan(cost[seen]).any()):
            raise RouterError(
                "an arm's cost is unknown, and quality is below 1\n"
                "  next: give every arm a price or every outcome a cost, or set quality to 1"
            )
        return {
            "right": np.bincount(own[seen], score[seen], width),
            "count": np.bincount(own[seen], minlength=width).astype(float),
            "cost": np.bincount(own[seen], np.nan_to_num(cost[seen]), width),
        }

    def _stack(self) -> Table:
        """What an arm is worth in each cluster, [cluster, arm]."""
        right, count, cost = (
            np.stack([each[name] for each in self.columns_], 1) for name in ("right", "count", "cost")
        )
        asked = np.maximum(count.sum(axis=0), 1)
        overall = np.where(count.sum(axis=0) > 0, right.sum(axis=0) / asked, 0.5)
        worth: Table = (right + self.prior * overall) / np.maximum(count + self.prior, 1e-9)
        if self.quality < 1:
            price = np.where(count > 0, cost / np.maximum(count, 1), cost.sum(axis=0) / asked)
            low, high = worth.min(axis=1, keepdims=True), worth.max(axis=1, keepdims=True)
            good = np.where(high > low, (worth - low) / np.where(high > low, high - low, 1), 1.0)
            dearest = price.max(axis=1, keepdims=True)
            cheap = 1 - np.where(dearest > 0, price / np.where(dearest > 0, dearest, 1), 0.0)
            worth = self.quality * good + (1 - self.quality) * cheap
        if self.use == "rank":
            tie = np.array([[arm.price for arm in self.arms_]]).repeat(len(worth), 0)
            names = np.array([[arm.name for arm in self.arms_]]).repeat(len(worth), 0)
            order = np.lexsort((names, tie, -worth), axis=1)
            rank = np.argsort(order, axis=1) + 1
            worth = 1.0 / rank
        return worth

    def _score(self, questions: Questions) -> Table:
        found: Table = self._weights(questions) @ self.stacked_
        return found

    def _explain(self, questions: Questions) -> list[Reason]:
        weights = self._weights(questions)
        order = np.argsort(-weights, axis=1, kind="stable")[:, : self.near]
        return [
            Reason(skills=tuple((f"cluster {int(i)}", round(float(row[i]), 4)) for i in own), note="by cluster")
            for row, own in zip(weights, order, strict=True)
        ]

    def _weights(self, questions: Questions) -> Table:
        return nearest_weights(questions.vectors.astype(np.float64) @ self.centres_.T, self.near, self.beta)


def nearest_weights(cosine: Table, near: int, beta: float) -> Table:
    """softmax(-beta x (1 - cosine)) over the `near` largest of each row, 0 elsewhere.

    >>> nearest_weights(np.array([[0.9, 0.1, 0.8, 0.7]]), 3, 9.0).round(3).tolist()
    [[0.636, 0.0, 0.259, 0.105]]
    """
    near = min(near, cosine.shape[1])
    order = np.argsort(-cosine, axis=1, kind="stable")[:, :near]
    best = np.take_along_axis(cosine, order, 1)
    raised = np.exp(beta * (best - best[:, :1]))
    weights = np.zeros_like(cosine)
    np.put_along_axis(weights, order, raised / raised.sum(axis=1, keepdims=True), 1)
    return weights
