"""What callers get in streams: words as they come, answers when they are known, and errors."""

from __future__ import annotations

from typing import Any

import pytest
from scripted import ONE, THREE, Say, Scripted
from served import PANEL, ask, chat, events, served, text_of

from composer.engines.base import Engine
from composer.engines.scripted import ScriptedEngine
from composer.registry.experts import Registry
from composer.serve.door import asks_once
from composer.serve.limits import Limits
from composer.types import Failure


@pytest.fixture
def streaming(monkeypatch: pytest.MonkeyPatch, bench: Scripted) -> list[Say]:
    """The experts say what the first of the list says, word by word."""
    says: list[Say] = [lambda request: f"{request.arm} on it"]

    def engine(_: Registry, name: str) -> Engine:
        return ScriptedEngine(lambda request: says[0](request), stream=True)

    monkeypatch.setattr(Registry, "engine", engine)
    return says


async def test_one_experts_words_pass_through_as_they_come(bench: Scripted, streaming: list[Say]) -> None:
    async with served(bench.pipeline(THREE)) as (client, _):
        chunks = events(await chat(client, ask("law", stream=True, stream_options={"include_usage": True})))
        auto = events(await chat(client, ask("auto", "Other?", stream=True)))

    deltas = [chunk["choices"][0]["delta"] for chunk in chunks if chunk != "[DONE]" and chunk["choices"]]
    assert deltas[0] == {"role": "assistant", "content": ""}
    assert [delta["content"] for delta in deltas[1:-1]] == ["law ", "on ", "it"]
    assert chunks[-3]["choices"][0]["finish_reason"] == "stop" and chunks[-3]["x_coe"]["experts"] == ["law"]
    assert (chunks[-2]["choices"], chunks[-2]["usage"]["completion_tokens"]) == ([], 3)
    assert chunks[0]["usage"] is None and chunks[-1] == "[DONE]"
    assert text_of(auto) == "general on it" and len(auto) > 4


@pytest.mark.usefixtures("measured")
async def test_a_combined_answer_is_sent_when_it_is_known(bench: Scripted, streaming: list[Say]) -> None:
    streaming[0] = lambda request: "the answer is 7"
    async with served(bench.pipeline(THREE + PANEL)) as (client, _):
        chunks = events(await chat(client, ask("panel", stream=True)))

    assert [chunk["choices"][0]["delta"].get("content") for chunk in chunks[:-1]] == ["", "the answer is 7", None]
    assert len(chunks[-2]["x_coe"]["experts"]) == 3


async def test_draws_that_are_streamed_side_by_side_keep_their_index(bench: Scripted, streaming: list[Say]) -> None:
    streaming[0] = lambda request: f"draw {request.sample} it is"
    async with served(bench.pipeline(ONE)) as (client, _):
        chunks = events(await chat(client, ask(n=2, temperature=1, stream=True)))

    assert [text_of(chunks, index) for index in (0, 1)] == ["draw 0 it is", "draw 1 it is"]
    assert sum(chunk != "[DONE]" and chunk["choices"][0]["finish_reason"] == "stop" for chunk in chunks) == 2


async def test_what_is_streamed_is_what_is_sent_whole(bench: Scripted, streaming: list[Say]) -> None:
    streaming[0] = lambda request: "47 + 38 = 85"
    text = THREE.replace("general: {model", "general: {answers: number, model")
    async with served(bench.pipeline(text)) as (client, _):
        streamed = events(await chat(client, ask("auto", stream=True)))
        whole = (await chat(client, ask("auto"))).json()

    assert text_of(streamed) == whole["choices"][0]["message"]["content"] == "47 + 38 = 85"
    assert (whole["x_coe"]["answer"], streamed[-2]["x_coe"]["answer"]) == ("85", "85")


async def test_a_wait_is_kept_alive_by_comments(bench: Scripted) -> None:
    bench.delay = 0.1
    async with served(bench.pipeline(ONE), Limits(max_tokens=9, patience=0.03)) as (client, _):
        told = await chat(client, ask(stream=True))

    assert told.text.count(": still at work\n\n") >= 1
    assert events(told)[-1] == "[DONE]"


async def test_an_error_before_the_first_word_has_its_own_status(bench: Scripted) -> None:
    pipeline = bench.pipeline(ONE)
    (bench.folder / "project" / "small.gguf").unlink()
    async with served(pipeline) as (client, _):
        told = await chat(client, ask(stream=True))

    assert (told.status_code, told.headers["content-type"]) == (503, "application/json")


async def test_an_error_in_the_middle_is_an_event_and_no_end_follows(bench: Scripted) -> None:
    bench.delay = 0.1
    pipeline = bench.pipeline(ONE, lambda _: Failure("host_died", "gone"))
    async with served(pipeline, Limits(max_tokens=9, patience=0.03)) as (client, _):
        told = await chat(client, ask(stream=True))

    role, error = events(told)
    assert told.status_code == 200
    assert role["choices"][0]["delta"]["role"] == "assistant"
    assert error["error"]["code"] == "host_died"


@pytest.mark.parametrize(
    ("options", "once"),
    [
        ({}, True),
        ({"policy": {"use": "fixed"}}, True),
        ({"policy": "agreeing"}, False),
        ({"abstain_below": 0.5}, False),
    ],
)
def test_only_a_pipeline_that_asks_once_may_pass_words_on(bench: Scripted, options: dict[str, Any], once: bool) -> None:
    steps = bench.pipeline(ONE).settings.pipeline
    first = type(steps[0])("decide", options, 1)

    assert asks_once((first, *steps[1:])) is once


async def test_a_program_is_no_part_of_what_is_streamed(bench: Scripted, streaming: list[Say]) -> None:
    streaming[0] = lambda request: "print( 'forty' + 'two' )"
    registry = f"{ONE}  coder: {{model: small, system: C., strategies: [code]}}\n" + (
        "pipeline:\n  - use: decide\n  - use: generate\n  - use: execute\n  - use: verify\n  - use: aggregate\n"
    )
    async with served(bench.pipeline(registry)) as (client, _):
        models = (await client.get("/v1/models")).json()["data"]
        chunks = events(await chat(client, ask("coder@code", stream=True)))

    assert {"general", "coder@code"} <= {one["id"] for one in models} and "coder" not in {one["id"] for one in models}
    assert text_of(chunks) == "fortytwo"
