"""The strict client against a server on loopback that misbehaves in one way at a time."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from composer.engines.http import LARGEST_REPLY, ChatClient
from composer.engines.limits import Limits
from composer.types import Draft, Message, Request, Sampling, Stream, TokenLogprob

ASK = Request("q", (Stream("someone", (Message("user", "Hi"),)),), Sampling(max_tokens=9))
TEXT = Request("q", (Stream("someone", "Once upon"),), Sampling(max_tokens=9))
Reply = Callable[[asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Asked:
    """What the server has seen: parsed bodies, raw heads, connections made, and whether the client hung up."""

    url: str = ""
    bodies: list[dict[str, Any]] = field(default_factory=list)
    heads: list[str] = field(default_factory=list)
    connections: int = 0
    hung_up: asyncio.Event = field(default_factory=asyncio.Event)


@asynccontextmanager
async def server(reply: Reply) -> AsyncIterator[Asked]:
    asked = Asked()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.connections += 1
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                size = next(int(line[15:]) for line in head.splitlines() if line.lower().startswith("content-length"))
                asked.heads.append(head)
                asked.bodies.append(json.loads(await reader.readexactly(size)))
                answering = asyncio.ensure_future(reply(writer))
                watching = asyncio.ensure_future(_until_closed(reader))
                await asyncio.wait({answering, watching}, return_when=asyncio.FIRST_COMPLETED)
                if watching.done():
                    asked.hung_up.set()
                answering.cancel()
                watching.cancel()
                await asyncio.gather(answering, watching, return_exceptions=True)
                if writer.is_closing():
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            asked.hung_up.set()
        finally:
            writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    asked.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    try:
        yield asked
    finally:
        listening.close()


async def _until_closed(reader: asyncio.StreamReader) -> None:
    while not reader.at_eof() and reader.exception() is None:  # a pooled client sends nothing before it has its reply
        await asyncio.sleep(0.005)


async def ask(reply: Reply, request: Request = ASK, **settings: Any) -> Draft:
    async with server(reply) as asked:
        client = ChatClient(asked.url, name="fake", **settings)
        try:
            return await client.complete(request)
        finally:
            await client.close()


USAGE = {"prompt_tokens": 5, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 2}}


def chunk(content: Any = None, finish: Any = None, **more: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "finish_reason": finish, "delta": {"content": content}} | more]}


def piece(text: str, finish: Any = None, **more: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "finish_reason": finish, "text": text} | more]}


def good(*, finish: Any = "stop", usage: Any = USAGE) -> list[Any]:
    return [chunk(), chunk("Hel"), chunk("lo."), chunk(None, finish), {"choices": [], "usage": usage}, "[DONE]"]


def events(chunks: list[Any], gap: str = "\n\n") -> bytes:
    told = [part if isinstance(part, str) else json.dumps(part, ensure_ascii=False) for part in chunks]
    return "".join(f"data: {part}{gap}" for part in told).encode("utf-8", "surrogatepass")


def framed(body: bytes, status: str = "200 OK", form: str = "text/event-stream", more: str = "") -> bytes:
    head = f"HTTP/1.1 {status}\r\ncontent-type: {form}\r\ncontent-length: {len(body)}\r\n{more}\r\n"
    return head.encode() + body


def sends(raw: bytes, *, then_close: bool = False) -> Reply:
    async def reply(writer: asyncio.StreamWriter) -> None:
        writer.write(raw)
        await writer.drain()
        if then_close:
            writer.close()

    return reply


def says(chunks: list[Any], **framing: Any) -> Reply:
    return sends(framed(events(chunks), **framing))


async def test_a_whole_reply_becomes_a_draft() -> None:
    draft = await ask(says(good()))

    assert draft.ok
    assert (draft.text, draft.stop, draft.served_by, draft.key) == ("Hello.", "stop", "fake", "")
    assert (draft.usage.tokens_in, draft.usage.tokens_out, draft.usage.cached_in, draft.usage.passes) == (5, 3, 2, 3)
    assert draft.usage.seconds > 0


async def test_a_reply_cut_by_the_token_limit_is_no_complete_answer() -> None:
    full = await ask(says(good(finish="length")))
    limit = await ask(says(good(finish="length", usage={"prompt_tokens": 5, "completion_tokens": 9})))

    assert (full.stop, full.stop_detail, full.error, full.ok) == ("length", "the context was full", None, False)
    assert (limit.stop, limit.stop_detail) == ("length", "")


async def test_every_field_that_shapes_the_text_is_sent_and_no_other() -> None:
    sampling = Sampling(
        max_tokens=7,
        temperature=0.5,
        top_p=0.9,
        seed=3,
        stop=("\n",),
        schema='{"type": "object"}',
        logprobs=2,
        top_k=4,
        min_p=0.1,
        template=(("thinking", False),),
    )
    turns = (Message("system", "Be brief."), Message("user", "Hi"))
    async with server(says(good())) as asked:
        client = ChatClient(asked.url, api_key="secret-key")

        await client.complete(Request("q", (Stream("someone", turns),), sampling), {"lora": [{"id": 0, "scale": 1.0}]})

        await client.close()
    assert asked.bodies == [
        {
            "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}],
            "max_tokens": 7,
            "temperature": 0.5,
            "top_p": 0.9,
            "top_k": 4,
            "min_p": 0.1,
            "seed": 3,
            "stream": True,
            "stream_options": {"include_usage": True},
            "stop": ["\n"],
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "answer", "schema": {"type": "object"}},
            },
            "logprobs": True,
            "top_logprobs": 2,
            "chat_template_kwargs": {"thinking": False},
            "lora": [{"id": 0, "scale": 1.0}],
        }
    ]
    assert asked.heads[0].startswith("POST /v1/chat/completions ")
    assert "authorization: bearer secret-key" in asked.heads[0].lower()


async def test_text_is_continued_without_a_chat() -> None:
    async with server(says([piece(" a"), piece(" time"), piece("", "stop") | {"usage": USAGE}, "[DONE]"])) as asked:
        client = ChatClient(asked.url)

        draft = await client.complete(TEXT)

        await client.close()
    assert draft.text == " a time"
    assert asked.heads[0].startswith("POST /v1/completions ")
    assert sorted(asked.bodies[0]) == sorted(
        ["prompt", "max_tokens", "temperature", "top_p", "top_k", "min_p", "seed", "stream", "stream_options"]
    )


async def test_log_probabilities_are_read_and_cut_to_what_was_asked() -> None:
    top = [{"token": "Hel", "logprob": -0.1}, {"token": "Hi", "logprob": -2}]
    told = {"content": [{"id": 7, "token": "Hel", "logprob": -0.1, "top_logprobs": top}]}
    last = {"content": [{"token": "lo.", "logprob": -0.3, "top_logprobs": []}]}
    chunks = [chunk("Hel", logprobs=told), chunk("lo.", logprobs=last), chunk(None, "stop"), *good()[-2:]]
    wanted = Request("q", ASK.streams, Sampling(max_tokens=9, logprobs=1))

    draft = await ask(says(chunks), wanted)

    assert draft.logprobs == (TokenLogprob("Hel", -0.1, (("Hel", -0.1),), 7), TokenLogprob("lo.", -0.3))


@pytest.mark.parametrize("reuse", [True, False])
async def test_connections_are_kept_for_the_next_request_if_wanted(reuse: bool) -> None:
    async with server(says(good())) as asked:
        client = ChatClient(asked.url, reuse=reuse)

        drafts = [await client.complete(ASK) for _ in range(3)]

        await client.close()
    assert all(draft.ok for draft in drafts)
    assert asked.connections == (1 if reuse else 3)
    assert all(("connection: close" in head.lower()) != reuse for head in asked.heads)


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


@pytest.mark.parametrize("size", [1, 7, 100_000])
@pytest.mark.parametrize("gap", ["\n\n", "\r\n\r\n", "\n: still here\n\n", "\nevent: x\n\n\n"])
async def test_a_stream_is_the_same_text_however_it_is_cut(gap: str, size: int) -> None:
    chunks = [chunk("Grüße, "), chunk("世界 🙂\r\n"), chunk("data: x\n\n"), chunk(None, "stop"), *good()[-2:]]
    raw = framed(b": hello\n\n" + events(chunks, gap))

    async def reply(writer: asyncio.StreamWriter) -> None:
        for start in range(0, len(raw), size):
            writer.write(raw[start : start + size])
            await asyncio.sleep(0)

    draft = await ask(reply)

    assert draft.error is None
    assert draft.text == "Grüße, 世界 🙂\r\ndata: x\n\n"


async def test_a_schema_the_server_did_not_keep_to_is_a_failure() -> None:
    draft = await ask(says(good()), Request("q", ASK.streams, Sampling(schema='{"type": "object"}')))

    assert draft.error is not None and draft.error.kind == "bad_response"


async def test_log_probabilities_that_do_not_come_are_a_failure() -> None:
    draft = await ask(says(good()), Request("q", ASK.streams, Sampling(logprobs=0)))

    assert draft.error is not None and draft.error.kind == "bad_response"


async def test_a_model_with_nothing_to_say_is_no_failure() -> None:
    draft = await ask(says([chunk(), chunk(None, "stop"), *good(usage=USAGE | {"completion_tokens": 1})[-2:]]))

    assert draft.ok
    assert draft.text == ""


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


async def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    async with server(says(good())) as proxy:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy.url)

        draft = await ask(says(good()))

    assert draft.ok
    assert proxy.connections == 0


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


async def test_nobody_listening_is_a_failure() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        client = ChatClient(f"http://127.0.0.1:{free.getsockname()[1]}")

        draft = await client.complete(ASK)

        await client.close()
    assert draft.error is not None and draft.error.kind == "unreachable"


@pytest.mark.parametrize("limit", ["deadline", "longest"])
async def test_a_dripping_reply_ends_at_the_deadline_and_the_connection_with_it(limit: str) -> None:
    async def drips(writer: asyncio.StreamWriter) -> None:
        for byte in framed(events(good())):
            writer.write(bytes([byte]))
            await asyncio.sleep(0.05)

    async with server(drips) as asked:
        client = ChatClient(asked.url, limits=Limits(longest=0.3 if limit == "longest" else 600))
        deadline = time.monotonic() + 0.3 if limit == "deadline" else None

        draft = await client.complete(Request("q", ASK.streams, ASK.sampling, deadline=deadline))

        await asyncio.wait_for(asked.hung_up.wait(), 10)
        await client.close()
    assert draft.error is not None and draft.error.kind == "timeout"


async def test_what_is_late_already_is_not_sent() -> None:
    async with server(says(good())) as asked:
        client = ChatClient(asked.url)

        draft = await client.complete(Request("q", ASK.streams, ASK.sampling, deadline=time.monotonic() - 1))

        await client.close()
    assert draft.error is not None and draft.error.kind == "timeout"
    assert asked.connections == 0


async def test_cancelling_a_call_closes_its_connection() -> None:
    async def hangs(writer: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    async with server(hangs) as asked:
        client = ChatClient(asked.url)
        call = asyncio.create_task(client.complete(ASK))
        while not asked.bodies:
            await asyncio.sleep(0.01)

        call.cancel()

        with pytest.raises(asyncio.CancelledError):
            await call
        await asyncio.wait_for(asked.hung_up.wait(), 10)
        await client.close()


@pytest.mark.parametrize(
    ("prompt", "sampling"),
    [("x", Sampling(schema="{")), ("x", Sampling(schema="[" * 100_000)), ("x", Sampling(temperature=float("nan")))],
    ids=["no JSON", "deep", "not a number"],
)
async def test_what_cannot_be_sent_is_refused(prompt: str, sampling: Sampling) -> None:
    async with server(says(good())) as asked:
        client = ChatClient(asked.url)

        draft = await client.complete(Request("q", (Stream("someone", prompt),), sampling))

        await client.close()
    assert draft.error is not None and draft.error.kind == "refused"
    assert asked.connections == 0


async def test_half_a_surrogate_pair_in_a_prompt_can_be_sent() -> None:
    async with server(says([piece("ok", "stop") | {"usage": USAGE}, "[DONE]"])) as asked:
        client = ChatClient(asked.url)

        draft = await client.complete(Request("q", (Stream("someone", "a\ud800b"),)))

        await client.close()
    assert draft.ok
    assert asked.bodies[0]["prompt"] == "a\ud800b"
