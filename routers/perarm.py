"""What routers share that learn something common to all arms once, and then each arm by itself."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from routers.errors import NotFittedError, RouterError
from routers.types import Arm, Array, Outcomes, Questions, Reason

Table = NDArray[np.float64]
Column = dict[str, NDArray[Any]]


@dataclass(slots=True)
class PerArm(ABC):
    """Fits, adds, removes and shows arms; a subclass says what is common (`_common`), what is learnt of one arm
    (`_column`, from its own outcomes alone) and how scores come of it (`_score`).

    Learnt values end with an underscore. `stacked_` is a cache of `_stack` and never saved.
    """

    arms_: tuple[Arm, ...] = field(default=(), init=False, repr=False, compare=False)
    columns_: tuple[Column, ...] = field(default=(), init=False, repr=False, compare=False)
    stacked_: Any = field(default=None, init=False, repr=False, compare=False, metadata={"transient": True})

    @property
    def arms(self) -> tuple[Arm, ...]:
        """The arms of the columns of `score`."""
        if not self.arms_:
            raise NotFittedError(f"{type(self).__name__} has not been fitted\n  next: call fit(questions, outcomes)")
        return self.arms_

    def fit(self, questions: Questions, outcomes: Outcomes) -> Self:
        """Learn from outcomes (cells nobody ran may be missing); a second fit forgets the first.

        Raises RouterError when nothing was observed or a score is not in [0, 1].
        """
        need_outcomes(outcomes)
        questions, outcomes = in_order(questions, outcomes)
        self._common(questions, outcomes)
        self.columns_ = self._columns(questions, outcomes)
        self.arms_, self.stacked_ = outcomes.arms, None
        return self

    def score(self, questions: Questions) -> Array:
        """Scores in [0, 1], shape (len(questions), len(arms))."""
        names = len(self.arms)
        if not len(questions):
            return np.zeros((0, names), dtype=np.float32)
        if self.stacked_ is None:
            self.stacked_ = self._stack()
        bounded: Array = np.clip(self._score(questions), 0, 1).astype(np.float32)
        return bounded

    def explain(self, questions: Questions) -> list[Reason]:
        """A reason per question."""
        self.arms  # noqa: B018 - refuses before fit
        return self._explain(questions) if len(questions) else []

    def add_arm(self, questions: Questions, outcomes: Outcomes) -> Self:
        """Learn the new arms of `outcomes` from their outcomes on `questions`; the others stay as they are."""
        known = {arm.name for arm in self.arms}
        if twice := [arm.name for arm in outcomes.arms if arm.name in known]:
            raise RouterError(f"{', '.join(twice)} is an arm already\n  next: remove it first, or update it")
        need_outcomes(outcomes)
        questions, outcomes = in_order(questions, outcomes)
        self.columns_ += self._columns(questions, outcomes)
        self.arms_, self.stacked_ = (*self.arms_, *outcomes.arms), None
        return self

    def remove_arm(self, name: str) -> Self:
        """Forget an arm. Raises RouterError for one that is not there, or for the last one."""
        place = self._place(name)
        if len(self.arms_) == 1:
            raise RouterError(f"{name} is the only arm\n  next: add another one first")
        self.arms_ = self.arms_[:place] + self.arms_[place + 1 :]
        self.columns_ = self.columns_[:place] + self.columns_[place + 1 :]
        self.stacked_ = None
        return self

    def learnt(self, name: str) -> Mapping[str, NDArray[Any]]:
        """What was learnt of one arm."""
        return self.columns_[self._place(name)]

    # What a subclass says

    @abstractmethod
    def _score(self, questions: Questions) -> Table:
        """Scores before they are cut to [0, 1], from `stacked_`; there is at least one question."""

    def _common(self, questions: Questions, outcomes: Outcomes) -> None:  # noqa: B027 - most learn nothing
        """Learn what all arms share; here nothing."""

    def _column(self, questions: Questions, score: Table, cost: Table) -> Column:
        """What is learnt of one arm with these scores and costs, [n] each, NaN where nobody ran it (or cost is unknown);
        here nothing."""
        return {}

    def _columns(self, questions: Questions, outcomes: Outcomes) -> tuple[Column, ...]:
        """What is learnt of each arm, from its own outcomes alone; here one `_column` after the other."""
        scores, costs = outcomes.matrix(len(questions)), outcomes.costs(len(questions))
        return tuple(self._column(questions, scores[:, i], costs[:, i]) for i in range(len(outcomes.arms)))

    def _stack(self) -> Any:
        """The columns as `_score` wants them; made once after every change."""
        return {name: np.stack([column[name] for column in self.columns_]) for name in self.columns_[0]}

    def _explain(self, questions: Questions) -> list[Reason]:
        """A reason for each of at least one question."""
        return [Reason()] * len(questions)

    def _place(self, name: str) -> int:
        names = [arm.name for arm in self.arms]
        if name not in names:
            raise RouterError(f"no arm is called {name!r}\n  next: name one of {', '.join(sorted(names))}")
        return names.index(name)


def need_outcomes(outcomes: Outcomes) -> None:
    """Raise RouterError when nothing was observed, or a score is not in [0, 1]."""
    if len(outcomes.question) == 0 or not outcomes.arms:
        raise RouterError("there are no outcomes to learn from\n  next: run `coe profile` on a labelled set")
    if not bool(np.all((outcomes.score >= 0) & (outcomes.score <= 1))):
        raise RouterError("an outcome's score is not in [0, 1]\n  next: check the grader that wrote the profile")


def in_order(questions: Questions, outcomes: Outcomes) -> tuple[Questions, Outcomes]:
    """Both with the questions in the order of their ids, so that what is learnt does not depend on the order of rows."""
    order = sorted(range(len(questions)), key=questions.ids.__getitem__)
    if order == list(range(len(questions))):
        return questions, outcomes
    return questions.take(order), outcomes.take(order)


def mean_seen(score: Table, otherwise: float = 0.5) -> float:
    """The mean of what was observed, `otherwise` where nothing was."""
    seen = score[~np.isnan(score)]
    return float(seen.mean()) if len(seen) else otherwise
