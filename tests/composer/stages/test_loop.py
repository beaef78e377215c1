"""The live loop and the recorded loop take the same decisions on the same drafts, whatever lands first."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stage_kit import ARMS, Bench, batch, done

from composer.errors import ConfigError
from composer.graph import build
from composer.stages.aggregate import aggregate
from composer.stages.decide import decide
from composer.stages.generate import generate
from composer.stages.kit import Kit
from composer.stages.verify import verify
from composer.traced import trace_of
from composer.types import Draft, Request
from routers.coverage import BOUNDARY
from routers.doubting import Doubting
from routers.policy import Fixed
from routers.prism import Prism
from routers.rules import TopK
from routers.stopping import Abstaining, Agreeing, Cascade, Posterior, Worth, rehearse
from routers.types import Policy, Questions, Reason

CALM = settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.too_slow])
WEIGHTS = [[0.1, -0.4, 0.0, 0.0, 0.0, 0.3, 0.0, 0.0]] * 2
POLICIES: dict[str, tuple[dict[str, Any], Callable[[], Policy]]] = {
    "fixed": ({"k": 2}, lambda: Fixed(TopK(2))),
    "agreeing": ({"policy": "agreeing"}, lambda: Agreeing()),
    "posterior": ({"policy": {"use": "posterior", "confidence": 0.8}}, lambda: Posterior(0.8)),
    "weighted": (
        {"policy": {"use": "posterior", "confidence": 0.7, "weighted": True}},
        lambda: Posterior(0.7, weighted=True),
    ),
    "cascade": ({"policy": {"use": "cascade", "thresholds": [0.7, 0.7]}}, lambda: Cascade(thresholds=(0.7, 0.7))),
    "worth": ({"policy": {"use": "worth", "weights": WEIGHTS}}, lambda: Worth(weights=tuple(map(tuple, WEIGHTS)))),
    "doubting": ({"k": 1, "doubt": True}, lambda: Doubting(Fixed(TopK(1)), "base")),
    "doubting and abstaining": (
        {"policy": "agreeing", "doubt": True, "abstain_below": 0.5},
        lambda: Abstaining(Doubting(Agreeing(), "base"), 0.5),
    ),
    "prism": ({"policy": {"use": "prism", "temperature": 0.2, "expert_of": {}}}, lambda: Prism(temperature=0.2)),
    "abstaining": (
        {"policy": "agreeing", "abstain_below": 0.5},
        lambda: Abstaining(Agreeing(), 0.5),
    ),
}


def flagged(questions: Questions) -> list[Reason]:
    """Every other question lies on a border."""
    return [Reason(flags=(BOUNDARY,) if int(name) % 2 else ()) for name in questions.ids]


@pytest.mark.parametrize(("options", "make"), POLICIES.values(), ids=POLICIES.keys())
@CALM
@given(
    said=st.lists(
        st.lists(st.none() | st.integers(1, 3), min_size=3, max_size=3),
        min_size=1,
        max_size=4,
    )
)
def test_the_live_loop_decides_as_the_recorded_one(
    options: dict[str, Any], make: Callable[[], Policy], said: list[list[int | None]]
) -> None:
    names = [arm.name for arm in ARMS]

    def answer(request: Request) -> Draft:
        own = said[int(request.parent or "")][names.index(request.arm)]
        return done("I do not know." if own is None else f"The answer is {own}.")

    bench = Bench(answer)
    bench.judge.explain = flagged  # type: ignore[method-assign]
    stages = [
        ("decide", decide(bench.kit, **options)),
        ("generate", generate(bench.kit)),
        ("verify", verify(bench.kit)),
        ("aggregate", aggregate(bench.kit, by="majority")),
    ]
    state = asyncio.run(build(stages, rounds=4)(batch(*map(str, range(len(said))), kind="number")))

    code = np.array([[-1 if own is None else own for own in row] for row in said])
    scores = bench.judge.score(batch(*map(str, range(len(said)))).queries)  # type: ignore[arg-type]
    flags = [reason.flags for reason in state.reasons]
    place, abstained = rehearse(make(), scores, ARMS, code, flags=flags)
    assert state.asked == tuple(tuple(names[i] for i in row if i >= 0) for row in place)
    assert [why is not None for why in state.abstained] == abstained.tolist()


@pytest.mark.parametrize(
    ("options", "at", "what"),
    [
        ({"policy": "agreeing", "k": 2}, "k", "has no say"),
        ({"policy": "posterior", "select": "top-p"}, "select", "has no say"),
        ({"policy": {"use": "fixed", "k": 2}}, "policy.k", "has no option"),
        ({"policy": {"confidence": 0.9}}, "policy", "names no policy"),
        ({"policy": {"use": "posterior", "confidenc": 0.9}}, "policy.confidenc", "unknown key"),
    ],
)
def test_a_policy_that_cannot_be_used_is_told_with_its_option(options: dict[str, Any], at: str, what: str) -> None:
    kit: Kit = Bench().kit

    with pytest.raises(ConfigError, match=what) as caught:
        decide(kit, **options)

    assert caught.value.where == at


async def test_what_is_believed_too_little_is_not_answered_and_the_trace_says_why() -> None:
    bench = Bench(lambda request: done(f"The answer is {len(request.arm)}."))
    stages = [
        ("decide", decide(bench.kit, policy="agreeing", abstain_below=0.99)),
        ("generate", generate(bench.kit)),
        ("verify", verify(bench.kit)),
        ("aggregate", aggregate(bench.kit, by="majority")),
    ]

    state = await build(stages, rounds=4)(batch("a", kind="number"))

    [answer] = state.answers
    assert (answer.status, answer.text, answer.sure) == ("failed", "", None)
    assert "believed" in str(trace_of(state, 0)["abstained"])


async def test_an_answer_says_how_sure_the_aggregator_is() -> None:
    bench = Bench(lambda request: done("The answer is 4."))
    stages = [
        ("decide", decide(bench.kit, policy="agreeing")),
        ("generate", generate(bench.kit)),
        ("verify", verify(bench.kit)),
        ("aggregate", aggregate(bench.kit, by="log-odds")),
    ]

    state = await build(stages, rounds=4)(batch("a", kind="number"))

    [answer] = state.answers
    assert answer.sure is not None and answer.sure > 0.9
    assert trace_of(state, 0)["sure"] == answer.sure
