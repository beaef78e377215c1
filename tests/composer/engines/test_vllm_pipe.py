"""Our end of the line to vLLM, with the test at the other end: what is sent when, and what becomes of what comes back."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from composer.engines.vllm_pipe import Pipe
from composer.errors import EngineError
from composer.types import AdapterFile, Delta, Draft, Message, Mix, Request, Sampling, Stream


class Other:
    """The other end, as lines of JSON."""

    def __init__(self, wire: socket.socket) -> None:
        self._wire = wire

    async def open(self) -> None:
        self._reader, self._writer = await asyncio.open_unix_connection(sock=self._wire)

    async def heard(self) -> dict[str, Any]:
        line = await asyncio.wait_for(self._reader.readline(), 5)
        found: dict[str, Any] = json.loads(line)
        return found

    def say(self, *lines: object) -> None:
        self._writer.write(b"".join(json.dumps(line).encode() + b"\n" for line in lines))

    async def close(self) -> None:
        self._writer.close()
        await self._writer.wait_closed()


@pytest_asyncio.fixture
async def line() -> AsyncIterator[tuple[Pipe, Other]]:
    ours, its = socket.socketpair()
    pipe, other = Pipe("smol"), Other(its)
    await pipe.open(ours)
    await other.open()
    yield pipe, other
    await pipe.close()
    await other.close()


def ask(name: str, **sampling: Any) -> Request:
    return Request(name, (Stream("smol", (Message("user", name),)),), Sampling(**sampling))


def chunk(name: str, text: str, end: str | None = None, tokens: int = 1) -> dict[str, Any]:
    told: dict[str, Any] = {"id": name, "choices": [{"index": 0, "text": text, "finish_reason": end}]}
    usage = {"prompt_tokens": 5, "completion_tokens": tokens, "prompt_tokens_details": {"cached_tokens": 2}}
    return told | ({"usage": usage} if end else {})


async def test_what_is_asked_at_once_goes_in_one_message(line: tuple[Pipe, Other]) -> None:
    pipe, other = line
    work = [asyncio.create_task(pipe.complete(ask(f"q{i}"), {"model": "smol"})) for i in range(40)]

    told = await other.heard()
    other.say(*(chunk(one["id"], f"a{i}", "stop") for i, one in reversed(list(enumerate(told["ask"])))))
    found = await asyncio.gather(*work)

    assert len(told["ask"]) == 40 and list(told) == ["ask"]
    assert [one["body"]["messages"][0]["content"] for one in told["ask"]] == [f"q{i}" for i in range(40)]
    assert [draft.text for draft in found] == [f"a{i}" for i in range(40)]
    assert found[0].usage.cached_in == 2 and found[0].served_by == "smol"


async def test_only_who_reads_along_gets_pieces(line: tuple[Pipe, Other]) -> None:
    pipe, other = line
    pieces: list[Delta] = []
    reading = asyncio.create_task(pipe.complete(replace(ask("a"), deltas=True), {}, pieces.append))
    whole = asyncio.create_task(pipe.complete(ask("b"), {}))

    first, second = (await other.heard())["ask"]
    other.say(chunk(first["id"], "one "), chunk(second["id"], "all", "length"), chunk(first["id"], "two", "stop", 2))
    found = [await reading, await whole]

    assert first["body"]["stream"] and "stream" not in second["body"]
    assert pieces == [Delta("one ", 0), Delta("two", 4)] and found[0].text == "one two"
    assert found[1].stop == "length"


async def test_whoever_goes_or_is_late_is_dropped_and_nobody_else(line: tuple[Pipe, Other]) -> None:
    pipe, other = line
    gone = asyncio.create_task(pipe.complete(ask("gone")))
    late = asyncio.create_task(pipe.complete(replace(ask("late"), deadline=time.monotonic() + 0.05)))
    good = asyncio.create_task(pipe.complete(ask("good")))
    names = [one["id"] for one in (await other.heard())["ask"]]

    gone.cancel()
    dropped = [*(await other.heard())["drop"], *(await other.heard())["drop"]]
    other.say(chunk(names[0], "too late", "stop"), chunk(names[2], "yes", "stop"))
    draft = await late

    assert dropped == names[:2] and draft.error is not None and draft.error.kind == "timeout"
    assert (await good).text == "yes"


async def test_a_turn_is_waited_for_while_vllm_says_anything_and_no_longer(
    line: tuple[Pipe, Other], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("composer.engines.vllm_pipe.LONGEST_CALL", 0.3)
    pipe, other = line
    work = [asyncio.create_task(pipe.complete(ask(str(i)))) for i in range(4)]
    names = [one["id"] for one in (await other.heard())["ask"]]

    for name in names[:3]:
        await asyncio.sleep(0.2)
        other.say(chunk(name, "yes", "stop"))
    found = await asyncio.gather(*work)

    assert [draft.error and draft.error.kind for draft in found] == [None, None, None, "timeout"]
    assert (await other.heard())["drop"] == names[3:]


@pytest.mark.parametrize(
    ("told", "kind"),
    [
        ({"status": 400, "error": {"message": "This model's maximum context length is 512 tokens."}}, "too_long"),
        ({"status": 400, "error": {"message": "no such thing"}}, "refused"),
        ({"choices": [{"index": 0, "text": "a", "finish_reason": "error"}], "usage": {}}, "bad_response"),
        ({"choices": [{"index": 0, "text": 1, "finish_reason": None}]}, "bad_response"),
    ],
)
async def test_what_vllm_refuses_is_a_draft_that_says_so(
    line: tuple[Pipe, Other], told: dict[str, Any], kind: str
) -> None:
    pipe, other = line
    work = asyncio.create_task(pipe.complete(ask("q")))
    [asked] = (await other.heard())["ask"]

    other.say({"id": asked["id"], **told})
    draft = await work

    assert draft.error is not None and draft.error.kind == kind


async def test_what_cannot_be_sent_fails_alone(line: tuple[Pipe, Other]) -> None:
    pipe, other = line
    bad = asyncio.create_task(pipe.complete(ask("bad", schema="{")))
    good = asyncio.create_task(pipe.complete(ask("good")))

    [asked] = (await other.heard())["ask"]
    other.say(chunk(asked["id"], "yes", "stop"))
    error = (await bad).error

    assert error is not None and error.kind == "refused" and (await good).text == "yes"


async def test_when_vllm_is_gone_nobody_waits(line: tuple[Pipe, Other]) -> None:
    pipe, other = line
    work = [asyncio.create_task(pipe.complete(ask(str(i)))) for i in range(3)]
    loading = asyncio.create_task(pipe.load(AdapterFile("law", Path("law"), ""), "law@1"))
    await other.heard()

    await other.close()
    found: list[Draft] = await asyncio.wait_for(asyncio.gather(*work), 5)
    later = await pipe.complete(ask("later"))

    assert {draft.error.kind for draft in found if draft.error} == {"disconnected"} and len(found) == 3
    assert later.error is not None and later.error.kind == "unreachable"
    with pytest.raises(EngineError):
        await loading
    assert await pipe.state() == {}


async def test_an_adapter_that_is_refused_is_told_in_vllms_words(line: tuple[Pipe, Other], tmp_path: Any) -> None:
    pipe, other = line
    loading = asyncio.create_task(pipe.load(AdapterFile("law", tmp_path, ""), "law@1"))
    told = await other.heard()

    other.say({"id": told["id"], "status": 400, "error": {"message": "rank 64 is over max_lora_rank 16"}})

    with pytest.raises(EngineError, match="rank 64") as caught:
        await loading
    assert told["load"] == {"name": "law@1", "path": str(tmp_path)}
    assert caught.value.remedy is not None and "max_lora_rank" in caught.value.remedy


def both(name: str, **sampling: Any) -> Request:
    strong, weak = (
        Stream("smol", (Message("user", name),), "law", 1.5),
        Stream("smol", (Message("user", "x"),), None, -0.5),
    )
    return Request(name, (strong, weak), Sampling(**sampling), mix=Mix("logit", 0.25))


async def test_several_streams_go_with_their_models_weights_and_mix(line: tuple[Pipe, Other]) -> None:
    pipe, other = line
    work = asyncio.create_task(pipe.complete(both("q"), {"model": "law@1"}, models=["law@1", "base@smol"]))

    [asked] = (await other.heard())["ask"]
    other.say(chunk(asked["id"], "yes", "stop", 3) | {"restarts": 0, "why": "", "passes": 6})
    draft = await work

    assert asked["streams"] == [
        {"model": "law@1", "weight": 1.5, "messages": [{"role": "user", "content": "q"}]},
        {"model": "base@smol", "weight": -0.5, "messages": [{"role": "user", "content": "x"}]},
    ]
    assert asked["mix"] == {"space": "logit", "alpha": 0.25, "mask_from": 0, "top_p": 1.0}
    assert (draft.text, draft.usage.passes, draft.usage.tokens_out, draft.stop_detail) == ("yes", 6, 3, "")


async def test_what_is_begun_again_is_written_from_its_beginning_and_says_so(line: tuple[Pipe, Other]) -> None:
    pipe, other = line
    pieces: list[Delta] = []
    asking = replace(both("q"), deltas=True)
    work = asyncio.create_task(pipe.complete(asking, {"model": "a"}, pieces.append, ["a", "b"]))

    [asked] = (await other.heard())["ask"]
    name = asked["id"]
    other.say(chunk(name, "wro"), {"id": name, "again": "stream 1 is late"}, chunk(name, "ri"))
    last = chunk(name, "ght", "stop", 2) | {"restarts": 1, "why": "stream 1 is late", "passes": 7}
    other.say(last)
    draft = await work

    assert pieces == [Delta("wro", 0), Delta("ri", 0), Delta("ght", 2)]
    assert draft.text == "right" and draft.usage.passes == 7
    assert draft.stop_detail == "restarts: 1, the last because stream 1 is late"


async def test_streams_that_never_stay_together_fail_and_say_why(line: tuple[Pipe, Other]) -> None:
    pipe, other = line
    work = asyncio.create_task(pipe.complete(both("q"), {"model": "a"}, models=["a", "b"]))

    [asked] = (await other.heard())["ask"]
    other.say({"id": asked["id"], "status": 500, "error": {"message": "its 2 streams lost step"}})
    error = (await work).error

    assert error is not None and error.kind == "bad_response" and "lost step" in error.message
