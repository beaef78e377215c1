"""The vote of PRISM's branches, and the order of its ensemble."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from composer.answers.ballots import Aggregator, Ballots
from composer.answers.ensemble import Ordered, Prism
from routers.types import Arm

ARMS = ("x", "x@code", "x@tool", "y@code")
Said = tuple[str, str | None]  # arm ("": nobody knows it), answer


def ballots(*rows: list[Said]) -> Ballots:
    shape = (len(rows), max(map(len, rows), default=0))
    arm, code = np.full(shape, -1), np.full(shape, -1)
    for i, row in enumerate(rows):
        for j, (name, answer) in enumerate(row):
            arm[i, j] = ARMS.index(name) if name else -1
            code[i, j] = -1 if answer is None else ord(answer)
    zeros = np.zeros(shape, dtype=np.int64)
    return Ballots(tuple(map(Arm, ARMS)), arm, code, np.full(shape, 0.7), zeros, zeros[:, :1], np.zeros((*shape, 4)))


def taken(aggregator: Aggregator, *row: Said) -> tuple[int, float]:
    found = aggregator.combine(ballots(list(row)))
    return int(found.slot[0]), float(found.sure[0])


@pytest.mark.parametrize(
    ("said", "slot", "sure"),
    [
        ("4", 0, 0.7),  # one strategy agrees with itself, which says nothing: as the router is
        ("44", 0, 1.0),  # two that agree
        ("45", 0, 0.5),  # two that do not: the first one's
        ("455", 1, 2 / 3),
        ("456", 0, 1 / 3),  # a tie: the first one's
        ("4556", 1, 0.5),
        ("4455", 0, 0.5),
        ("45566", 0, 0.2),  # two answers tie, and neither is the first one's: still the first one's
        ("-55", 1, 2 / 3),
        ("-56", 1, 1 / 3),  # the first has none: the next in the plan counts for it
        ("---", -1, 0.0),
    ],
)
def test_the_majority_counts_and_at_a_tie_the_strategy_planned_first(said: str, slot: int, sure: float) -> None:
    row = [(ARMS[i % 4], None if answer == "-" else answer) for i, answer in enumerate(said)]

    assert taken(Prism(), *row) == (slot, pytest.approx(sure))


@pytest.mark.parametrize(
    ("row", "slot", "sure"),
    [
        ([("x", "4"), ("x@tool", "5"), ("x@code", "5")], 2, 2 / 3),  # code and tool agree
        ([("x", "4"), ("x@tool", "4"), ("x@code", "5")], 2, 1 / 3),  # else code, though it is outvoted
        ([("x", "4"), ("x@tool", "6"), ("x@code", None)], 1, 1 / 3),  # the program failed: the tool
        ([("x", "4"), ("x@tool", None), ("x@code", None)], 0, 1 / 3),  # else prose
        ([("x", None), ("x@tool", None), ("x@code", None)], -1, 0.0),
        ([("x", "4"), ("y@code", "5"), ("x@code", "6")], 1, 1 / 3),  # of two programs the first in the plan
        ([("x", "4")], 0, 0.7),  # one draft: as the router is
        ([("", "4")], 0, 0.7),  # asked by name
    ],
)
def test_the_program_goes_before_the_tool_and_the_tool_before_prose(row: list[Said], slot: int, sure: float) -> None:
    assert taken(Ordered(), *row) == (slot, pytest.approx(sure))


@given(
    st.lists(
        st.lists(st.tuples(st.sampled_from(ARMS), st.none() | st.sampled_from("123")), max_size=5),
        min_size=1,
        max_size=4,
    )
)
@pytest.mark.parametrize("make", [Prism, Ordered])
def test_a_question_alone_and_in_a_batch_has_the_same_verdict(
    make: type[Prism | Ordered], rows: list[list[Said]]
) -> None:
    together = make().combine(ballots(*rows))

    for row, slot in zip(rows, together.slot.tolist(), strict=True):
        assert taken(make(), *row)[0] == slot
        assert slot == -1 or row[slot][1] is not None, "who has no answer is never taken"
