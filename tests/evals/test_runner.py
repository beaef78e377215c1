"""Asking real experts and grading what they say."""

from __future__ import annotations

from composer.config import load_settings, packaged_registry
from composer.pipeline import Pipeline
from composer.types import Message
from evals.runner import Shots, ask_all
from evals.tasks.skills import Item


def test_every_arm_is_asked_every_item_and_graded() -> None:
    items = [
        Item("sum", "What is 4 + 3?", "7", "number", "arithmetic", "test"),
        Item("order", "Sort these letters: c, a, b, d", "a, b, c, d", "list", "sorting", "test"),
    ]
    shots = Shots("general", (Message("user", "What is 1 + 1?"), Message("assistant", "2")))

    with Pipeline(load_settings(packaged_registry())) as pipeline:
        arms = ["base", "arithmetic", "sorting"]
        table = pipeline.complete(ask_all(pipeline, pipeline.registry, items, arms, {"base": shots}))

    assert (table.items, table.arms) == (tuple(items), tuple(arms))
    assert table.right[0, table.column("arithmetic")] == table.right[1, table.column("sorting")] == 1
    assert table.answers[0][1] == "7" and table.answers[1][2] == "a, b, c, d"
    assert (table.tokens > 0).all() and (table.seconds > 0).all()
    assert (table.tokens[:, 0] > table.tokens[:, 1]).all()  # the examples are read with every question
