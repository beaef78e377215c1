"""The linear router: one logistic regression per arm on the question's vector."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from routers.errors import RouterError
from routers.perarm import Column, PerArm, Table
from routers.types import Questions, Reason


@dataclass(slots=True)
class LinearRouter(PerArm):
    """P(right) per arm by L2-regularised logistic regression (scikit-learn) on unit vectors: the classifier of RouteLLM's
    and LLMRouter's simple baselines, one arm at a time, so that a new arm is a new regression and nothing else.

    `strength` is scikit-learn's C. Scores between 0 and 1 count as a right and a wrong answer with these weights. An arm
    that was always right (or always wrong) gets its share, smoothed by one pseudo-answer of each kind.
    """

    strength: float = 1.0

    def __post_init__(self) -> None:
        if self.strength <= 0:
            raise RouterError(f"strength is {self.strength}\n  next: give a number above 0")

    def _column(self, questions: Questions, score: Table, cost: Table) -> Column:
        seen = ~np.isnan(score)
        width, own = questions.vectors.shape[1], score[seen]
        if not len(own) or own.max() == 0 or own.min() == 1:
            share = (own.sum() + 1) / (len(own) + 2)
            return {"weight": np.zeros(width), "bias": np.array(np.log(share / (1 - share)))}
        from sklearn.linear_model import LogisticRegression  # noqa: PLC0415 - half a second

        rows = questions.vectors[seen].astype(np.float64)
        target = np.repeat([1, 0], len(own))
        weight = np.concatenate([own, 1 - own])
        used = weight > 0
        model = LogisticRegression(C=self.strength, max_iter=1000)
        model.fit(np.concatenate([rows, rows])[used], target[used], sample_weight=weight[used])
        return {"weight": model.coef_[0], "bias": np.array(model.intercept_[0])}

    def _score(self, questions: Questions) -> Table:
        found: Table = questions.vectors.astype(np.float64) @ self.stacked_["weight"].T + self.stacked_["bias"]
        return 1 / (1 + np.exp(-found))

    def _explain(self, questions: Questions) -> list[Reason]:
        return [Reason(note=f"by logistic regression (C {self.strength:g})")] * len(questions)
