"""What the tests of arms with a strategy share: two experts, of whom one writes programs, and a script for both."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import numpy as np

from composer.answers.sandbox import Sandbox
from composer.jsonl import Labelled, Question
from composer.pipeline import Pipeline
from composer.profile import Profile, measure
from composer.settings.strategy import StrategySpec
from composer.state import Query, State
from composer.types import Draft, Failure, Request
from tests.composer.scripted import MODEL, Scripted

STEPS = (
    "pipeline:\n  - {use: decide, options: {k: 8}}\n  - use: generate\n  - use: execute\n  - use: verify\n"
    "  - {use: aggregate, options: {by: majority}}\n"
)
SUM = "What is 47 + 38?"


def registry(strategies: str = "[prose, code]", kind: str = "number", steps: str = STEPS) -> str:
    return (
        f"{MODEL}experts:\n  general: {{model: small, answers: {kind}}}\n"
        f"  coder: {{model: small, answers: {kind}, system: C., strategies: {strategies}}}\n{steps}"
    )


class Book:
    """A script: what each arm says, the next text of a list each time it is asked; `prompts` are what it was asked."""

    def __init__(self, **said: str | Failure | Draft | Sequence[str]) -> None:
        self.said, self.asked = {name.replace("_", "@"): text for name, text in said.items()}, list[Request]()

    def __call__(self, request: Request) -> str | Draft | Failure:
        own = self.said[request.arm]
        before = sum(one.arm == request.arm and one.parent == request.parent for one in self.asked)
        self.asked.append(request)
        return own[min(before, len(own) - 1)] if isinstance(own, list) else own  # type: ignore[return-value]

    def prompts(self, arm: str) -> list[list[str]]:
        prompts = [request.streams[0].prompt for request in self.asked if request.arm == arm]
        return [[prompt] if isinstance(prompt, str) else [turn.content for turn in prompt] for prompt in prompts]


def one(pipeline: Pipeline, question: str = SUM, **more: object) -> State:
    return asyncio.run(pipeline.astate([Query("q", question)], **more))  # type: ignore[arg-type]


def measured(scripted: Scripted, sandbox: Callable[[StrategySpec], Sandbox] | None = None) -> Profile:
    """The profile of one sum, which prose gets wrong and programs right; in `sandbox`, None: the registry's."""
    book = Book(general="5", coder="5", coder_code="47 + 38", coder_tool=["<call>47 + 38</call>", "Answer: 85"])
    items = [Labelled(Question("q", SUM, (), "number", 1), "85", "sums", "profile")]
    with scripted.pipeline(registry("[prose, code, tool]"), book) as pipeline:
        return pipeline.complete(
            measure(
                items,
                pipeline.pool,
                pipeline.registry,
                np.ones((1, 2), dtype=np.float32),
                encoder="e",
                prints=pipeline.registry.prints(),
                sandbox=sandbox or pipeline.sandbox,
            )
        )
