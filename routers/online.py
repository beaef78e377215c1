"""Learning while serving: explore a little, log with what probability, learn from the arms that were asked (METHODS I.6)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from routers.errors import RouterError
from routers.ridge import RidgeRouter
from routers.select import ranked
from routers.stats import bootstrap_interval
from routers.types import Arm, Array, Outcomes, Questions, Reason


@dataclass(frozen=True, slots=True)
class Choice:
    """One logged decision: the arm that was asked, with what probability, and whether it was explored."""

    question: str
    arm: str
    probability: float
    explored: bool


@dataclass(slots=True)
class OnlineRouter:
    """Ridge regression per arm that forgets, and an exploring choice.

    After DriftMoE (METHODS I.6), transposed to frozen experts: only the router learns, from the arms that ran, in closed
    form (`forget` per observation) instead of by gradient. `choose` asks the best arm, or with probability `explore` any
    arm, drawn from question id and seed; the probability is logged, so that any other router can be evaluated on the log
    (`inverse_propensity`). A drift alarm (Page-Hinkley) on an arm's errors shrinks that arm's evidence by `shrink`.
    Score a question before learning from it.
    """

    explore: float = 0.05
    forget: float = 0.995
    penalty: float = 10.0
    bonus: float = 0.0
    shrink: float = 0.1
    seed: int = 0
    ridge_: RidgeRouter = field(default_factory=RidgeRouter, init=False, repr=False, compare=False)
    drift_: dict[str, PageHinkley] = field(default_factory=dict, init=False, repr=False, compare=False)
    alarms_: dict[str, int] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not 0 <= self.explore <= 1:
            raise RouterError(f"explore is {self.explore}\n  next: give a share from 0 to 1")

    @property
    def arms(self) -> tuple[Arm, ...]:
        """The arms of the columns of `score`."""
        return self.ridge_.arms

    def fit(self, questions: Questions, outcomes: Outcomes) -> Self:
        """Learn a start, in no order of time: nothing of it is forgotten yet."""
        self.ridge_ = RidgeRouter(penalty=self.penalty, bonus=self.bonus).fit(questions, outcomes)
        self.drift_, self.alarms_ = {}, {}
        return self

    def score(self, questions: Questions) -> Array:
        """Predicted share right, shape (len(questions), len(arms))."""
        return self.ridge_.score(questions)

    def explain(self, questions: Questions) -> list[Reason]:
        """How much was learnt."""
        return self.ridge_.explain(questions)

    def choose(self, questions: Questions) -> list[Choice]:
        """An arm per question, with its probability of having been chosen."""
        scores = self.score(questions)
        best = ranked(scores, self.arms)[:, 0]
        names = [arm.name for arm in self.arms]
        found = []
        for row, name in enumerate(questions.ids):
            draw = np.random.default_rng(
                int.from_bytes(hashlib.sha256(f"{self.seed}:{name}".encode()).digest()[:8], "big")
            )
            explored = bool(draw.random() < self.explore)
            place = int(draw.integers(len(names))) if explored else int(best[row])
            probability = self.explore / len(names) + (1 - self.explore) * (place == best[row])
            found.append(Choice(name, names[place], float(probability), explored))
        return found

    def update(self, questions: Questions, outcomes: Outcomes) -> Self:
        """Learn from what the asked arms did, in the order of time; label delay only delays the call."""
        router = self.ridge_
        router.forget = self.forget
        known = {arm.name: i for i, arm in enumerate(router.arms)}
        expected = router.score(questions)
        scores = outcomes.matrix(len(questions))
        for place, arm in enumerate(outcomes.arms):
            if arm.name not in known:
                raise RouterError(f"no arm is called {arm.name!r}\n  next: add it with add_arm")
            for row in np.flatnonzero(~np.isnan(scores[:, place])):
                alarm = self.drift_.setdefault(arm.name, PageHinkley())
                if alarm.seen(abs(scores[row, place] - expected[row, known[arm.name]])):
                    self._forget(arm.name)
        router.update(questions, outcomes)
        return self

    def add_arm(self, questions: Questions, outcomes: Outcomes) -> Self:
        """Learn a start of the new arms, in no order of time: nothing of it is forgotten yet."""
        self.ridge_.forget = 1.0
        self.ridge_.add_arm(questions, outcomes)
        return self

    def remove_arm(self, name: str) -> Self:
        """Forget an arm."""
        self.ridge_.remove_arm(name)
        self.drift_.pop(name, None)
        self.alarms_.pop(name, None)
        return self

    def learnt(self, name: str) -> Mapping[str, NDArray[Any]]:
        """What was learnt of one arm."""
        return self.ridge_.learnt(name)

    def _forget(self, name: str) -> None:
        place = [arm.name for arm in self.arms].index(name)
        columns = list(self.ridge_.columns_)
        columns[place] = {key: self.shrink * value for key, value in columns[place].items()}
        self.ridge_.columns_, self.ridge_.stacked_ = tuple(columns), None
        self.alarms_[name] = self.alarms_.get(name, 0) + 1


@dataclass(slots=True)
class PageHinkley:
    """Page's cumulative test for a rise of the mean (Page 1954): alarm when the sum of (value - mean - `slack`) rises
    `limit` above its minimum; it then starts anew."""

    slack: float = 0.05
    limit: float = 8.0
    n_: int = field(default=0, init=False)
    mean_: float = field(default=0.0, init=False)
    sum_: float = field(default=0.0, init=False)
    low_: float = field(default=0.0, init=False)

    def seen(self, value: float) -> bool:
        """Take one value; True where it raises the alarm."""
        self.n_ += 1
        self.mean_ += (value - self.mean_) / self.n_
        self.sum_ += value - self.mean_ - self.slack
        self.low_ = min(self.low_, self.sum_)
        if self.sum_ - self.low_ <= self.limit:
            return False
        self.n_, self.mean_, self.sum_, self.low_ = 0, 0.0, 0.0, 0.0
        return True


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a policy would have been right, from another one's log: `mean` self-normalised, with its 95 % interval; `raw`
    is the unbiased inverse-propensity mean; `effective` the sample size that the weights leave."""

    mean: float
    low: float
    high: float
    raw: float
    effective: float


def inverse_propensity(log: Sequence[Choice], score: ArrayLike, target: Sequence[str]) -> Estimate:
    """Evaluate the policy that would have asked `target[i]` on question i, from logged choices and their scores: each
    counts 1 / probability where both agree (Horvitz and Thompson 1952; self-normalised after Hajek).

    Raises RouterError when the log never did what the target would have.
    """
    value = np.asarray(score, dtype=float)
    weight = np.array([(choice.arm == own) / choice.probability for choice, own in zip(log, target, strict=True)])
    if not weight.any():
        raise RouterError("the log holds no choice of the target's\n  next: log with more exploration")
    mean = float(weight @ value / weight.sum())
    share = weight * (value - mean) / weight.mean()  # the linearised estimate, one term per question
    low, high = bootstrap_interval(share)
    return Estimate(
        mean=mean,
        low=mean + low,
        high=mean + high,
        raw=float((weight * value).mean()),
        effective=float(weight.sum() ** 2 / (weight**2).sum()),
    )
