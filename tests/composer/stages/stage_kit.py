"""What the tests of single stages share: three arms, their judge, a scripted pool, and a kit that hands them out."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

import numpy as np

from composer.pool.plan import Forecast
from composer.stages.kit import Kit, Stage
from composer.state import Query, Reply, State
from composer.trace import Event
from composer.types import Delta, Draft, Failure, Kind, Request, Sampling
from routers.types import Arm, Array, Outcomes, Questions, Reason
from tests.composer.plain_arms import PlainArms

ARMS = (Arm("base"), Arm("sums"), Arm("law"))
SCORES = {"base": 0.5, "sums": 0.9, "law": 0.2}
KINDS: dict[str, Kind] = {"base": "text", "sums": "number", "law": "choice"}
Answer = Callable[[Request], Draft]


class Arms(PlainArms):
    """Three experts; `sums` answers numbers, `law` choices."""

    generalist = "base"

    def __init__(self, sampling: Sampling) -> None:
        self._sampling = sampling

    def arms(self) -> tuple[Arm, ...]:
        return ARMS

    def sampling(self, arm: str) -> Sampling:
        return self._sampling

    def host_of(self, expert: str) -> str:
        return {"base": "big", "sums": "small", "law": "small"}[expert]

    def kind(self, arm: str) -> Kind:
        return KINDS[arm]


class Judge:
    """The same scores for every question, and its text as the reason."""

    arms = ARMS

    def __init__(self) -> None:
        self.scored = 0

    def fit(self, questions: Questions, outcomes: Outcomes) -> Judge:
        return self

    def score(self, questions: Questions) -> Array:
        self.scored += 1
        return np.array([[SCORES[arm.name] for arm in ARMS]] * len(questions), dtype=np.float32)

    def explain(self, questions: Questions) -> list[Reason]:
        return [Reason(skills=((text, 1.0),)) for text in questions.text]


class Letters:
    """An encoder whose vectors say nothing."""

    def encode(self, texts: Sequence[str]) -> Array:
        return np.ones((len(texts), 1), dtype=np.float32)


class Backwards:
    """A pool whose drafts land in the reverse of the plan, each after a delta."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.requests: list[Request] = []

    def keeps(self, requests: Sequence[Request]) -> bool:
        return True

    async def preview(self, requests: Sequence[Request], typical: Mapping[str, float]) -> Forecast:
        return Forecast({}, {}, (), 0, 0, 0, 0, 0, False, None)

    async def submit(
        self, requests: Sequence[Request], still_wanted: Callable[[Request], bool] = lambda _: True
    ) -> AsyncIterator[tuple[str, Delta | Draft]]:
        self.requests += requests
        for request in reversed(requests):
            yield request.id, Delta("…")
            yield request.id, self.answer(request)


class Bench:
    """A kit with all it hands out within reach."""

    def __init__(self, answer: Answer = lambda r: done(r.arm), sampling: Sampling = Sampling()) -> None:  # noqa: B008
        self.judge = Judge()
        self.pool = Backwards(answer)
        self.events: list[Event] = []
        self.kit = Kit(
            registry=Arms(sampling),
            encoder=Letters,
            router=lambda _: self.judge,  # type: ignore[arg-type,return-value]
            pool=lambda: self.pool,  # type: ignore[arg-type,return-value]
            emit=self.events.append,
        )

    def seen(self, kind: type[Event]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]


def done(text: str) -> Draft:
    return Draft("", text, "stop")


def lost(_: Request) -> Draft:
    return Draft("", "", "error", error=Failure("timeout", "too slow"))


def batch(*texts: str, **fields: Any) -> State:
    return State.of(tuple(Query(str(i), text, **fields) for i, text in enumerate(texts)), run="run")


async def after(state: State, *stages: Stage) -> State:
    for stage in stages:
        state = state.apply(await stage(state))
    return state


def replied(state: State, *drafts: tuple[str, Draft]) -> State:
    """One row that has asked these arms."""
    arms = tuple(arm for arm, _ in drafts)
    scores = np.array([[SCORES[arm.name] for arm in ARMS]], dtype=np.float32)
    return state.apply(
        {
            "arms": tuple(arm.name for arm in ARMS),
            "scores": scores,
            "asked": (arms,),
            "replies": (tuple(Reply(arm, draft) for arm, draft in drafts),),
        }
    )
