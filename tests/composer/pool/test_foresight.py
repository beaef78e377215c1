"""Stopping early never adds a load, and never changes what is decided."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from scripted_hosts import HOSTS, MIB, Memory, Resolver

from composer.graph import build
from composer.pool.pool import Pool
from composer.stages.aggregate import aggregate
from composer.stages.decide import decide
from composer.stages.generate import generate
from composer.stages.kit import Kit
from composer.stages.verify import verify
from composer.state import Query, State
from composer.types import Kind, Message, Prompt, Request, Stream
from routers.types import Arm, Array, Outcomes, Questions, Reason
from tests.composer.plain_arms import PlainArms

ARMS = ("base", "law", "tax")  # on three hosts
QUESTIONS = 60


class Arms(PlainArms):
    """Three experts on three hosts, all of which answer with numbers."""

    generalist = "base"

    def arms(self) -> tuple[Arm, ...]:
        return Judge.arms

    def host_of(self, expert: str) -> str:
        return HOSTS[expert]

    def kind(self, arm: str) -> Kind:
        return "number"

    def stream(self, arm: str, prompt: Prompt, *, bare: bool = False) -> Stream:
        assert isinstance(prompt[0], Message)
        return Stream(arm, prompt[0].content)


class Judge:
    """Scores drawn per question."""

    arms = tuple(map(Arm, ARMS))

    def fit(self, questions: Questions, outcomes: Outcomes) -> Judge:
        return self

    def score(self, questions: Questions) -> Array:
        return np.array([np.random.default_rng(int(name)).random(3) for name in questions.ids], dtype=np.float32)

    def explain(self, questions: Questions) -> list[Reason]:
        return [Reason()] * len(questions)


class Letters:
    def encode(self, texts: Sequence[str]) -> Array:
        return np.ones((len(texts), 1), dtype=np.float32)


def answer(request: Request) -> str:
    """Two of three agree on most questions."""
    drawn = random.Random(f"{request.parent} {request.arm}").random()
    return f"The answer is {1 if drawn < 0.7 else 2 if drawn < 0.85 else 3}."


def run(
    options: dict[str, Any], rooms: int, memory: Memory | None = None, *, early: bool = True
) -> tuple[State, Pool, Resolver]:
    """All questions through the loop, with room for so many hosts at once."""
    resolver = Resolver(answer)
    pool = Pool(resolver, memory or Memory(), memory=(rooms * 100 + 50) * MIB)
    kit = Kit(Arms(), Letters, lambda _: Judge(), lambda: pool, lambda _: None)  # type: ignore[arg-type,return-value]
    stages = [
        ("decide", decide(kit, **options)),
        ("generate", generate(kit, early=early)),
        ("verify", verify(kit)),
        ("aggregate", aggregate(kit, by="majority")),
    ]
    queries = tuple(Query(str(i), f"question {i}", kind="number") for i in range(QUESTIONS))

    async def whole() -> State:
        try:
            return await build(stages, rounds=4)(State.of(queries, run="run"))
        finally:
            await pool.close()

    return asyncio.run(whole()), pool, resolver


STOPPING = [
    {"policy": "agreeing"},
    {"policy": {"use": "posterior", "confidence": 0.8}},
    {"policy": {"use": "cascade", "thresholds": [0.6, 0.6]}},
    {"policy": "agreeing", "doubt": True, "abstain_below": 0.3},
]


@pytest.mark.parametrize("options", STOPPING, ids=str)
def test_stopping_early_never_adds_a_load(options: dict[str, Any]) -> None:
    _, everything, _ = run({"k": 3}, rooms=1)
    state, pool, _ = run(options, rooms=1)

    assert pool.ledger.loads <= everything.ledger.loads == 3
    assert sum(map(len, state.asked)) < 3 * QUESTIONS, "it does stop early"
    assert pool.ledger.drafts - pool.ledger.cached <= 3 * QUESTIONS


@pytest.mark.parametrize("options", STOPPING, ids=str)
def test_what_is_decided_does_not_depend_on_the_room(options: dict[str, Any]) -> None:
    narrow, _, _ = run(options, rooms=1)
    wide, pool, _ = run(options, rooms=3)

    assert narrow.asked == wide.asked
    assert [answer.text for answer in narrow.answers] == [answer.text for answer in wide.answers]
    assert pool.ledger.drafts == sum(map(len, wide.asked)), "where everything fits nothing is drawn that is not wanted"


def test_drafts_that_are_no_longer_wanted_are_withdrawn() -> None:
    _, pool, _ = run({"policy": "agreeing"}, rooms=1)

    drawn = pool.ledger.drafts - pool.ledger.cached
    assert pool.ledger.cancelled > 5
    assert drawn + pool.ledger.cancelled == 3 * QUESTIONS


def test_who_would_rather_load_again_than_draw_too_much_says_so() -> None:
    state, pool, _ = run({"policy": "agreeing"}, rooms=1, early=False)

    assert pool.ledger.drafts == sum(map(len, state.asked))
    assert pool.ledger.loads > 3


def test_a_second_run_on_the_same_store_asks_nobody() -> None:
    memory = Memory()
    first, _, _ = run({"policy": "agreeing"}, rooms=1, memory=memory)
    again, pool, resolver = run({"policy": "agreeing"}, rooms=1, memory=memory)

    assert again.asked == first.asked
    assert sum(len(batch) for batch in resolver.batches()) <= pool.ledger.cancelled + 3 * QUESTIONS - len(memory.drafts)
