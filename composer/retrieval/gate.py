"""Gates: for which questions reading passages is worth what it costs. They see features of a question, never its answer.

A gate estimates how much likelier the right answer becomes by reading, `gain`; passages are looked up and read where a right
answer's value times the gain exceeds the cost. The decision rule and the cost report are those of ExpertRAG (2025), which
has no experiments; the gates are METHODS' own choice of known signals.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from composer.errors import InputError

Table = NDArray[np.float64]
Marks = NDArray[np.bool_]

_LEAST = 20  # questions asked both ways, under which nothing can be learnt
_GROUP = 16  # questions whose mean gain says something
_PRIOR = 3.0  # questions with the mean gain of all, beside those that are near or alike
_HOLD = 1.0  # of the penalty on weights; features have a spread of 1


@dataclass(frozen=True, slots=True)
class Signals:
    """Of n questions, as far as known (None: nobody looked). `entropy` of the answers of a few short samples, in nats;
    `margin`: probability of the first answer token less that of the next best; `confidence`: mean log-probability of a draft's
    tokens; `length` of the question in characters; `top` and `gap`: the best cosine among the passages, and how far
    the fifth is below it; `near`: cosine with the middle of all passages; `overlap`: the share of the question's words,
    weighed by how rare they are, that one of the nearest passages has; `vectors` [n, dim] of the questions."""

    length: Table
    entropy: Table | None = None
    margin: Table | None = None
    confidence: Table | None = None
    top: Table | None = None
    gap: Table | None = None
    near: Table | None = None
    overlap: Table | None = None
    vectors: Table | None = None

    def __len__(self) -> int:
        return len(self.length)

    def rows(self, rows: NDArray[np.int64]) -> Signals:
        """These questions alone."""
        found: dict[str, Any] = {}
        for one in fields(self):
            column = getattr(self, one.name)
            found[one.name] = None if column is None else column[rows]
        return Signals(**found)

    def column(self, name: str) -> Table:
        """A signal. Raises InputError where nobody looked."""
        found: Table | None = getattr(self, name)
        if found is None:
            raise InputError(f"the gate needs the signal {name!r}, and nobody looked at it", remedy="use another gate")
        return found


DRAFTED = ("entropy", "margin", "confidence")
"""The signals that cost drafts. The others are there before anybody is asked."""


class Gate(Protocol):
    """`fit` on questions asked both ways, then `gain`."""

    @property
    def needs(self) -> frozenset[str]:
        """The signals it cannot do without."""
        ...

    def fit(self, signals: Signals, without: Table, reading: Table) -> Self:
        """`without` and `reading` [n] are what the answers were worth, in [0, 1]. Raises InputError for too few."""
        ...

    def gain(self, signals: Signals) -> Table:
        """[n]: what reading adds to P(right)."""
        ...


def opens(gate: Gate, signals: Signals, cost: float, value: float = 1.0) -> Marks:
    """[n]: where reading pays: value of a right answer times gain > cost, both in one unit.

    >>> opens(Always(), Signals(np.ones(2)), cost=0.5).tolist(), opens(Never(), Signals(np.ones(2)), cost=0).tolist()
    ([True, True], [False, False])
    """
    return np.asarray(value * gate.gain(signals) > cost, dtype=bool)


@dataclass(slots=True)
class Never:
    """Answers from what the expert knows."""

    needs = frozenset[str]()

    def fit(self, signals: Signals, without: Table, reading: Table) -> Self:
        """Learns nothing."""
        return self

    def gain(self, signals: Signals) -> Table:
        """Less than any cost."""
        return np.full(len(signals), -np.inf)


@dataclass(slots=True)
class Always:
    """Reads before every answer, whatever it costs."""

    needs = frozenset[str]()

    def fit(self, signals: Signals, without: Table, reading: Table) -> Self:
        """Learns nothing."""
        return self

    def gain(self, signals: Signals) -> Table:
        """More than any cost."""
        return np.full(len(signals), np.inf)


@dataclass(slots=True)
class Threshold:
    """One signal: `entropy`, `margin` or `confidence`. Its gain is the mean gain of the questions with about this much of it,
    never less for a less certain one (isotonic regression), so that the threshold follows the cost."""

    signal: str = "entropy"
    doubt_: Table = field(default_factory=lambda: np.zeros(0), init=False)
    gain_: Table = field(default_factory=lambda: np.zeros(0), init=False)

    @property
    def needs(self) -> frozenset[str]:
        """Its signal."""
        return frozenset((self.signal,))

    def fit(self, signals: Signals, without: Table, reading: Table) -> Self:
        """Remember the steps of the regression."""
        from sklearn.isotonic import IsotonicRegression  # noqa: PLC0415 - half a second

        _enough(without)
        doubt = self._doubt(signals)
        line = IsotonicRegression(increasing=True, out_of_bounds="clip").fit(doubt, reading - without)
        self.doubt_, self.gain_ = (
            np.asarray(side, dtype=np.float64) for side in (line.X_thresholds_, line.y_thresholds_)
        )
        return self

    def gain(self, signals: Signals) -> Table:
        """Between the steps in a line."""
        return np.interp(self._doubt(signals), self.doubt_, self.gain_)

    def _doubt(self, signals: Signals) -> Table:
        column = signals.column(self.signal)
        return column if self.signal == "entropy" else -column


@dataclass(slots=True)
class Neighbours:
    """The mean gain of the k nearest questions that were asked both ways, held near the mean of all as if `prior` more of
    them had it (the labels are those of SKR, Wang et al. 2023: only reading right +1, only without -1)."""

    k: int = 15
    prior: float = _PRIOR
    vectors_: Table = field(default_factory=lambda: np.zeros((0, 0)), init=False)
    gains_: Table = field(default_factory=lambda: np.zeros(0), init=False)

    @property
    def needs(self) -> frozenset[str]:
        """The questions' vectors."""
        return frozenset(("vectors",))

    def fit(self, signals: Signals, without: Table, reading: Table) -> Self:
        """Remember them."""
        _enough(without)
        self.vectors_, self.gains_ = signals.column("vectors").astype(np.float64), reading - without
        return self

    def gain(self, signals: Signals) -> Table:
        """Of the nearest by cosine (vectors are unit rows)."""
        k = min(self.k, len(self.gains_))
        cosine = signals.column("vectors") @ self.vectors_.T
        rows = np.argpartition(-cosine, k - 1, axis=1)[:, :k]
        total = self.gains_[rows].sum(axis=1) + self.prior * self.gains_.mean()
        return np.asarray(total / (k + self.prior), dtype=np.float64)


