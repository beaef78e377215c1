"""From scores to the arms that are asked."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from routers.errors import RouterError
from routers.policy import Fixed
from routers.rules import Recruit
from routers.select import NOBODY, TopK, top_k
from routers.stopping import rehearse
from routers.types import Arm, Array, Ask, Indices, Seen, Stop

ARMS = (Arm("dear", 3.0), Arm("cheap-b"), Arm("cheap-a"))


def scores(*rows: list[float]) -> np.ndarray:
    return np.array(rows, dtype=np.float32)


def test_the_best_come_first() -> None:
    assert top_k(scores([0.1, 0.9, 0.5], [0.9, 0.1, 0.5]), 2, ARMS).tolist() == [[1, 2], [0, 2]]


def test_ties_go_to_the_cheaper_arm_then_by_name() -> None:
    assert top_k(scores([0.5, 0.5, 0.5]), 3, ARMS).tolist() == [[2, 1, 0]]


def test_asking_for_more_arms_than_there_are_gives_all() -> None:
    assert top_k(scores([0.1, 0.2, 0.3]), 9, ARMS).tolist() == [[2, 1, 0]]


def test_no_rows_give_no_rows() -> None:
    assert top_k(np.zeros((0, 3), dtype=np.float32), 2, ARMS).shape == (0, 2)


@pytest.mark.parametrize(
    ("table", "k", "message"),
    [
        (scores([0.1, 0.2, 0.3]), 0, "k is 0"),
        (scores([0.1, 0.2]), 1, "there are 3 arms"),
        (scores([0.1, np.nan, 0.3]), 1, "not a number"),
    ],
)
def test_what_cannot_be_ranked_is_refused(table: np.ndarray, k: int, message: str) -> None:
    with pytest.raises(RouterError, match=message):
        top_k(table, k, ARMS)


def test_fixed_k_asks_the_best_once_and_then_stops() -> None:
    policy = Fixed(TopK(2))
    table = scores([0.1, 0.9, 0.5], [0.9, 0.1, 0.5])

    first = policy.next(table, ARMS, [Seen(), Seen()])
    second = policy.next(table, ARMS, [Seen(asked=("cheap-b", "cheap-a")), Seen()])

    assert first == [Ask(("cheap-b", "cheap-a")), Ask(("dear", "cheap-a"))]
    assert second == [Stop(), Ask(("dear", "cheap-a"))]


def test_an_arm_that_is_drawn_twice_is_asked_once() -> None:
    assert Fixed(Recruit(3)).next(scores([0.0, 0.0, 1.0]), ARMS, [Seen()]) == [Ask(("cheap-a",))]


def test_rows_of_the_same_scores_draw_by_their_ids() -> None:
    table = scores(*[[0.3, 0.3, 0.4]] * 30)
    ids = [f"q{place}" for place in range(30)]
    policy = Fixed(Recruit(1))

    asked = policy.next(table, ARMS, [Seen(id=name) for name in ids])

    places = [[arm.name for arm in ARMS].index(own.arms[0]) for own in asked if isinstance(own, Ask)]
    assert set(places) == {0, 1, 2}
    assert places == Recruit(1).choose(table, ARMS, ids)[:, 0].tolist()
    assert places == rehearse(policy, table, ARMS, np.zeros((30, 3), dtype=np.int64), ids)[0][:, 0].tolist()


def test_a_policy_that_asks_nobody_is_refused() -> None:
    class Nobody:
        def choose(self, scores: Array, arms: Sequence[Arm], ids: Sequence[str] = ()) -> Indices:
            return np.full((len(scores), 1), NOBODY)

    with pytest.raises(RouterError, match="at least one arm has to be asked"):
        Fixed(Nobody()).next(scores([0.1, 0.9, 0.5]), ARMS, [Seen()])
