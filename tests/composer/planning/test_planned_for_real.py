"""The packaged planner and specialists solve together what none of them can, with the model opened once."""

from __future__ import annotations

from composer.config import load_settings, packaged_registry
from composer.pipeline import Pipeline
from composer.traced import trace_of

TWO = "On Monday we used 14 metres of cable, on Tuesday 23 metres. How many centimetres did we use?"
ONE = "What is 47 + 38?"


def test_two_skills_are_asked_in_turn_and_one_skill_at_once() -> None:
    with Pipeline(load_settings(packaged_registry())) as pipeline:
        state = pipeline.complete(pipeline.astate([TWO, ONE], by="planned"))
        loads = pipeline.ledger.loads
    assert [answer.text for answer in state.answers] == ["3700", "85"]
    told = trace_of(state, 0)["plan"]
    assert [(step["asked"], step["chosen"]) for step in told["steps"]] == [
        ("14 + 23", "arithmetic"),
        ("37 metres in centimetres", "units"),
    ]
    assert "plan" not in trace_of(state, 1)
    assert loads == 1
