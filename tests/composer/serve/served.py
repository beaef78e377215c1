"""The real app over a pipeline whose experts answer from a script, for the tests of what callers get."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx

from composer.pipeline import Pipeline
from composer.serve.app import build
from composer.serve.door import Door
from composer.serve.guard import Guard, Keys
from composer.serve.limits import Limits

LIMITS = Limits(max_tokens=100)
KEY = "k" * 22
Data = dict[str, Any]
PANEL = (
    "pipelines:\n  panel:\n    - {use: decide, options: {k: 3}}\n    - use: generate\n"
    "    - use: verify\n    - {use: aggregate, options: {by: majority}}\n"
)


@asynccontextmanager
async def guarded(
    pipeline: Pipeline, limits: Limits = LIMITS, keys: Keys | None = None, said: list[str] | None = None
) -> AsyncIterator[tuple[Guard, Door]]:
    """The app with its guard, and the door behind it."""
    async with pipeline:
        door = Door(pipeline, limits, ([] if said is None else said).append)
        try:
            yield Guard(build(door), door, keys or Keys(), {"coe"}, limits), door
        finally:
            await door.close()


@asynccontextmanager
async def served(
    pipeline: Pipeline, limits: Limits = LIMITS, keys: Keys | None = None, said: list[str] | None = None
) -> AsyncIterator[tuple[httpx.AsyncClient, Door]]:
    """A client of the app, without a network."""
    async with (
        guarded(pipeline, limits, keys, said) as (app, door),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://coe") as client,
    ):
        yield client, door


def ask(model: str = "auto", text: str = "What?", **fields: Any) -> Data:
    """The body of a request."""
    return {"model": model, "messages": [{"role": "user", "content": text}], **fields}


async def chat(client: httpx.AsyncClient, body: Data) -> httpx.Response:
    return await client.post("/v1/chat/completions", json=body)


def events(response: httpx.Response) -> list[Any]:
    """The data of a stream's events: JSON, and "[DONE]" as it stands."""
    found = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line.startswith("data: ")]
    return [line if line == "[DONE]" else json.loads(line) for line in found]


def text_of(chunks: list[Any], index: int = 0) -> str:
    """What a reader of the stream has read."""
    choices = [choice for chunk in chunks if isinstance(chunk, dict) for choice in chunk.get("choices", [])]
    return "".join(choice["delta"].get("content") or "" for choice in choices if choice["index"] == index)
