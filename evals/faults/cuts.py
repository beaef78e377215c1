"""Recorded streams cut at every byte (R6): what our client takes for whole, beside the openai client and LiteLLM."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import socket
import struct
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from composer.engines.http import ChatClient
from composer.types import Message, Request, Stream
from evals.faults.bench import Bench, Finding

_RECORDED = Path(__file__).parent / "transcripts" / "llamacpp.txt"  # of SmolLM2-135M
_STRIDE = 40  # bytes between two cuts of the streams of others: they are slow; three times that on every push
_AT_ONCE = 16
_FRAMINGS = ("chunks", "length", "until the end")
_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
Take = Callable[[str], Awaitable[bool]]


def _written(
    texts: list[str], first: dict[str, Any] | None, last: dict[str, Any], usage: dict[str, Any] | None
) -> bytes:
    base = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1795752199, "model": "m"}
    chunks = [base | {"choices": [{"index": 0, "delta": first, "finish_reason": None}]}] if first else []
    chunks += [base | {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]} for text in texts]
    chunks.append(base | {"choices": [{"index": 0, **last}]} | ({} if usage is None else {"usage": usage}))
    if usage is None:
        chunks.append(base | {"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13}})
    told = [*(json.dumps(chunk, ensure_ascii=False) for chunk in chunks), "[DONE]"]
    return "".join(f"data: {part}\n\n" for part in told).encode()


def transcripts() -> dict[str, bytes]:
    """Streams by server: one as it was recorded, the others in the form that their servers' sources give them."""
    words = ["Grüße", ", ", "世界", " 🙂."]
    usage = {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13}
    return {
        "llama.cpp": _RECORDED.read_bytes(),
        "vLLM": _written(
            words,
            {"role": "assistant", "content": ""},
            {"delta": {}, "finish_reason": "stop", "stop_reason": None},
            None,
        ),
        "ollama": _written(words, None, {"delta": {"role": "assistant", "content": ""}, "finish_reason": "stop"}, None),
        "TGI": _written(words, None, {"delta": {"role": "assistant", "content": ""}, "finish_reason": "stop"}, usage),
    }


def framed(body: bytes, framing: str) -> bytes:
    """The reply as it is sent."""
    if framing == "length":
        return _HEAD + b"content-length: %d\r\n\r\n%s" % (len(body), body)
    if framing == "until the end":
        return _HEAD + b"connection: close\r\n\r\n" + body
    events = [event + b"\n\n" for event in body.split(b"\n\n") if event]
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(event), event) for event in events)
    return _HEAD + b"transfer-encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"


@asynccontextmanager
async def _cutter() -> AsyncIterator[str]:
    """A server that sends as many bytes of a transcript as the question says: `NAME/FRAMING/CUT/eof`."""
    wholes = {(name, framing): framed(body, framing) for name, body in transcripts().items() for framing in _FRAMINGS}

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            found = re.search(rb"(?i)content-length: *(\d+)", head)
            asked = json.loads(await reader.readexactly(int(found[1]) if found else 0))["messages"][-1]["content"]
            name, framing, cut, end = asked.split("/")
            writer.write(wholes[name, framing][: int(cut)])
            await writer.drain()
            if end == "rst":
                raw: socket.socket = writer.get_extra_info("socket")
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                writer.transport.abort()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, backlog=512)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


async def _accepted(take: Take, asked: list[str]) -> int:
    """How many of these are taken for whole."""
    waiting = iter(asked)

    async def work() -> int:
        return sum([await take(one) for one in waiting])

    return sum(await asyncio.gather(*(work() for _ in range(_AT_ONCE))))


def _cuts(names: list[str], stride: int) -> list[str]:
    """Questions for every cut: of the first framing with a clean end at every byte, of the others at every `stride`-th."""
    asked = []
    for name in names:
        for framing in _FRAMINGS:
            whole = framed(transcripts()[name], framing)
            for end in ("eof", "rst"):
                step = 1 if (framing, end) == (_FRAMINGS[0], "eof") else stride
                asked += [f"{name}/{framing}/{cut}/{end}" for cut in range(0, len(whole), step)]
    return asked


def _meaning(names: list[str], stride: int) -> list[str]:
    """Cuts that lose a part of the text or the reason of its end, and look like the end of a connection: a lost last byte
    is no fault of those who do not need it."""
    asked = []
    for name in names:
        for framing in _FRAMINGS:
            whole = framed(transcripts()[name], framing)
            needed = max(whole.rfind(b'"finish_reason":"'), whole.rfind(b'"finish_reason": "'))
            asked += [f"{name}/{framing}/{cut}/eof" for cut in range(1, needed, stride)]
    return asked


async def _ours(url: str, asked: list[str]) -> tuple[int, int]:
    client = ChatClient(url, reuse=False)

    async def take(one: str) -> bool:
        draft = await client.complete(Request(one, (Stream("far", (Message("user", one),)),)))
        return draft.error is None

    wholes = [
        f"{name}/{framing}/10000000/eof" for name in {one.split("/")[0] for one in asked} for framing in _FRAMINGS
    ]
    try:
        return await _accepted(take, asked), await _accepted(take, wholes) - len(wholes)
    finally:
        await client.close()


async def _openai(url: str, asked: list[str]) -> int:
    import openai  # noqa: PLC0415 - a peer, and heavy

    client = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=20)

    async def take(one: str) -> bool:
        try:
            stream = await client.chat.completions.create(
                model="m", messages=[{"role": "user", "content": one}], stream=True
            )
            return "".join([chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices]) != ""
        except Exception:  # whatever it raises: it did not take it
            return False

    try:
        return await _accepted(take, asked)
    finally:
        await client.close()


async def _litellm(url: str, asked: list[str]) -> int:
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    import litellm  # noqa: PLC0415 - a peer, and heavy

    litellm.suppress_debug_info = True

    async def take(one: str) -> bool:
        messages = [{"role": "user", "content": one}]
        try:
            stream = await litellm.acompletion(
                model="openai/m",
                messages=messages,
                api_base=f"{url}/v1",
                api_key="none",
                stream=True,
                max_retries=0,
                num_retries=0,
            )
            return "".join([chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices]) != ""
        except Exception:  # as above
            return False

    return await _accepted(take, asked)


def cut_streams(_: Bench, n: int) -> Finding:
    """R6: `n` transcripts (four at most), every byte, three framings, a clean end of the connection and a reset."""
    names = list(transcripts())[: max(1, n)]
    asked = _cuts(names, 1 if n > 1 else 10)
    others = _meaning(names, _STRIDE if n > 1 else 3 * _STRIDE)

    async def count() -> tuple[int, int, int, int]:
        async with _cutter() as url:
            ours, missed = await _ours(url, asked)
            return ours, missed, await _openai(url, others), await _litellm(url, others)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of LiteLLM and what it is made of
        ours, missed, openai, litellm = asyncio.run(count())
    figure = (
        f"cut replies accepted {ours:,} of {len(asked):,}, whole ones refused {-missed}; of {len(others):,} that ended cleanly"
        f" with text or its reason missing, openai {version('openai')} accepted {openai:,}, LiteLLM {version('litellm')} {litellm:,}"
    )
    return Finding(
        "R6",
        "recorded streams cut at every byte, by a clean end or a reset",
        "only a whole reply with a reason for its end counts",
        figure,
        len(asked),
        not ours and not missed,
    )
