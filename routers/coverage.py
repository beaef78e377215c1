"""Is this question inside what the arms are known to do? (Transitive Expert Error; METHODS F, all formulas ours)"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from routers.errors import NotFittedError, RouterError
from routers.nearest import Nearest
from routers.perarm import Table
from routers.records import fallback_row, generalist_place, label_matrix
from routers.stats import calibration_split, entropy
from routers.types import Arm, Array, Outcomes, Questions, Reason, Router, weighed

GAP, BOUNDARY = "coverage gap", "boundary"


@dataclass(frozen=True, slots=True)
class Signals:
    """Per question: `gap` is the conformal p-value of belonging to the profile, `away` the mean distance (1 - cosine) to
    its neighbours, `margin` the distance between the two best scores, `entropy` how mixed the domains of its neighbours
    are (0 to 1); `outside` and `border` are what crossed a threshold."""

    gap: Table
    away: Table
    margin: Table
    entropy: Table
    outside: NDArray[np.bool_]
    border: NDArray[np.bool_]

    @classmethod
    def told(cls, reasons: Sequence[Reason]) -> Signals:
        """As they stand in reasons; NaN where nobody measured them."""
        gap, away, margin, mixed = (
            np.array([getattr(reason, name) for reason in reasons], dtype=np.float64)
            for name in ("gap", "away", "margin", "entropy")
        )
        outside, border = (np.array([flag in reason.flags for reason in reasons], bool) for flag in (GAP, BOUNDARY))
        return cls(gap, away, margin, mixed, outside, border)

    @property
    def flags(self) -> list[tuple[str, ...]]:
        """The names of what crossed its threshold, per question."""
        return [
            (*((GAP,) if outside else ()), *((BOUNDARY,) if border else ()))
            for outside, border in zip(self.outside.tolist(), self.border.tolist(), strict=True)
        ]

    def take(self, rows: NDArray[np.int64]) -> Signals:
        """Those of the questions at `rows`."""
        return Signals(*(getattr(self, each.name)[rows] for each in fields(self)))


@dataclass(slots=True)
class Coverage:
    """Signals of a question that lies outside, or on a border, of what the profile covers.

    Gap: r(x) is the mean distance (1 - cosine) to the `k` nearest profile questions; its conformal p-value is
    (1 + #{r_i >= r(x)}) / (n + 1) over the distances r_i of a fifth of the profile to the rest (near-duplicates on one
    side). Under `alarm` the question is flagged: by construction at most that share of questions like the profile's is.
    Boundary: the margin of the scores is under the 20th percentile of that fifth, or its neighbours' labels are more
    mixed than the 80th. Flags are heuristics. Softmax scores are no gap detector: they are sure far from the data.
    """

    k: int = 10
    alarm: float = 0.05
    nearest_: Nearest = field(default_factory=Nearest, init=False, repr=False, compare=False)
    labels_: Table = field(default_factory=lambda: np.zeros((0, 0)), init=False, repr=False, compare=False)
    distances_: Table = field(default_factory=lambda: np.zeros(0), init=False, repr=False, compare=False)
    mixed_: float = field(default=1.0, init=False, repr=False, compare=False)
    margin_: float = field(default=0.0, init=False, repr=False, compare=False)

    def fit(self, questions: Questions, scores: Array | None = None) -> Self:
        """Learn where the profile lies. `scores` [n, arm] of the same questions set the margin's threshold, without them no
        margin is flagged; only those of the calibration part count, from a router that was not fitted on it."""
        _, labels = label_matrix(questions)
        held = calibration_split(questions.ids, questions.vectors)
        inner, outer = np.flatnonzero(~held), np.flatnonzero(held)
        self.nearest_ = Nearest().fit(questions.vectors[inner])
        self.labels_ = labels[inner] / np.maximum(labels[inner].sum(axis=1, keepdims=True), 1)
        away, mixed = self.around(questions.vectors[outer])
        self.distances_ = np.sort(away)
        self.mixed_ = _percentile(mixed, 80, 1.0)
        self.margin_ = 0.0 if scores is None else _percentile(margins(scores)[outer], 20, 0.0)
        return self

    def signals(self, vectors: Array, scores: Array) -> Signals:
        """The signals of questions with these vectors [n, dim] and scores [n, arm]."""
        away, mixed = self.around(vectors)
        beyond = len(self.distances_) - np.searchsorted(self.distances_, away, side="left")
        gap = (1 + beyond) / (len(self.distances_) + 1)
        margin = margins(scores)
        return Signals(gap, away, margin, mixed, gap < self.alarm, (margin < self.margin_) | (mixed > self.mixed_))

    def around(self, vectors: Array) -> tuple[Table, Table]:
        """Mean distance to the k nearest, and the normalised entropy of their labels."""
        if not len(vectors):
            return np.zeros(0), np.zeros(0)
        rows, cosine = self.nearest_.find(vectors, self.k)
        shares = self.labels_[rows].mean(axis=1)
        total = shares.sum(axis=1, keepdims=True)
        mixed = entropy(np.divide(shares, total, out=np.zeros_like(shares), where=total > 0))
        return (1 - cosine).mean(axis=1).round(6), mixed


@dataclass(slots=True)
class CoveredRouter:
    """A router that trusts no specialist with a question outside the profile: it goes to the `generalist` (None: arms
    are ranked by their overall share). The signals of `Coverage` stand in the reasons.

    Source: the coverage gap and the border of METHODS F, as `Coverage` measures them. What differs: only a gap changes who
    is asked, a border is told. The margin's threshold comes of a second router, fitted on the questions outside the
    calibration part; where these are too few to fit one, no margin is flagged.
    """

    router: Router
    generalist: str | None = None
    alarm: float = 0.05
    fitted_: Router | None = field(default=None, init=False, repr=False, compare=False)
    coverage_: Coverage = field(default_factory=Coverage, init=False, repr=False, compare=False)
    overall_: dict[str, float] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def arms(self) -> tuple[Arm, ...]:
        """The arms of the columns of `score`."""
        return self._known().arms

    def fit(self, questions: Questions, outcomes: Outcomes) -> Self:
        """Fit the router and learn where the profile lies."""
        self.fitted_ = copy.deepcopy(self.router).fit(questions, outcomes)
        self.coverage_ = Coverage(alarm=self.alarm).fit(questions, self._unseen(questions, outcomes))
        self.overall_ = {}
        self._note(questions, outcomes)
        generalist_place(outcomes.arms, self.generalist)
        return self

    def score(self, questions: Questions) -> Array:
        """The router's scores; those of the fallback where the question lies outside."""
        scores = self._known().score(questions)
        return self._led(scores, self.coverage_.signals(questions.vectors, scores))

    def explain(self, questions: Questions) -> list[Reason]:
        """The router's reasons with the signals."""
        return self.weigh(questions)[1]

    def weigh(self, questions: Questions) -> tuple[Array, list[Reason]]:
        """Both, with the router asked once."""
        scores, reasons = weighed(self._known(), questions)
        found = self.coverage_.signals(questions.vectors, scores)
        return self._led(scores, found), [
            self._told(reason, found, flags, row)
            for row, (reason, flags) in enumerate(zip(reasons, found.flags, strict=True))
        ]

    def signals(self, questions: Questions) -> Signals:
        """Where the questions lie, by the router's own scores."""
        return self.coverage_.signals(questions.vectors, self._known().score(questions))

    def add_arm(self, questions: Questions, outcomes: Outcomes) -> Self:
        """The router learns the new arms."""
        self._known().add_arm(questions, outcomes)
        self._note(questions, outcomes)
        return self

    def remove_arm(self, name: str) -> Self:
        """The router forgets the arm."""
        self._known().remove_arm(name)
        self.overall_.pop(name, None)
        return self

    def learnt(self, name: str) -> Mapping[str, NDArray[Any]]:
        """What the router learnt of one arm, and its overall share."""
        return {**self._known().learnt(name), "overall share": np.array(self.overall_[name])}

    def _unseen(self, questions: Questions, outcomes: Outcomes) -> Array | None:
        """Scores of the calibration part by a router that has not seen it, 0 for the others; None where none can be had."""
        held = calibration_split(questions.ids, questions.vectors)
        inner, outer = np.flatnonzero(~held), np.flatnonzero(held)
        try:
            router = copy.deepcopy(self.router).fit(questions.take(inner), outcomes.take(inner))
        except RouterError:  # what is left has no outcome, no label, or one skill alone
            return None
        scores = np.zeros((len(questions), len(router.arms)), dtype=np.float32)
        scores[outer] = router.score(replace(questions.take(outer), skills=()))
        return scores

    def _led(self, scores: Array, found: Signals) -> Array:
        """`scores` with the fallback's where the question lies outside."""
        arms = self.arms
        overall = np.array([self.overall_[arm.name] for arm in arms])
        led = scores.copy()
        led[found.outside] = fallback_row(overall, generalist_place(arms, self.generalist))
        return led

    def _told(self, reason: Reason, found: Signals, flags: tuple[str, ...], row: int) -> Reason:
        taker = f"left to {self.generalist}" if self.generalist is not None else "arms are ranked by overall record"
        why = f"it lies outside the profile (p {found.gap[row]:.3f}): {taker}"
        return replace(
            reason,
            fallback=why if found.outside[row] else reason.fallback,
            gap=round(float(found.gap[row]), 4),
            away=round(float(found.away[row]), 6),
            margin=round(float(found.margin[row]), 4),
            entropy=round(float(found.entropy[row]), 4),
            flags=(*reason.flags, *flags),
        )

    def _note(self, questions: Questions, outcomes: Outcomes) -> None:
        scores = outcomes.matrix(len(questions))
        seen = ~np.isnan(scores)
        mean = np.where(seen, scores, 0).sum(axis=0) / np.maximum(seen.sum(axis=0), 1)
        self.overall_.update({arm.name: float(value) for arm, value in zip(outcomes.arms, mean, strict=True)})

    def _known(self) -> Router:
        if self.fitted_ is None:
            raise NotFittedError("CoveredRouter has not been fitted\n  next: call fit(questions, outcomes)")
        return self.fitted_


def margins(scores: Array) -> Table:
    """Best score minus second best, [n]; 1 where there is one arm.

    >>> margins(np.array([[0.5, 0.25, 0.75]], dtype=np.float32)).tolist()
    [0.25]
    """
    if scores.shape[1] < 2:
        return np.ones(len(scores))
    top = np.partition(scores.astype(np.float64), -2, axis=1)[:, -2:]
    found: Table = top[:, 1] - top[:, 0]
    return found


def _percentile(values: Table, at: float, otherwise: float) -> float:
    if not len(values):
        return otherwise
    # np.percentile would load numpy.ma: 30 ms of every start
    return float(np.interp(at / 100 * (len(values) - 1), np.arange(len(values)), np.sort(values)))