@dataclass(slots=True)
class Worth:
    """P(right | reading) less P(right | not reading): two logistic regressions (L2) on all signals that are there, and on the
    neighbours' gain where there are vectors. Each is calibrated by cross-fitting: Platt's line on what it says of questions
    that it did not learn from. Reading also hurts, so it is the difference that counts, not whether the expert is wrong; and
    of the differences the largest are too large, so these are calibrated once more, by what reading did add there
    (isotonic regression over groups of such questions). With `drafts` it also looks at what costs drafts."""

    drafts: bool = False
    folds: int = 5
    names_: tuple[str, ...] = field(default=(), init=False)
    middle_: Table = field(default_factory=lambda: np.zeros(0), init=False)
    spread_: Table = field(default_factory=lambda: np.zeros(0), init=False)
    weights_: Table = field(default_factory=lambda: np.zeros((2, 0)), init=False)
    lines_: Table = field(default_factory=lambda: np.zeros((2, 2)), init=False)
    near_: Neighbours | None = field(default=None, init=False)
    said_: Table = field(default_factory=lambda: np.zeros(0), init=False)
    gain_: Table = field(default_factory=lambda: np.zeros(0), init=False)

    @property
    def needs(self) -> frozenset[str]:
        """What was there when it was fitted."""
        return frozenset(self.names_ if self.near_ is None else (*self.names_, "vectors"))

    def fit(self, signals: Signals, without: Table, reading: Table) -> Self:
        """Learn both; a question's own neighbours are looked for among the others alone."""
        _enough(without)
        passed = ("vectors",) if self.drafts else ("vectors", *DRAFTED)
        self.names_ = tuple(
            one.name for one in fields(signals) if one.name not in passed and getattr(signals, one.name) is not None
        )
        fold = np.random.default_rng(0).permutation(len(signals)) % self.folds
        held = np.zeros(len(signals))
        if signals.vectors is not None:
            for number in range(self.folds):
                rest, own = np.flatnonzero(fold != number), np.flatnonzero(fold == number)
                near = Neighbours().fit(signals.rows(rest), without[rest], reading[rest])
                held[own] = near.gain(signals.rows(own))
            self.near_ = Neighbours().fit(signals, without, reading)
        columns = self._columns(signals, held)
        self.middle_, self.spread_ = columns.mean(axis=0), np.maximum(columns.std(axis=0), 1e-9)
        scaled, probable = self._scaled(columns), []
        for side, truth in enumerate((without, reading)):
            apart = np.zeros(len(truth))
            for number in range(self.folds):
                rest, own = fold != number, fold == number
                apart[own] = scaled[own] @ _logistic(scaled[rest], truth[rest])
            weights = _logistic(scaled, truth)
            self.weights_ = np.zeros((2, scaled.shape[1])) if side == 0 else self.weights_
            self.weights_[side] = weights
            line = self.lines_[side] = _logistic(np.stack([apart, np.ones(len(apart))], axis=1), truth, hold=0.1)
            probable.append(_sigmoid(line[0] * apart + line[1]))
        self.said_, self.gain_ = _grouped(probable[1] - probable[0], reading - without)
        return self

    def gain(self, signals: Signals) -> Table:
        """The difference of both, calibrated."""
        without, reading = self.probable(signals)
        return np.interp(reading - without, self.said_, self.gain_)

    def probable(self, signals: Signals) -> tuple[Table, Table]:
        """[n] each: P(right) without and with reading."""
        near = self.near_.gain(signals) if self.near_ is not None else np.zeros(len(signals))
        scaled = self._scaled(self._columns(signals, near))
        said = [
            _sigmoid(line[0] * (scaled @ own) + line[1]) for own, line in zip(self.weights_, self.lines_, strict=True)
        ]
        return said[0], said[1]

    def _columns(self, signals: Signals, near: Table) -> Table:
        return np.stack([*(signals.column(name) for name in self.names_), near], axis=1).astype(np.float64)

    def _scaled(self, columns: Table) -> Table:
        scaled = (columns - self.middle_) / self.spread_
        return np.concatenate([np.clip(scaled, -5, 5), np.ones((len(columns), 1))], axis=1)


