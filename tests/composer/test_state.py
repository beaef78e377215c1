"""The batch state: what stages may change, and what a policy is shown."""

from __future__ import annotations

import numpy as np
import pytest

from composer.state import Query, Reply, State
from composer.traced import trace_of
from composer.types import Draft


def test_an_update_makes_a_new_state() -> None:
    state = State.of((Query("1", "x"),))

    changed = state.apply({"round": 1})

    assert (state.round, changed.round) == (0, 1)


def test_an_update_of_an_unknown_field_is_a_bug_that_is_named() -> None:
    with pytest.raises(TypeError, match="does not have: scroes"):
        State.of((Query("1", "x"),)).apply({"scroes": None})


def test_seen_is_in_plan_order_and_equal_answers_are_one() -> None:
    replies = (
        Reply("b", Draft("k", "5", "stop"), answer="1/2", code=0),
        Reply("a", Draft("k", "?", "stop")),
        Reply("c", Draft("k", "5", "stop"), answer="0.5", code=0),
    )
    state = State.of((Query("1", "x"),)).apply({"asked": (("b", "a", "c"),), "replies": (replies,)})

    [seen] = state.seen

    assert seen.asked == ("b", "a", "c")
    assert seen.answers == (("b", "1/2"), ("a", None), ("c", "1/2")), "equal answers are told in the same words"


def test_choices_become_lettered_lines_of_the_prompt() -> None:
    assert Query("1", "Which?", ("red", "blue")).prompt == "Which?\nA) red\nB) blue"


def test_a_route_names_every_arm_with_its_score() -> None:
    state = State.of((Query("1", "x"),)).apply(
        {"arms": ("a", "b"), "scores": np.array([[0.25, 0.75]], dtype=np.float32), "asked": (("b",),)}
    )

    route = state.route(0)

    assert route.arms == ("b",)
    assert route.scores == {"a": 0.25, "b": 0.75}


def test_a_trace_can_be_written_as_json() -> None:
    import json

    from composer.state import Answer

    answer = Answer("1", "5", "ok", ("a",), 0.5, 1.0, "a", "0123")
    state = State.of((Query("1", "x"),)).apply(
        {"replies": ((Reply("a", Draft("k", "5", "stop"), answer="5"),),), "answers": (answer,)}
    )

    trace = json.loads(json.dumps(trace_of(state, 0)))

    assert trace["drafts"][0]["draft"] == "5"
    assert trace["trace_id"] == "0123"
