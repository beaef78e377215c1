"""Selection rules: how many arms, and which."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from routers.errors import RouterError
from routers.rules import NOBODY, Balanced, GroupLimited, NullArm, Recruit, ReluGate, Rule, TopK, TopP, Utility
from routers.types import Arm, Array, Indices

ARMS = [Arm("a", 4.0), Arm("b", 2.0), Arm("c", 1.0)]


def asked(row: Indices) -> list[int]:
    return [place for place in row.tolist() if place != NOBODY]


RULES: list[Rule] = [
    TopK(2),
    Recruit(3),
    Recruit(2, replace=False),
    TopP(0.5),
    TopP(0.5, temperature=0.2),
    NullArm(0.2),
    ReluGate(threshold=0.4),
    Utility(0.3, 2),
    GroupLimited(2, 1, {"a": "x", "b": "x"}),
]


def scores(*rows: list[float]) -> Array:
    return np.array(rows, dtype=np.float32)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)
@given(
    data=st.lists(st.lists(st.floats(0, 1, width=32), min_size=3, max_size=3), min_size=1, max_size=6),
)
def test_a_choice_depends_on_its_own_row_alone(rule: Rule, data: list[list[float]]) -> None:
    table, ids = np.array(data, dtype=np.float32), [f"q{i}" for i in range(len(data))]

    together = rule.choose(table, ARMS, ids)

    assert together.shape[1] >= 1
    assert ((together >= NOBODY) & (together < len(ARMS))).all()
    assert (together[:, 0] != NOBODY).all()
    for row, name in enumerate(ids):
        alone = rule.choose(table[row : row + 1], ARMS, [name])
        assert asked(alone[0]) == asked(together[row])


def test_recruiting_with_replacement_may_give_one_arm_all_seats() -> None:
    assert Recruit(3).choose(scores([0.0, 0.0, 1.0]), ARMS, ["q"]).tolist() == [[2, 2, 2]]
    assert Recruit(3, replace=False).choose(scores([0.0, 0.0, 1.0]), ARMS, ["q"]).tolist() == [[2, NOBODY, NOBODY]]


def test_recruiting_draws_in_proportion_and_by_seed() -> None:
    table = np.tile(scores([0.6, 0.3, 0.1]), (4000, 1))
    ids = [str(i) for i in range(4000)]

    drawn = Recruit(1).choose(table, ARMS, ids)

    share = np.bincount(drawn.ravel(), minlength=3) / 4000
    assert share == pytest.approx([0.6, 0.3, 0.1], abs=0.03)
    assert (Recruit(1, seed=1).choose(table, ARMS, ids) != drawn).any()


def test_trimming_takes_the_seats_of_rare_arms() -> None:
    table = np.tile(scores([0.7, 0.28, 0.02]), (500, 1))
    ids = [str(i) for i in range(500)]

    assert 2 in Recruit(3).choose(table, ARMS, ids)
    assert 2 not in Recruit(3, trim=0.05).choose(table, ARMS, ids)


def test_trimming_redraws_the_freed_seats_alone() -> None:
    table = np.concatenate([np.tile(scores([0.7, 0.3, 0.0]), (970, 1)), np.tile(scores([0.0, 0.5, 0.5]), (30, 1))])
    ids = [str(i) for i in range(1000)]
    before, after = (Recruit(3, trim=trim).choose(table, ARMS, ids) for trim in (0.0, 0.05))

    for old, new in zip(before.tolist(), after.tolist(), strict=True):
        kept = [arm for arm in old if arm != 2]
        assert new[: len(kept)] == kept
        assert 2 not in new and NOBODY not in new
    drawn = [
        arm
        for old, new in zip(before[970:].tolist(), after[970:].tolist(), strict=True)
        for arm in new[3 - old.count(2) :]
    ]
    assert np.mean(np.array(drawn) == 0) == pytest.approx(0.7, abs=0.2)  # arm a has 7 of 10 seats, and no score here


def test_trimming_without_replacement_keeps_arms_distinct() -> None:
    table = np.concatenate([np.tile(scores([0.6, 0.4, 0.0]), (97, 1)), np.tile(scores([0.5, 0.0, 0.5]), (3, 1))])
    chosen = Recruit(2, replace=False, trim=0.05).choose(table, ARMS, [str(i) for i in range(100)])

    assert all(sorted(row) == [0, 1] for row in chosen.tolist())


def test_top_p_includes_the_arm_that_crosses() -> None:
    table = scores([0.5, 0.3, 0.2])

    assert TopP(0.4).choose(table, ARMS).tolist() == [[0]]
    assert TopP(0.5).choose(table, ARMS).tolist() == [[0, 1]]
    assert TopP(0.99).choose(table, ARMS).tolist() == [[0, 1, 2]]
    assert TopP(0.99, most=2).choose(table, ARMS).tolist() == [[0, 1]]


@given(st.floats(0.01, 0.9), st.floats(0.01, 0.9))
def test_a_dearer_call_never_asks_more(low: float, high: float) -> None:
    table = np.random.default_rng(0).random((50, 3)).astype(np.float32)
    low, high = sorted((low, high))

    cheap = (NullArm(low).choose(table, ARMS) != NOBODY).sum(axis=1)
    dear = (NullArm(high).choose(table, ARMS) != NOBODY).sum(axis=1)

    assert (dear <= cheap).all()


def test_the_null_arm_wins_where_another_call_brings_too_little() -> None:
    assert NullArm(0.1).choose(scores([0.9, 0.8, 0.7]), ARMS).tolist() == [[0]]  # 0.1 x 0.8 is under the price
    assert NullArm(0.1).choose(scores([0.5, 0.4, 0.3]), ARMS).tolist() == [[0, 1]]


def test_the_gate_keeps_its_budget() -> None:
    table = np.random.default_rng(0).random((200, 3)).astype(np.float32)

    gate = ReluGate(calls=1.5).fit(table, ARMS)

    asked = (gate.choose(table, ARMS) != NOBODY).sum(axis=1)
    assert asked.mean() == pytest.approx(1.5, abs=0.01)
    with pytest.raises(RouterError, match="no threshold"):
        ReluGate().choose(table, ARMS)


def test_utility_weighs_the_price() -> None:
    table = scores([0.6, 0.5, 0.45])

    assert Utility(0.0).choose(table, ARMS).tolist() == [[0]]
    assert Utility(0.5).choose(table, ARMS).tolist() == [[2]]
    with pytest.raises(RouterError, match="price of x"):
        Utility(0.5).choose(scores([0.5]), [Arm("x", float("nan"))])


def test_balancing_levels_loads_and_bounds_what_it_gives_up() -> None:
    rng = np.random.default_rng(0)
    arms = [Arm(f"arm{i}") for i in range(8)]
    table = np.clip(0.5 + 0.02 * rng.standard_normal((400, 8)) + np.linspace(0.05, 0, 8), 0, 1).astype(np.float32)

    plain = np.bincount(TopK(1).choose(table, arms).ravel(), minlength=8)
    rule = Balanced(1, give_up=0.05)
    level = rule.choose(table, arms)

    load = np.bincount(level.ravel(), minlength=8)
    best = table.max(axis=1) - np.take_along_axis(table, level, 1)[:, 0]
    assert load.max() < 0.5 * plain.max()
    assert best.max() <= 0.05 + 1e-6
    assert rule.given_up(table, arms) == pytest.approx(best.mean(), abs=1e-6)
    assert (Balanced(1, give_up=0.0).choose(table, arms) == TopK(1).choose(table, arms)).all()


def test_balancing_moves_nobody_where_there_is_room_for_all() -> None:
    assert Balanced().choose(scores([0.9, 0.88, 0.1]), ARMS).tolist() == [[0]]
    rows = scores(*[[0.9, 0.88, 0.1]] * 10)
    assert Balanced(capacity={"a": 1.0}).choose(rows, ARMS).tolist() == [[0]] * 10
    assert Balanced(capacity={"a": 1.0}).prices(rows, ARMS)[0] == 0


def test_balancing_reaches_what_was_measured_for_the_method() -> None:
    """METHODS J.5: 512 x 16, k 2, softmax of skewed normals (of another seed); overload after 1, 2, 4 and 8 rounds, and a
    summed score of 244.4 that falls to 199.5 after 4."""
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((512, 16)) + rng.standard_normal(16)
    table = (np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)).astype(np.float32)
    arms = [Arm(f"arm{i:02}") for i in range(16)]
    plain = np.take_along_axis(table, TopK(2).choose(table, arms), 1).sum(axis=1)

    level = {rounds: Balanced(2, rounds=rounds, give_up=1.0).choose(table, arms) for rounds in (1, 2, 4, 8)}
    bounded = Balanced(2, rounds=8, give_up=0.05).choose(table, arms)

    loads = [np.bincount(chosen.ravel(), minlength=16) for chosen in level.values()]
    overload = np.array([load.max() / load.mean() - 1 for load in loads])
    assert (np.diff(overload) < 0).all()
    ratio = overload / np.array([0.78, 0.39, 0.31, 0.14])
    assert ((ratio > 0.5) & (ratio < 2)).all()
    assert plain.sum() == pytest.approx(244.4, rel=0.05)
    assert np.take_along_axis(table, level[4], 1).sum() == pytest.approx(199.5, rel=0.05)
    assert (plain - np.take_along_axis(table, bounded, 1).sum(axis=1)).max() <= 0.05 + 1e-6


def test_group_limits_keep_a_row_on_few_hosts() -> None:
    arms = [Arm("a1"), Arm("a2"), Arm("b1"), Arm("b2")]
    of = {"a1": "a", "a2": "a", "b1": "b", "b2": "b"}
    table = scores([0.9, 0.1, 0.8, 0.7])

    assert GroupLimited(3, 1, of).choose(table, arms).tolist() == [[2, 3]]
    assert GroupLimited(3, 2, of).choose(table, arms).tolist() == [[0, 2, 3]]
