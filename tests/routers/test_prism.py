"""PRISM's choice among strategies: its branches at their boundaries, whose strategies are meant, and what it costs."""

from __future__ import annotations

import doctest

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from routers import prism
from routers.errors import RouterError
from routers.prism import ALL, Prism, branches, suitable
from routers.stopping import rehearse
from routers.types import Arm, Array, Ask, Decision, Seen, Stop

FOUR = tuple(Arm(name) for name in ("x", "x@code", "x@ensemble", "x@tool"))


def scores_of(*probable: float, temperature: float = 0.5) -> Array:
    """Scores whose suitability is `probable`."""
    return np.array([[temperature * np.log(p) + 1 for p in probable]], dtype=np.float32)


def asked(policy: Prism, scores: Array, arms: tuple[Arm, ...] = FOUR) -> list[Decision]:
    return policy.next(scores, arms, [Seen()] * len(scores))


def names(decision: Decision) -> tuple[str, ...]:
    assert isinstance(decision, Ask)
    return decision.arms


def test_the_examples_in_the_docstrings_hold() -> None:
    assert doctest.testmod(prism).failed == 0


@pytest.mark.parametrize(
    ("probable", "many"),
    [
        ((0.35, 0.25, 0.2, 0.2), 1),  # both thresholds exactly met: >= counts
        ((0.35, 0.26, 0.2, 0.19), 2),
        ((0.349, 0.249, 0.2, 0.202), ALL),
        ((0.349, 0.349, 0.2, 0.102), ALL),
        ((0.5, 0.4, 0.1, 0.0), 1),  # 0.5 - 0.4 is less than 0.1 by rounding
        ((0.4, 0.3, 0.2, 0.1), 1),
        ((0.5, 0.401, 0.05, 0.049), 2),
        ((0.5, 0.5, 0.0, 0.0), 2),
        ((0.25, 0.25, 0.25, 0.25), ALL),
        ((1.0, 0.0, 0.0, 0.0), 1),
    ],
)
def test_the_branches_of_the_paper(probable: tuple[float, ...], many: int) -> None:
    assert branches(np.array([probable]), 0.35, 0.10).tolist() == [many]
    found = names(asked(Prism(), scores_of(*np.maximum(probable, 1e-9)))[0])
    assert len(found) == (many or 4)
    if many:
        best = sorted(range(4), key=lambda i: (-probable[i], FOUR[i].name))
        assert found == tuple(FOUR[i].name for i in best[:many])


def test_once_asked_it_is_over() -> None:
    seen = Seen(("x",), (("x", None),))

    assert Prism().next(scores_of(0.3, 0.3, 0.2, 0.2), FOUR, [seen]) == [Stop()]


def test_a_dear_strategy_has_to_be_better() -> None:
    cheap, dear = Arm("x", 1.0), Arm("x@tool", 4.0)
    scores = np.array([[0.5, 0.6]], dtype=np.float32)

    assert names(asked(Prism(price=0.0), scores, (cheap, dear))[0])[0] == "x@tool"
    assert names(asked(Prism(price=0.25), scores, (cheap, dear))[0])[0] == "x"
    free = suitable(scores, (0.0, 0.0), 0.5, 0.25)
    assert free.tolist() == suitable(scores, (3.0, 3.0), 0.5, 0.25).tolist(), "equal prices change nothing"


def test_only_strategies_of_the_best_expert_are_weighed() -> None:
    arms = (Arm("a"), Arm("b"), Arm("a@code"), Arm("a+manuals"))
    policy = Prism(expert_of={"a": "a", "a@code": "a", "b": "b", "a+manuals": "a+manuals"})
    scores = np.array([[0.5, 0.2, 0.5, 0.2], [0.5, 0.9, 0.6, 0.1], [0.5, 0.5, 0.5, 0.7]], dtype=np.float32)

    assert [names(one) for one in asked(policy, scores, arms)] == [("a", "a@code"), ("b",), ("a+manuals",)]


def test_an_arm_that_is_better_is_asked_first_whatever_the_order_of_the_arms() -> None:
    scores = scores_of(0.3, 0.26, 0.24, 0.2)
    found = names(asked(Prism(), scores)[0])

    order = [2, 0, 3, 1]
    assert names(asked(Prism(), scores[:, order], tuple(FOUR[i] for i in order))[0]) == found


