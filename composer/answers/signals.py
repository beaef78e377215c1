"""Knowing when it does not know: how sure an answer is, how well that separates right from wrong, and its measures."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from composer.answers.ballots import Table
from routers.coverage import Signals

_EDGE = 1e-3
_NEVER_FOR = (2, 3)  # columns: how mixed, how far away


@dataclass(slots=True)
class Sureness:
    """P(right) of an answer from how sure its aggregator was, and from where its question lies: logistic regression
    (L2, scikit-learn) on logit(sure), the entropy of the neighbours' domains, and the distance to them in standard
    deviations.

    After the boundary-aware calibration of METHODS F.4 (ours), of answers instead of experts. Distance and entropy never
    speak for an answer, and a term that does not earn its place (Schwarz's criterion, 1978) is left out: where nothing is
    shown this is Platt's scaling. What is unknown (NaN, or no signals) counts as usual.
    """

    weights_: Table = field(
        default_factory=lambda: np.array([0.0, 1.0, 0.0, 0.0]), init=False, repr=False, compare=False
    )
    usual_: Table = field(
        default_factory=lambda: np.array([[0.0, 0.0], [1.0, 1.0]]), init=False, repr=False, compare=False
    )

    def fit(self, sure: Table, signals: Signals | None, right: Table) -> Self:
        """Learn from questions whose answer is known, [n] each; `right` in [0, 1]. All right or all wrong: unchanged."""
        known = [each[~np.isnan(each)] for each in ((signals.entropy, signals.away) if signals else ())]
        if known:
            self.usual_ = np.array(
                [[float(each.mean()) if len(each) else 0.0 for each in known], [_spread(each) for each in known]]
            )
        target = right >= 0.5
        if target.all() or not target.any():
            return self
        rows, price = self._rows(sure, signals), np.log(len(right)) / 2
        kept = [0, 1, *(column for column in _NEVER_FOR if np.ptp(rows[:, column]) > 0)]
        self.weights_, likely = _logistic(rows, kept, target)
        if self.weights_[1] <= 0:  # confidence that speaks against an answer is noise: what is left is the share right
            share = (target.sum() + 1) / (len(target) + 2)
            self.weights_ = np.array([np.log(share / (1 - share)), 0.0, 0.0, 0.0])
            return self
        while len(kept) > 2:
            rising = [column for column in kept[2:] if self.weights_[column] > 0]
            fewer = {column: _logistic(rows, [one for one in kept if one != column], target) for column in kept[2:]}
            least = max(fewer, key=lambda column: (column in rising, fewer[column][1]))
            if least not in rising and fewer[least][1] < likely - price:
                break
            kept.remove(least)
            self.weights_, likely = fewer[least]
        return self

    def probable(self, sure: Table, signals: Signals | None) -> Table:
        """P(right), [n]."""
        found: Table = 1 / (1 + np.exp(-(self._rows(sure, signals) @ self.weights_)))
        return found

    def _rows(self, sure: Table, signals: Signals | None) -> Table:
        inside = np.clip(sure, _EDGE, 1 - _EDGE)
        logit = np.log(inside / (1 - inside))
        rows = np.column_stack([np.ones(len(sure)), logit, np.zeros((len(sure), len(_NEVER_FOR)))])
        if signals is not None:
            for column, each, mean, spread in zip(
                _NEVER_FOR, (signals.entropy, signals.away), *self.usual_, strict=True
            ):
                rows[:, column] = np.nan_to_num((each - mean) / spread, nan=0.0)
        return rows


def _logistic(rows: Table, kept: list[int], target: NDArray[np.bool_]) -> tuple[Table, float]:
    """The weights of a regression on the columns `kept` (the first is constant), and its log-likelihood."""
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415 - half a second

    model = LogisticRegression(C=10.0).fit(rows[:, kept[1:]], target)
    weights = np.zeros(rows.shape[1])
    weights[kept] = [*model.intercept_, *model.coef_[0]]
    raw = rows @ weights
    return weights, float(-np.logaddexp(0, np.where(target, -raw, raw)).sum())


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
