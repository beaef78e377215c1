"""Every router keeps the public contract; the contract notices routers that do not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import pytest
from numpy.typing import NDArray

from routers.baselines import BestSingle, KeywordRouter, RandomRouter, TfidfRouter
from routers.calibrate import CalibratedRouter
from routers.category import CategoryRouter
from routers.cluster import ClusterRouter
from routers.coverage import CoveredRouter
from routers.errors import NotFittedError, RouterError
from routers.form import FormRouter
from routers.hierarchical import HierarchicalRouter
from routers.linear import LinearRouter
from routers.neighbours import NeighbourRouter
from routers.online import OnlineRouter
from routers.ridge import RidgeRouter
from routers.skill import SkillRouter
from routers.stacked import StackedRouter
from routers.testing import GENERALIST, SKILLS, check_router
from routers.types import Arm, Array, Outcomes, Questions, Reason, Router

RULES = {"cooking": ("bake", "flour", "soup"), "sailing": ("mast", "anchor"), "music": ("piano", "tune")}

SIZES = dict.fromkeys((GENERALIST, *SKILLS, "newcomer"), 1.0)

ROUTERS: dict[str, Callable[[], Router]] = {
    "skill": SkillRouter,
    "skill with a generalist": lambda: SkillRouter(generalist=GENERALIST),
    "skill, as released": lambda: SkillRouter(GENERALIST, score_mode="power"),
    "skill, log-odds": lambda: SkillRouter(GENERALIST, score_mode="power", record="log_odds"),
    "skill, softmax": lambda: SkillRouter(score_mode="softmax"),
    "skill, softmax of log-odds": lambda: SkillRouter(score_mode="softmax", record="log_odds"),
    "skill, all under the floor": lambda: SkillRouter(GENERALIST, floor=2.0),
    "keywords": lambda: KeywordRouter(RULES, GENERALIST),
    "tfidf": lambda: TfidfRouter(GENERALIST),
    "random": lambda: RandomRouter(seed=3),
    "best single": BestSingle,
    "neighbours": NeighbourRouter,
    "neighbours, as specified": lambda: NeighbourRouter(30, 0.3, 5.0),
    "ridge": RidgeRouter,
    "ridge, domains as released": lambda: RidgeRouter(target="domain"),
    "ridge with a bonus": lambda: RidgeRouter(bonus=0.1),
    "cluster": lambda: ClusterRouter(5),
    "cluster, by rank": lambda: ClusterRouter(5, 1, use="rank"),
    "linear": LinearRouter,
    "category": CategoryRouter,
    "category with a gate": lambda: CategoryRouter(GENERALIST, gate=0.5),
    "category under a budget": lambda: CategoryRouter(sizes=SIZES, budget=2.0),
    "hierarchical": HierarchicalRouter,
    "form": FormRouter,
    "stacked": lambda: StackedRouter((SkillRouter(), RidgeRouter(), FormRouter())),
    "calibrated": lambda: CalibratedRouter(RidgeRouter()),
    "covered": lambda: CoveredRouter(SkillRouter(), GENERALIST),
    "online": OnlineRouter,
}


@pytest.mark.parametrize("make", ROUTERS.values(), ids=ROUTERS.keys())
def test_every_router_keeps_the_contract(make: Callable[[], Router]) -> None:
    check_router(make)


@dataclass
class Constant:
    """A router that keeps the contract; the faulty ones below break one promise each."""

    arms_: tuple[Arm, ...] = field(default=(), init=False)

    @property
    def arms(self) -> tuple[Arm, ...]:
        if not self.arms_:
            raise NotFittedError("fit first")
        return self.arms_

    def fit(self, questions: Questions, outcomes: Outcomes) -> Self:
        self.arms_ = outcomes.arms
        return self

    def score(self, questions: Questions) -> Array:
        return np.full((len(questions), len(self.arms)), 0.5, dtype=np.float32)

    def explain(self, questions: Questions) -> list[Reason]:
        return [Reason()] * len(self.arms and questions)

    def add_arm(self, questions: Questions, outcomes: Outcomes) -> Self:
        if {arm.name for arm in outcomes.arms} & {arm.name for arm in self.arms}:
            raise RouterError("it is there")
        self.arms_ += outcomes.arms
        return self

    def remove_arm(self, name: str) -> Self:
        if name not in [arm.name for arm in self.arms]:
            raise RouterError("it is not there")
        self.arms_ = tuple(arm for arm in self.arms_ if arm.name != name)
        return self

    def learnt(self, name: str) -> Mapping[str, NDArray[Any]]:
        return {"marks": np.array(0.5)}


class Eager(Constant):
    def score(self, questions: Questions) -> Array:
        return np.zeros((len(questions), 4), dtype=np.float32)


class OutOfRange(Constant):
    def score(self, questions: Questions) -> Array:
        return super().score(questions) * 3


class Batchy(Constant):
    def score(self, questions: Questions) -> Array:
        return super().score(questions) / max(1, len(questions))


class Hoarder(Constant):
    def fit(self, questions: Questions, outcomes: Outcomes) -> Self:
        self.arms_ = self.arms_ or outcomes.arms
        self.count = getattr(self, "count", 0) + len(questions)
        return self

    def score(self, questions: Questions) -> Array:
        return np.full_like(super().score(questions), 1 / self.count)


class Vandal(Constant):
    def fit(self, questions: Questions, outcomes: Outcomes) -> Self:
        outcomes.score[:] = 0
        return super().fit(questions, outcomes)


class Jealous(Constant):
    def learnt(self, name: str) -> Mapping[str, NDArray[Any]]:
        return {"marks": np.array(1 / len(self.arms))}


class Clinging(Constant):
    def remove_arm(self, name: str) -> Self:
        super().remove_arm(name)
        self.arms_ = tuple(Arm(arm.name, 2.0) for arm in self.arms_)
        return self

    def score(self, questions: Questions) -> Array:
        return super().score(questions) / np.float32(self.arms[0].price)


class Torn(Constant):
    def weigh(self, questions: Questions) -> tuple[Array, list[Reason]]:
        return self.score(questions) / 2, self.explain(questions)


class Ordered(Constant):
    def score(self, questions: Questions) -> Array:
        return super().score(questions) * np.linspace(0, 1, len(self.arms), dtype=np.float32)


def test_a_plain_router_passes() -> None:
    check_router(Constant)


@pytest.mark.parametrize(
    ("faulty", "promise"),
    [
        (Eager, "score raises NotFittedError before fit"),
        (OutOfRange, "scores lie in"),
        (Batchy, "alone scores as in a batch"),
        (Hoarder, "a second fit forgets the first"),
        (Vandal, "leave `score` of their arguments"),
        (Torn, "weigh gives what score and explain give"),
        (Ordered, "same columns in that order"),
        (Jealous, "leaves what was learnt of"),
        (Clinging, "leaves no trace"),
    ],
)
def test_a_router_that_breaks_a_promise_is_told_which(faulty: Callable[[], Router], promise: str) -> None:
    with pytest.raises(AssertionError, match=promise):
        check_router(faulty)
