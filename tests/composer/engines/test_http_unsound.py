"""Replies that do not count for the strict client: each is wrong in one way, and told as what it is."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from typing import Any

import pytest
from chat_server import ASK, ask, chunk, events, framed, good, says, sends, server

from composer.engines.http import LARGEST_REPLY, ChatClient
from composer.types import Request, Sampling


@pytest.mark.parametrize(
    "chunks",
    {
        "no finish": [chunk("Hello."), *good()[-2:]],
        "finish of a tool": good(finish="tool_calls"),
        "finish in capitals": good(finish="STOP"),
        "finish is a number": good(finish=1),
        "no end": good()[:-1],
        "no usage": [chunk("Hello.", "stop"), "[DONE]"],
        "usage below zero": good(usage={"prompt_tokens": -1, "completion_tokens": 3}),
        "usage without tokens": good(usage={"prompt_tokens": 5}),
        "only the end": ["[DONE]"],
        "nothing": [],
        "empty choices": [{"choices": []}, *good()[-2:]],
        "no text for its tokens": [chunk(None), chunk(None, "stop"), *good()[-2:]],
        "text is a number": [chunk(5), *good()],
        "two choices": [{"choices": chunk("a")["choices"] * 2}, *good()],
        "the second choice": [chunk("a", index=1), *good()],
        "two finishes": [*good()[:-2], chunk(None, "stop"), *good()[-2:]],
        "text after the finish": [*good()[:-2], chunk("more"), *good()[-2:]],
        "a chunk after the end": [*good(), chunk("more")],
        "an error within": [chunk("Hel"), {"error": {"message": "it fell over", "code": 500}}, *good()[2:]],
        "an error beside choices": [chunk("Hel") | {"error": {"message": "it fell over"}}, *good()[2:]],
        "an error only": [{"error": {"message": "it fell over"}}],
        "no object": ["[]", *good()],
        "null": ["null", *good()],
        "cut JSON": ['{"choices": [{"finish_reason": ', *good()],
        "no choices": [{"id": "x"}, *good()],
        "half a surrogate pair": ['{"choices": [{"delta": {"content": "\\ud800"}}]}', *good()],
        "bytes of a surrogate": [chunk("\ud800"), *good()],
        "deep": ["[" * 100_000, *good()],
    }.items(),
    ids=lambda case: case[0],
)
async def test_a_reply_that_is_not_as_it_should_be_does_not_count(chunks: tuple[str, list[Any]]) -> None:
    draft = await ask(says(chunks[1]))

    assert draft.error is not None
    assert (draft.error.kind, draft.stop, draft.text) == ("bad_response", "error", "")
    assert ("it fell over" in draft.error.message) == ("error" in chunks[0])


@pytest.mark.parametrize(
    "raw",
    {
        "another form": framed(events(good()), form="text/plain"),
        "a page": framed(b"<html>login</html>", form="text/html"),
        "a whole reply": framed(b'{"error": {"message": "it fell over"}}', form="application/json"),
        "gzip": framed(events(good()), more="content-encoding: gzip\r\n"),
        "no UTF-8": framed(events(good()).replace(b"Hel", b"H\xffl")),
        "huge": framed(b":" * (LARGEST_REPLY + 1)),
        "empty": framed(b""),
    }.items(),
    ids=lambda case: case[0],
)
async def test_a_body_that_is_no_sound_stream_does_not_count(raw: tuple[str, bytes]) -> None:
    draft = await ask(sends(raw[1]))

    assert draft.error is not None
    assert (draft.error.kind, draft.stop) == ("bad_response", "error")


async def test_a_schema_the_server_did_not_keep_to_is_a_failure() -> None:
    draft = await ask(says(good()), Request("q", ASK.streams, Sampling(schema='{"type": "object"}')))

    assert draft.error is not None and draft.error.kind == "bad_response"


async def test_log_probabilities_that_do_not_come_are_a_failure() -> None:
    draft = await ask(says(good()), Request("q", ASK.streams, Sampling(logprobs=0)))

    assert draft.error is not None and draft.error.kind == "bad_response"


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        ("400 Bad Request", "refused"),
        ("401 Unauthorized", "refused"),
        ("404 Not Found", "refused"),
        ("429 Too Many Requests", "overloaded"),
        ("500 Internal Server Error", "bad_response"),
        ("502 Bad Gateway", "bad_response"),
        ("503 Service Unavailable", "overloaded"),
        ("529 Overloaded", "overloaded"),
        ("201 Created", "bad_response"),
    ],
)
async def test_another_status_than_200_is_a_failure_with_the_servers_words(status: str, kind: str) -> None:
    draft = await ask(sends(framed(b'{"error": {"message": "not today"}}', status)))

    assert draft.error is not None
    assert draft.error.kind == kind
    assert "not today" in draft.error.message


async def test_a_good_body_under_a_bad_status_does_not_count() -> None:
    draft = await ask(says(good(), status="500 Internal Server Error"))

    assert not draft.ok


async def test_a_prompt_too_long_for_the_context_says_both_counts() -> None:
    told = {"error": {"type": "exceed_context_size_error", "message": "…", "n_prompt_tokens": 631, "n_ctx": 512}}

    draft = await ask(sends(framed(json.dumps(told).encode(), "400 Bad Request", "application/json")))

    assert draft.error is not None
    assert draft.error.kind == "too_long"
    assert "631" in draft.error.message and "512" in draft.error.message


async def test_a_redirect_is_not_followed() -> None:
    async with server(says(good())) as elsewhere:
        raw = framed(b"", "307 Temporary Redirect", more=f"location: {elsewhere.url}/v1/chat/completions\r\n")

        draft = await ask(sends(raw))

    assert draft.error is not None and draft.error.kind == "bad_response"
    assert elsewhere.connections == 0


@pytest.mark.parametrize("framing", ["length", "chunks", "until the end"])
async def test_a_reply_cut_at_any_byte_never_counts(framing: str) -> None:
    body = events(good())
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
    whole = {
        "length": head + b"content-length: %d\r\n\r\n" % len(body) + body,
        "chunks": head + b"transfer-encoding: chunked\r\n\r\n%x\r\n" % len(body) + body + b"\r\n0\r\n\r\n",
        "until the end": head + b"connection: close\r\n\r\n" + body,
    }[framing]
    cut = 0

    async def reply(writer: asyncio.StreamWriter) -> None:
        await sends(whole[:cut], then_close=True)(writer)

    async with server(reply) as asked:
        client = ChatClient(asked.url)
        accepted = []
        for cut in range(len(whole)):
            if (await client.complete(ASK)).error is None:
                accepted.append(cut)
        cut = len(whole)
        complete = await client.complete(ASK)
        await client.close()

    assert accepted == []
    assert complete.ok


async def test_a_connection_that_is_reset_is_a_failure() -> None:
    async def reply(writer: asyncio.StreamWriter) -> None:
        writer.write(framed(events(good()))[:-9])
        await writer.drain()
        raw: socket.socket = writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()

    draft = await ask(reply)

    assert draft.error is not None and draft.error.kind == "disconnected"
