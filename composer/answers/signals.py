"""Knowing when it does not know: how sure an answer is, how well that separates right from wrong, and its measures."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from composer.answers.ballots import Table
from routers.coverage import Signals

_EDGE = 1e-3


@dataclass(slots=True)
class Sureness:
    """P(right) of an answer from how sure its aggregator was, and from where its question lies: logistic regression
    (L2, scikit-learn) on logit(sure), whether the question lies outside the profile (there `sure` itself says nothing),
    the entropy of the neighbours' domains, and the distance to them in standard deviations. After the boundary-aware
    calibration of METHODS F.4 (ours), of answers instead of experts: the same confidence is worth less near a border, and
    never more. What is unknown (NaN, or no signals) counts as usual."""

    weights_: Table = field(
        default_factory=lambda: np.array([0.0, 1.0, 0.0, 0.0, 0.0]), init=False, repr=False, compare=False
    )
    usual_: Table = field(
        default_factory=lambda: np.array([[0.0, 0.0], [1.0, 1.0]]), init=False, repr=False, compare=False
    )

    def fit(self, sure: Table, signals: Signals | None, right: Table) -> Self:
        """Learn from questions whose answer is known, [n] each; `right` in [0, 1]. All right or all wrong: unchanged."""
        from sklearn.linear_model import LogisticRegression  # noqa: PLC0415 - half a second

        known = [each[~np.isnan(each)] for each in ((signals.entropy, signals.away) if signals else ())]
        if known:
            self.usual_ = np.array(
                [[float(each.mean()) if len(each) else 0.0 for each in known], [_spread(each) for each in known]]
            )
        target = right >= 0.5
        if target.all() or not target.any():
            return self
        rows, kept = self._rows(sure, signals), [0, 1, 2, 3, 4]
        while True:
            model = LogisticRegression(C=10.0).fit(rows[:, kept[1:]], target)
            self.weights_ = np.zeros(rows.shape[1])
            self.weights_[kept] = [*model.intercept_, *model.coef_[0]]
            # by chance questions far away can be easy here; beyond what was seen that would be nonsense
            rising = [column for column in kept[3:] if self.weights_[column] > 0]
            if not rising:
                return self
            kept.remove(max(rising, key=lambda column: self.weights_[column]))

    def probable(self, sure: Table, signals: Signals | None) -> Table:
        """P(right), [n]."""
        found: Table = 1 / (1 + np.exp(-(self._rows(sure, signals) @ self.weights_)))
        return found

    def _rows(self, sure: Table, signals: Signals | None) -> Table:
        inside = np.clip(sure, _EDGE, 1 - _EDGE)
        logit = np.log(inside / (1 - inside))
        rows = np.column_stack([np.ones(len(sure)), logit, np.zeros((len(sure), 3))])
        if signals is not None:
            rows[signals.outside, 1] = 0.0
            rows[:, 2] = signals.outside
            for column, each, mean, spread in zip((3, 4), (signals.entropy, signals.away), *self.usual_, strict=True):
                rows[:, column] = np.nan_to_num((each - mean) / spread, nan=0.0)
        return rows


def _spread(values: Table) -> float:
    spread = float(values.std()) if len(values) else 0.0
    return spread if spread > 0 else 1.0


def selective(sure: ArrayLike, right: ArrayLike, share: float = 0.5) -> float:
    """The share right among the `share` of questions that are answered with most confidence; NaN without questions.

    >>> selective([0.9, 0.8, 0.2, 0.1], [1, 1, 0, 1])
    1.0
    """
    order = _surest(sure)
    kept = order[: max(1, round(share * len(order)))] if len(order) else order
    return float(np.asarray(right, dtype=np.float64)[kept].mean()) if len(kept) else float("nan")


def risk_coverage(sure: ArrayLike, right: ArrayLike) -> Table:
    """The share wrong among the k surest answers, for k = 1 … n: the risk-coverage curve."""
    hits = np.asarray(right, dtype=np.float64)[_surest(sure)]
    curve: Table = 1 - np.cumsum(hits) / np.arange(1, len(hits) + 1)
    return curve


def aurc(sure: ArrayLike, right: ArrayLike) -> float:
    """The area under the risk-coverage curve (Geifman et al. 2019), lower is better; NaN without questions.

    >>> aurc([0.9, 0.5], [1, 0]), aurc([0.5, 0.9], [1, 0])
    (0.25, 0.75)
    """
    curve = risk_coverage(sure, right)
    return float(curve.mean()) if len(curve) else float("nan")


def aurc_difference(
    a: tuple[ArrayLike, ArrayLike], b: tuple[ArrayLike, ArrayLike], *, resamples: int = 1000, seed: int = 0
) -> tuple[float, float, float]:
    """The area of (sure, right) `a` less that of `b` on the same questions, with its paired bootstrap interval at 95 %."""
    rows = [(np.asarray(sure, dtype=np.float64), np.asarray(right, dtype=np.float64)) for sure, right in (a, b)]
    n = len(rows[0][0])
    rng = np.random.default_rng(seed)
    found = np.empty(resamples)
    for turn in range(resamples):
        drawn = rng.integers(0, n, n)
        found[turn] = aurc(rows[0][0][drawn], rows[0][1][drawn]) - aurc(rows[1][0][drawn], rows[1][1][drawn])
    low, high = np.quantile(found, [0.025, 0.975])
    return aurc(*rows[0]) - aurc(*rows[1]), float(low), float(high)


def caught(sure: ArrayLike, right: ArrayLike, share: float = 0.2) -> float:
    """Of the errors that flagging this share of questions could catch at most, how many flagging the least sure ones
    catches; NaN where there is no error.

    >>> caught([0.9, 0.8, 0.3, 0.2, 0.1], [1, 0, 1, 0, 0], share=0.4)
    1.0
    """
    wrong = 1 - np.asarray(right, dtype=np.float64)
    order = _surest(sure)
    flagged = order[len(order) - round(share * len(order)) :]
    most = min(float(len(flagged)), float(wrong.sum()))
    return float(wrong[flagged].sum() / most) if most > 0 else float("nan")


def _surest(sure: ArrayLike) -> NDArray[np.int64]:
    found: NDArray[np.int64] = np.argsort(-np.asarray(sure, dtype=np.float64), kind="stable")
    return found
