"""Policies that stop: when, in which order, and that what is seen in plan order decides."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from routers.coverage import BOUNDARY
from routers.doubting import Doubting
from routers.errors import NotFittedError, RouterError
from routers.evidence import evidence
from routers.policy import Fixed
from routers.select import TopK
from routers.stopping import Abstaining, Agreeing, Cascade, Posterior, Worth, later_of, surely_ahead
from routers.types import Abstain, Arm, Array, Ask, Policy, Seen, Stop

ARMS = tuple(Arm(name) for name in "abcde")
SCORES = np.array([[0.9, 0.8, 0.7, 0.6, 0.5]], dtype=np.float32)
CALM = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def play(policy: Policy, answers: Sequence[str | None], scores: Array = SCORES) -> list[str]:
    """Whom the policy asks, one question, if the arms answer like this (in the order of ARMS)."""
    said = dict(zip("abcde", answers, strict=True))
    seen = Seen()
    for _ in range(10):
        [decision] = policy.next(scores, ARMS, [seen])
        if not isinstance(decision, Ask):
            return list(seen.asked)
        asked = (*seen.asked, *decision.arms)
        seen = Seen(asked, tuple((arm, said[arm]) for arm in asked))
    raise AssertionError("the policy never stops")


def test_two_that_agree_are_enough() -> None:
    assert play(Agreeing(2), ["1", "1", "2", "2", "2"]) == ["a", "b"]
    assert play(Agreeing(2), ["1", "2", "1", "2", "2"]) == ["a", "b", "c"]
    assert play(Agreeing(2), ["1", None, None, "2", "3"]) == list("abcde")


def test_a_vote_that_cannot_be_caught_up_with_is_over() -> None:
    assert play(Agreeing(3), ["1", "1", "1", "2", "2"]) == ["a", "b", "c"]
    assert play(Agreeing(5, most=5), ["1", "1", "2", "1", "3"]) == list("abcde")


@CALM
@given(answers=st.lists(st.none() | st.sampled_from("12"), min_size=5, max_size=5))
def test_a_vote_cut_short_has_the_result_of_the_whole_vote(answers: list[str | None]) -> None:
    asked = play(Agreeing(3, most=5), answers)

    whole = {answer: answers.count(answer) for answer in "12"}
    short = [answer for name, answer in zip("abcde", answers, strict=True) if name in asked]
    winner = max(whole, key=lambda answer: whole[answer])
    if whole[winner] > 2 and len(set(whole.values())) == 2:
        assert max("12", key=short.count) == winner


def test_the_beta_posterior_has_its_golden_values() -> None:
    found = surely_ahead(np.array([3, 4, 5, 6, 8]), np.array([0, 0, 1, 1, 2]))

    assert found.round(4).tolist() == [0.9375, 0.9688, 0.9375, 0.9648, 0.9673]


def test_unanimity_needs_four_votes() -> None:
    assert play(Posterior(), ["1"] * 5) == ["a", "b", "c", "d"]
    assert play(Posterior(), ["1", None, "1", "1", "1"]) == list("abcde")  # no answer votes for nobody


def test_votes_may_weigh_as_much_as_their_arms_are_trusted() -> None:
    trusted = np.array([[0.9, 0.9, 0.9, 0.05, 0.05]], dtype=np.float32)

    assert play(Posterior(0.95, weighted=True), ["1"] * 5, trusted) == ["a", "b", "c"]


def test_arms_are_asked_in_the_order_of_their_scores() -> None:
    assert play(Posterior(first=1), ["1", "2", "3", "4", "5"], SCORES[:, ::-1].copy()) == list("edcba")


def simulated(n: int = 3000, seed: int = 0) -> tuple[Array, np.ndarray, np.ndarray]:
    """A simulation: five arms of the same worth, easy and hard questions (and scores that know which); code and what
    the most probable answer is worth after 1, 2 … 5 drafts."""
    rng = np.random.default_rng(seed)
    good = np.where(rng.random((n, 1)) < 0.5, 0.95, 0.4)
    right = rng.random((n, 5)) < good
    code = np.where(right, 0, rng.integers(1, 6, (n, 5)))
    scores = np.tile(good, (1, 5)).astype(np.float32) - np.arange(5, dtype=np.float32) / 1000
    worth = np.zeros((n, 5))
    for seen in range(1, 6):
        found = evidence(scores[:, :seen].astype(float), code[:, :seen], np.zeros(n, dtype=np.int64))
        worth[:, seen - 1] = code[np.arange(n), found.top] == 0
    return scores, code, worth


def played(policy: Policy, scores: Array, code: np.ndarray) -> np.ndarray:
    """How many arms each question asks."""
    seen = [Seen()] * len(code)
    while True:
        decisions = policy.next(scores, ARMS, seen)
        if not any(isinstance(decision, Ask) for decision in decisions):
            return np.array([len(row.asked) for row in seen])
        for i, decision in enumerate(decisions):
            if isinstance(decision, Ask):
                asked = (*seen[i].asked, *decision.arms)
                seen[i] = Seen(asked, tuple((arm, str(code[i, "abcde".index(arm)])) for arm in asked))


@pytest.mark.parametrize("make", [Cascade, Worth])
def test_what_is_learnt_asks_less_where_a_call_is_worth_less(make: Callable[..., Cascade | Worth]) -> None:
    scores, code, worth = simulated()
    later_scores, later_code, later_worth = simulated(seed=1)

    calls, gains = [], []
    for price in (0.0005, 0.02, 0.3):
        asked = played(make(price=price).fit(scores, ARMS, code, worth), later_scores, later_code)
        calls.append(asked.mean())
        gains.append((later_worth[np.arange(len(asked)), asked - 1] - price * (asked - 1)).mean())
    # at each price it is worth at least what asking one, or all, is worth
    for price, gain in zip((0.0005, 0.02, 0.3), gains, strict=True):
        assert gain > max(later_worth[:, 0].mean(), later_worth[:, -1].mean() - 4 * price) - 0.01
    assert calls[0] > calls[1] > calls[2] == 1


@pytest.mark.parametrize("make", [Cascade, Worth])
def test_hard_questions_get_the_calls(make: Callable[..., Cascade | Worth]) -> None:
    scores, code, worth = simulated()

    asked = played(make(price=0.02).fit(scores, ARMS, code, worth), scores, code)

    easy = scores[:, 0] > 0.7
    assert asked[~easy].mean() > asked[easy].mean() + 0.5


@pytest.mark.parametrize("policy", [Cascade(), Worth()])
def test_a_policy_that_learns_says_so_before_it_has(policy: Policy) -> None:
    with pytest.raises(NotFittedError, match="coe fit answers"):
        policy.next(SCORES, ARMS, [Seen()])


def test_a_policy_may_abstain_instead_of_stopping() -> None:
    policy = Abstaining(Agreeing(2), below=0.6)
    doubtful = Seen(tuple("abcde"), tuple(zip("abcde", "12345", strict=True)))
    sure = Seen(("a", "b"), (("a", "1"), ("b", "1")))

    decisions = policy.next(np.tile(SCORES, (2, 1)), ARMS, [doubtful, sure])

    assert isinstance(decisions[0], Abstain) and "believed" in decisions[0].why
    assert decisions[1] == Stop()


@pytest.mark.parametrize(
    ("make", "told"), [(lambda: Agreeing(0), "votes is 0"), (lambda: Posterior(0.2), "confidence")]
)
def test_settings_that_make_no_sense_are_refused(make: Callable[[], Policy], told: str) -> None:
    with pytest.raises(RouterError, match=told):
        make()


@pytest.mark.parametrize("policy", [Agreeing(2), Posterior(), Cascade(thresholds=(0.8, 0.8, 0.8))])
def test_a_row_alone_and_in_a_batch_takes_the_same_decision(policy: Policy) -> None:
    rows = [Seen(), Seen(("a", "b"), (("a", "1"), ("b", "2"))), Seen(("a", "b"), (("b", "1"), ("a", "1")))]
    scores = np.tile(SCORES, (3, 1))

    together = policy.next(scores, ARMS, rows)

    assert together == [policy.next(SCORES, ARMS, [row])[0] for row in rows]


FORESEEN: list[Policy] = [
    Agreeing(2),
    Agreeing(3, most=4),
    Posterior(0.8),
    Posterior(0.7, weighted=True, most=3),
    Cascade(thresholds=(0.7, 0.6)),
    Worth(weights=((0.5, 0, 0, 0, 0, 0, 0, 0), (0.1, -0.2, 0, 0, 0, 0, 0, 0))),
    Fixed(TopK(2)),
    Abstaining(Agreeing(2), 0.4),
    Doubting(Fixed(TopK(1)), "e"),
    Abstaining(Doubting(Agreeing(2, most=3), "e"), 0.3),
]


@pytest.mark.parametrize("policy", FORESEEN, ids=str)
@CALM
@given(
    answers=st.lists(st.none() | st.sampled_from("123"), min_size=5, max_size=5),
    scores=st.lists(st.sampled_from([0.1, 0.3, 0.5, 0.7, 0.9]), min_size=5, max_size=5),
    flagged=st.booleans(),
)
def test_whom_a_policy_asks_it_has_foretold(
    policy: Policy, answers: list[str | None], scores: list[float], flagged: bool
) -> None:
    said, table = dict(zip("abcde", answers, strict=True)), np.array([scores], dtype=np.float32)
    arms = [Arm(name, domain="x" if name in "ab" else "y") for name in "abcde"]
    seen, foretold = Seen(flags=(BOUNDARY,) if flagged else ()), None
    while isinstance(decision := policy.next(table, arms, [seen])[0], Ask):
        assert foretold is None or set(decision.arms) <= set(foretold)
        asked = (*seen.asked, *decision.arms)
        seen = replace(seen, asked=asked, answers=tuple((arm, said[arm]) for arm in asked))
        [foretold] = later_of(policy, table, arms, [seen])
        assert not set(foretold) & set(asked)
