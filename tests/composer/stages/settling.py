"""What the tests of scoring, refining and searching share: three experts of one small model, and a script for them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from composer.pipeline import Pipeline
from composer.state import Query, State
from composer.types import Draft, Failure, Request, Role
from tests.composer.scripted import MODEL

Say = Callable[[Request], str | Draft | Failure]


def registry(step: str, *, k: int = 8, warm: bool = False) -> str:
    """A registry whose pipeline has this step between `verify` and `aggregate`."""
    model = MODEL.replace("memory: 1MiB", "memory: 1MiB, sampling: {temperature: 0.7}") if warm else MODEL
    return (
        f"{model}experts:\n  general: {{model: small, answers: number}}\n  sums: {{model: small, answers: number, system: S.}}\n"
        "  law: {model: small, answers: number, system: L.}\n"
        f"pipeline:\n  - {{use: decide, options: {{k: {k}}}}}\n  - use: generate\n  - use: verify\n"
        f"  - {{{step}}}\n  - {{use: aggregate, options: {{by: majority}}}}\n"
    )


def shown(request: Request) -> str:
    """What the expert reads."""
    prompt = request.streams[0].prompt
    return prompt if isinstance(prompt, str) else prompt[-1].content


class Book:
    """Experts say what is theirs when they are asked for a draft; other roles are answered by their own functions."""

    def __init__(self, said: Mapping[str, str | Failure], **roles: Say) -> None:
        self.said, self.roles, self.asked = said, roles, list[Request]()

    def __call__(self, request: Request) -> str | Draft | Failure:
        self.asked.append(request)
        if request.role in self.roles:
            return self.roles[request.role](request)
        return self.said[request.arm]

    def of(self, role: Role) -> list[Request]:
        """What was asked in a role."""
        return [request for request in self.asked if request.role == role]


def one(pipeline: Pipeline, **more: object) -> State:
    """The state after one question."""
    return asyncio.run(pipeline.astate([Query("q", "What is 2 + 3?")], **more))  # type: ignore[arg-type]
