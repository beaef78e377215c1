"""The strict client: what is sent, what becomes a draft, and how connections, deadlines and cancelling are kept."""

from __future__ import annotations

import asyncio
import socket
import time

import pytest
from chat_server import ASK, TEXT, USAGE, ask, chunk, events, framed, good, piece, says, server

from composer.engines.http import ChatClient
from composer.engines.limits import Limits
from composer.types import Message, Request, Sampling, Stream, TokenLogprob


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


async def test_a_model_with_nothing_to_say_is_no_failure() -> None:
    draft = await ask(says([chunk(), chunk(None, "stop"), *good(usage=USAGE | {"completion_tokens": 1})[-2:]]))

    assert draft.ok
    assert draft.text == ""


async def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    async with server(says(good())) as proxy:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy.url)

        draft = await ask(says(good()))

    assert draft.ok
    assert proxy.connections == 0


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
