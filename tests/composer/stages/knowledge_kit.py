"""What the tests of experts that write what they know share: two writers, a reader, and a script for them."""

from __future__ import annotations

import asyncio

from composer.pipeline import Pipeline
from composer.state import Query, State
from composer.types import Draft, Failure, Request
from tests.composer.scripted import MODEL, Scripted
from tests.composer.stages.settling import shown

EXPERTS = (
    f"{MODEL}experts:\n  general: {{model: small}}\n  law: {{model: small, system: Judge.}}\n"
    "  towns: {model: small, writes: knowledge, system: Towns., description: rivers and mayors of towns}\n"
    "  tools: {model: small, writes: knowledge, system: Tools., description: pumps and valves}\n"
    f"encoder: {{sources: [encoder.onnx], sha256: {'e' * 64}, tokenizer: tokenizer.json}}\n"
)
STEPS = (
    "pipeline:\n  - {use: decide, options: {k: 8}}\n  - use: retrieve\n  - use: generate\n  - use: verify\n"
    "  - {use: aggregate, options: {by: majority}}\n"
)


def registry(evidence: str, experts: str = EXPERTS) -> str:
    return f"{experts}evidence:\n  cards: {{{evidence}}}\n{STEPS}"


UP = registry("writers: [towns, tools], experts: [general], drafts: 3, k: 4")
DOWN = registry("writers: [towns, tools], experts: [general], way: top-down, drafts: 2, factuality: off")
ASKED = "Which river flows through Norwick?"


class Book:
    """A script that keeps what it was asked; cards say `told`, numbered, the reader `said` by role of the request."""

    def __init__(self, **said: str) -> None:
        self.asked: list[Request] = []
        self.said = said

    def __call__(self, request: Request) -> str | Draft | Failure:
        self.asked.append(request)
        if request.role == "knowledge":
            told = self.said.get(request.arm, f"{request.arm.capitalize()} fact number {request.sample}.")
            return told.format(n=request.sample)
        if request.role == "probe":
            return self.said.get("whom" if "Who of these" in shown(request) else "need", "Yes.")
        return self.said.get("answer", "the Tas")

    def of(self, role: str) -> list[Request]:
        return [request for request in self.asked if request.role == role]


def elsewhere(scripted: Scripted, name: str) -> Scripted:
    """With another store, which knows no draft yet."""
    scripted.folder = scripted.folder / name
    scripted.folder.mkdir()
    return scripted


def one(pipeline: Pipeline, question: str = ASKED, by: str = "general+cards") -> State:
    return asyncio.run(pipeline.astate([Query("q", question)], by=by))


def used(state: State, row: int = 0) -> tuple[str, ...]:
    return state.evidence[row]["general+cards"].used
