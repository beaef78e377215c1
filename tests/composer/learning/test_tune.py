"""Rehearsals of policies and aggregators on recorded answers (a simulation)."""

from __future__ import annotations

import numpy as np
import pytest

from composer.answers.ballots import Table
from composer.learning.grid import Grid
from composer.learning.tune import (
    aggregators,
    ask,
    combine,
    cross_scores,
    every_plan,
    fit_aggregators,
    fit_policies,
    front,
    policies,
)
from routers.ridge import RidgeRouter
from routers.testing import simulate
from routers.types import Arm, Array


def grid(n: int = 400, seed: int = 0) -> tuple[Grid, Array]:
    """Five arms right on half the questions each, wrong answers spread over nine; scores that know nothing."""
    rng = np.random.default_rng(seed)
    right = (rng.random((n, 5)) < 0.5).astype(float)
    code = np.where(right > 0, 0, rng.integers(1, 10, (n, 5)))
    ones = np.ones((n, 5))
    made = Grid(
        tuple(Arm(name) for name in "abcde"),
        right,
        code,
        ones,
        ones.astype(np.int64),
        np.zeros((n, 5, 4)),
        np.full(n, 10),
        True,
    )
    return made, np.full((n, 5), 0.5, dtype=np.float32)


def test_five_that_vote_are_right_more_often_than_one_and_the_front_says_so() -> None:
    made, scores = grid()
    tried = every_plan(
        fit_policies(made, scores, policies(5)), fit_aggregators(made, scores, aggregators()), made, scores
    )

    best = front(tried)

    calls = [float(played.calls.mean()) for _, played in best]
    shares = [float(played.right.mean()) for _, played in best]
    assert calls == sorted(calls) and shares == sorted(shares)
    assert calls[0] == 1 and shares[-1] > shares[0] + 0.15


def test_stopping_when_the_vote_is_decided_loses_nothing() -> None:
    made, scores = grid()
    asking = policies(5)
    majority = aggregators()["majority"]

    whole = combine(majority, made, scores, ask(asking["5 at once"], made, scores))
    short = combine(majority, made, scores, ask(asking["until the vote is decided"], made, scores))

    assert short.calls.mean() < whole.calls.mean()
    decided = whole.sure > 0.5
    assert (short.right == whole.right)[decided].all()


def test_what_a_call_costs_is_counted_for_those_that_were_made() -> None:
    made, scores = grid(20)

    played = combine(aggregators()["majority"], made, scores, np.array([[0, 1, -1]] * 20))

    assert played.calls.tolist() == [2.0] * 20
    assert played.cost.tolist() == [2.0] * 20


def test_no_question_is_scored_by_a_router_that_has_seen_it() -> None:
    questions, outcomes = simulate(120)
    seen: list[set[str]] = []

    class Spy(RidgeRouter):
        def fit(self, questions, outcomes):  # type: ignore[no-untyped-def]
            seen.append(set(questions.ids))
            return super().fit(questions, outcomes)

        def score(self, asked):  # type: ignore[no-untyped-def]
            assert not seen[-1] & set(asked.ids)
            return super().score(asked)

    scores = cross_scores(Spy, questions, outcomes)

    assert scores.shape == (120, 4)
    assert len(seen) == 4


@pytest.mark.parametrize("name", sorted(aggregators()))
def test_every_aggregator_takes_whatever_was_asked(name: str) -> None:
    made, scores = grid(60)
    fitted = fit_aggregators(made, scores, {name: aggregators()[name]})[name]
    place = np.full((60, 5), -1)
    for row in range(60):
        place[row, : row % 6] = np.arange(row % 6)

    played = combine(fitted, made, scores, place)

    nobody: Table = played.right[::6]
    assert (nobody == 0).all() and ((played.sure >= 0) & (played.sure <= 1)).all()