def entropy() -> Threshold:
    """How much a few short answers differ."""
    return Threshold("entropy")


def margin() -> Threshold:
    """How much likelier a draft's first token is than the next best."""
    return Threshold("margin")


def confidence() -> Threshold:
    """How likely a draft's tokens are."""
    return Threshold("confidence")


def worth_drafts() -> Worth:
    """`Worth`, with what drafts tell."""
    return Worth(drafts=True)


def _logistic(rows: Table, truth: Table, *, hold: float = _HOLD) -> Table:
    """Weights of the logistic regression of truth in [0, 1] on these rows, with an L2 penalty on all but the last, which
    is the constant."""
    from scipy.optimize import minimize  # noqa: PLC0415 - a quarter of a second

    penalty = np.full(rows.shape[1], hold)
    penalty[-1] = 1e-3

    def loss(weights: Table) -> tuple[float, Any]:
        value = rows @ weights
        miss = _sigmoid(value) - truth
        total = (np.logaddexp(0, value) - truth * value).sum() + 0.5 * (penalty * weights**2).sum()
        return float(total), rows.T @ miss + penalty * weights

    return np.asarray(minimize(loss, np.zeros(rows.shape[1]), jac=True, method="L-BFGS-B").x, dtype=np.float64)


def _grouped(said: Table, true: Table) -> tuple[Table, Table]:
    """The steps, never down, of what is true in the mean of each group of questions of which about the same was said, held near the
    mean of all as if `_PRIOR` more of them had it: a group that was right throughout is not right for ever."""
    from sklearn.isotonic import IsotonicRegression  # noqa: PLC0415 - half a second

    groups = np.array_split(np.argsort(said, kind="stable"), max(1, len(said) // _GROUP))
    means = np.array([said[group].mean() for group in groups])
    held = [(true[group].sum() + _PRIOR * true.mean()) / (len(group) + _PRIOR) for group in groups]
    found = IsotonicRegression().fit_transform(means, np.array(held))
    return means, np.asarray(found, dtype=np.float64)


def _sigmoid(value: Table) -> Table:
    return np.asarray(1 / (1 + np.exp(-np.clip(value, -40, 40))), dtype=np.float64)


def _enough(truth: Table) -> None:
    if len(truth) < _LEAST:
        raise InputError(
            f"{len(truth)} questions were asked both ways, {_LEAST} are needed to learn when reading pays",
            remedy="measure more with `coe profile labelled.jsonl`",
        )
