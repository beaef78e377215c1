"""A server on loopback that replies as it is told, for the tests of the strict client."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from composer.engines.http import ChatClient
from composer.types import Draft, Message, Request, Sampling, Stream

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
