"""The blend: the mean of several routers' scores."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from routers.errors import NotFittedError, RouterError
from routers.types import Arm, Array, Outcomes, Questions, Reason, Router


@dataclass(slots=True)
class BlendRouter:
    """Scores are the mean of the members' scores, which should all be probabilities of being right.

    Source: ours. Routers that err for different reasons (a table per domain, a regression, neighbours) differ by noise
    where a profile is small; their mean has less of it. Members are fitted on the same outcomes, each by itself.
    """

    members: tuple[Router, ...]
    fitted_: tuple[Router, ...] = field(default=(), init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.members:
            raise RouterError("a blend needs at least one member")

    @property
    def arms(self) -> tuple[Arm, ...]:
        """The arms of the columns of `score`."""
        if not self.fitted_:
            raise NotFittedError("BlendRouter has not been fitted\n  next: call fit(questions, outcomes)")
        return self.fitted_[0].arms

    def fit(self, questions: Questions, outcomes: Outcomes) -> Self:
        """Fit every member."""
        self.fitted_ = tuple(copy.deepcopy(member).fit(questions, outcomes) for member in self.members)
        return self

    def score(self, questions: Questions) -> Array:
        """The mean of the members' scores, shape (len(questions), len(arms))."""
        self.arms  # noqa: B018 - refuses before fit
        scores = np.stack([member.score(questions) for member in self.fitted_])
        mean: Array = scores.astype(np.float64).mean(axis=0).astype(np.float32)
        return mean

    def explain(self, questions: Questions) -> list[Reason]:
        """The first member's skills and neighbours; the note names all members."""
        self.arms  # noqa: B018
        names = ", ".join(type(member).__name__.removesuffix("Router").lower() for member in self.members)
        reasons = self.fitted_[0].explain(questions)
        return [Reason(reason.skills, reason.nearest, reason.fallback, f"mean of {names}") for reason in reasons]

    def add_arm(self, questions: Questions, outcomes: Outcomes) -> Self:
        """Every member learns the new arms."""
        self.arms  # noqa: B018
        for member in self.fitted_:
            member.add_arm(questions, outcomes)
        return self

    def remove_arm(self, name: str) -> Self:
        """Every member forgets the arm."""
        self.arms  # noqa: B018
        for member in self.fitted_:
            member.remove_arm(name)
        return self

    def learnt(self, name: str) -> Mapping[str, NDArray[Any]]:
        """What each member learnt of one arm."""
        self.arms  # noqa: B018
        return {
            f"{place}.{key}": value
            for place, member in enumerate(self.fitted_)
            for key, value in member.learnt(name).items()
        }