@given(st.lists(st.lists(st.floats(0, 1, width=32), min_size=4, max_size=4), min_size=1, max_size=5))
def test_it_is_pure_and_a_row_alone_is_decided_as_in_a_batch(rows: list[list[float]]) -> None:
    scores = np.array(rows, dtype=np.float32)

    together = asked(Prism(), scores)
    assert together == [asked(Prism(), scores[[row]])[0] for row in range(len(rows))] == asked(Prism(), scores)


def simulated(seed: int, noise: float, n: int = 4_000) -> tuple[Array, Array]:
    """(scores, answers [n, strategy], 0 is right): each strategy is good at one type of problem, and the scores are what a
    router with this much noise makes of it."""
    numbers = np.random.default_rng(seed)
    kind = numbers.integers(0, 4, n)
    accuracy = np.where(np.arange(4) == kind[:, None], 0.85, 0.45)
    right = numbers.random((n, 4)) < accuracy
    answers = np.where(right, 0, numbers.integers(1, 20, (n, 4)))
    return np.clip(accuracy + numbers.normal(0, noise, (n, 4)), 0, 1).astype(np.float32), answers


def voted(place: Array, answers: Array) -> Array:
    """Right or not by PRISM's vote over the strategies asked, [n]."""
    found = []
    for own, row in zip(place, answers, strict=True):
        said = [row[arm] for arm in own if arm >= 0]
        counts = {answer: said.count(answer) for answer in said}
        most = [answer for answer, count in counts.items() if count == max(counts.values())]
        found.append((most[0] if len(most) == 1 else said[0]) == 0)
    return np.array(found)


@pytest.mark.parametrize("shares", [(0.6, 0.2), (0.3, 0.3), (0.2, 0.0)])
@pytest.mark.parametrize("seed", [0, 1])
def test_accuracy_and_cost_lie_between_the_best_single_and_all(seed: int, shares: tuple[float, float]) -> None:
    """Simulation. The scores are so noisy that running all is worth its price."""
    single, dual = shares
    arms = tuple(Arm(f"x{i}", price) for i, price in enumerate((1.0, 2.0, 2.0, 3.0)))
    told, _ = simulated(seed + 10, 0.5)
    policy = Prism(price=0.0).sharing(told, arms, single=single, dual=dual)

    scores, answers = simulated(seed, 0.5)
    place, abstained = rehearse(policy, scores, arms, answers)
    many = (place >= 0).sum(axis=1)
    right = voted(place, answers).mean()
    prices = np.array([arm.price for arm in arms] + [0.0])
    cost = prices[place].sum(axis=1).mean()

    assert not abstained.any()
    best = (answers == 0).mean(axis=0)
    everybody = voted(np.tile(np.arange(4), (len(answers), 1)), answers).mean()
    assert best.max() < right < everybody
    assert prices[:4].min() < cost < prices[:4].sum()
    for count, share in ((1, single), (2, dual), (4, 1 - single - dual)):
        assert (many == count).mean() == pytest.approx(share, abs=0.03), "as recalibrated, on other questions"
    assert set(many.tolist()) <= {1, 2, 4}


def test_thresholds_of_the_paper_put_a_weak_head_into_one_branch() -> None:
    """Simulation: why they must be recalibrated."""
    scores, _ = simulated(0, 0.02)
    arms = tuple(Arm(f"x{i}") for i in range(4))

    flat = [len(names(one)) for one in asked(Prism(temperature=2.0), scores, arms)]
    two = [len(names(one)) for one in asked(Prism(), scores[:, :2], arms[:2])]
    assert np.mean(np.array(flat) == 4) > 0.99
    assert set(two) <= {1, 2}, "the better of two has 0.5 at least"


def test_recalibrating_needs_strategies_and_shares() -> None:
    scores, arms = np.array([[0.5, 0.6]], dtype=np.float32), (Arm("a"), Arm("b"))

    with pytest.raises(RouterError, match="no shares"):
        Prism().sharing(scores, arms, single=0.8, dual=0.4)
    with pytest.raises(RouterError, match="several strategies"):
        Prism(expert_of={"a": "a", "b": "b"}).sharing(scores, arms, single=0.5, dual=0.5)
    for single, dual in ((1.0, 0.0), (0.0, 1.0), (0.0, 0.0)):
        policy = Prism().sharing(scores, arms, single=single, dual=dual)
        assert len(names(asked(policy, scores, arms)[0])) == (1 if single else 2)
