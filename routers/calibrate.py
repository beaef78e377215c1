"""From scores to probabilities: what a router says should be how often the arm is right."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from routers.errors import NotFittedError
from routers.perarm import Table
from routers.stats import calibration_split
from routers.types import Arm, Array, Outcomes, Questions, Reason, Router

_EDGE = 1e-4
_HOLD = 1.0  # of the penalty that holds slope and offset: about as strong as two answers


@dataclass(slots=True)
class Calibrator:
    """P(right) = sigmoid(slope x logit(score) + offset), an own slope and offset for each arm from its own outcomes:
    Platt's scaling (Platt 1999), held by an L2 penalty near (1, 0), the score as it is, so that few outcomes change
    little. An arm that was not there at `fit` keeps its scores."""

    arms_: dict[str, tuple[float, float]] = field(default_factory=dict, init=False)

    def fit(self, scores: Array, truth: Table, arms: tuple[Arm, ...]) -> Self:
        """`scores` and `truth` are [n, arm]; truth in [0, 1], NaN where unobserved."""
        logits = _logit(scores)
        self.arms_ = {}
        for place, arm in enumerate(arms):
            seen = ~np.isnan(truth[:, place])
            if seen.any():
                self.arms_[arm.name] = _platt(logits[seen, place], truth[seen, place])
        return self

    def probable(self, scores: Array, arms: tuple[Arm, ...]) -> Array:
        """P(right), [n, arm]."""
        slope, offset = np.array([self.arms_.get(arm.name, (1.0, 0.0)) for arm in arms]).T
        found: Array = (1 / (1 + np.exp(-(slope * _logit(scores) + offset)))).astype(np.float32)
        return found


def _platt(logits: Table, truth: Table) -> tuple[float, float]:
    """Slope (not under 0: a better score never means a worse answer) and offset."""
    from scipy.optimize import minimize  # noqa: PLC0415 - a quarter of a second

    def loss(at: Table) -> tuple[float, Table]:
        slope, offset = at
        value = slope * logits + offset
        miss = 1 / (1 + np.exp(-value)) - truth
        total = float((np.logaddexp(0, value) - truth * value).sum() + _HOLD * ((slope - 1) ** 2 + offset**2))
        return total, np.array([miss @ logits + 2 * _HOLD * (slope - 1), miss.sum() + 2 * _HOLD * offset])

    found = minimize(loss, np.array([1.0, 0.0]), jac=True, method="L-BFGS-B", bounds=[(0, None), (None, None)])
    return float(found.x[0]), float(found.x[1])


@dataclass(slots=True)
class CalibratedRouter:
    """A router whose scores are probabilities: fitted on four fifths of the questions, calibrated on the last one
    (`calibration_split`), then fitted again on all."""

    router: Router
    fitted_: Router | None = field(default=None, init=False, repr=False, compare=False)
    calibrator_: Calibrator = field(default_factory=Calibrator, init=False, repr=False, compare=False)

    @property
    def arms(self) -> tuple[Arm, ...]:
        """The arms of the columns of `score`."""
        return self._known().arms

    def fit(self, questions: Questions, outcomes: Outcomes) -> Self:
        """Fit, calibrate, fit again."""
        held = calibration_split(questions.ids, questions.vectors)
        inner, outer = np.flatnonzero(~held), np.flatnonzero(held)
        self.calibrator_ = Calibrator()
        part = outcomes.take(inner)
        if len(outer) and len(part.question):
            trial = copy.deepcopy(self.router).fit(questions.take(inner), part)
            truth = outcomes.take(outer).matrix(len(outer))
            self.calibrator_.fit(trial.score(questions.take(outer)), truth, outcomes.arms)
        self.fitted_ = copy.deepcopy(self.router).fit(questions, outcomes)
        return self

    def score(self, questions: Questions) -> Array:
        """P(right), shape (len(questions), len(arms))."""
        router = self._known()
        return self.calibrator_.probable(router.score(questions), router.arms)

    def explain(self, questions: Questions) -> list[Reason]:
        """The router's."""
        return self._known().explain(questions)

    def add_arm(self, questions: Questions, outcomes: Outcomes) -> Self:
        """The router learns the new arms; their scores are taken as they are."""
        self._known().add_arm(questions, outcomes)
        return self

    def remove_arm(self, name: str) -> Self:
        """The router forgets the arm."""
        self._known().remove_arm(name)
        self.calibrator_.arms_.pop(name, None)
        return self

    def learnt(self, name: str) -> Mapping[str, NDArray[Any]]:
        """What the router learnt of one arm, and the arm's slope and offset."""
        own = self._known().learnt(name)
        return {**own, "slope and offset": np.array(self.calibrator_.arms_.get(name, (1.0, 0.0)))}

    def _known(self) -> Router:
        if self.fitted_ is None:
            raise NotFittedError("CalibratedRouter has not been fitted\n  next: call fit(questions, outcomes)")
        return self.fitted_


def calibration_error(probable: ArrayLike, truth: ArrayLike, bins: int = 10) -> float:
    """Expected calibration error: the mean over equal-count bins of |mean probability - share right|, by size.

    >>> calibration_error([0.2, 0.2, 0.8, 0.8], [0, 0, 1, 1], bins=2)
    0.2
    """
    stated, found = np.ravel(np.asarray(probable, dtype=float)), np.ravel(np.asarray(truth, dtype=float))
    seen = ~np.isnan(found)
    stated, found = stated[seen], found[seen]
    if not len(found):
        return float("nan")
    parts = np.array_split(np.argsort(stated, kind="stable"), min(bins, len(found)))
    gaps = [abs(stated[part].mean() - found[part].mean()) * len(part) for part in parts]
    return round(float(sum(gaps) / len(found)), 6)


def _logit(scores: Array) -> Table:
    inside = np.clip(scores.astype(np.float64), _EDGE, 1 - _EDGE)
    found: Table = np.log(inside / (1 - inside))
    return found
