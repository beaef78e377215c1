"""Over a real socket: slow clients, clients that hang up, and an end that lets answers end."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace

import httpx
import pytest
from scripted import ONE, Scripted
from served import LIMITS, ask, chat, events, guarded

from composer.engines.base import Engine
from composer.engines.scripted import ScriptedEngine
from composer.registry.experts import Registry
from composer.serve.door import Door
from composer.serve.guard import Guard
from composer.serve.limits import Limits
from composer.serve.port import bind
from composer.serve.server import _config, _Server
from composer.types import Draft, Request

QUICK = replace(LIMITS, head=0.2, body=0.2, grace=0.2, patience=0.05)


@dataclass
class Slow:
    """Every reply takes `seconds`, and is `says`; who was asked, and who was cancelled."""

    seconds: float = 30.0
    says: str = "done"
    began: list[str] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch, bench: Scripted) -> Slow:
    found = Slow()

    class Engine_(ScriptedEngine):
        async def _answer(self, request: Request) -> Draft:
            found.began.append(request.arm)
            try:
                await asyncio.sleep(found.seconds)
            except asyncio.CancelledError:
                found.ended.append(request.arm)
                raise
            return await super()._answer(request)

    def engine(_: Registry, name: str) -> Engine:
        return Engine_(lambda request: found.says)

    monkeypatch.setattr(Registry, "engine", engine)
    return found


@asynccontextmanager
async def listening(bench: Scripted, limits: Limits = QUICK) -> AsyncIterator[tuple[int, Door, _Server]]:
    """The server on a port of its own."""
    async with guarded(bench.pipeline(ONE), limits) as (app, door):
        guard = Guard(app._app, door, app._keys, {"127.0.0.1"}, limits)
        server = _Server(_config(guard, limits))
        sock = bind("127.0.0.1", 0)
        work = asyncio.create_task(server.serve(sockets=[sock]))
        while not server.started:
            await asyncio.sleep(0.005)
        try:
            yield sock.getsockname()[1], door, server
        finally:
            server.should_exit = True
            await work


def client(port: int) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=20)


async def within(seconds: float, so: Callable[[], bool]) -> None:
    """Wait until it is so."""
    async with asyncio.timeout(seconds):
        while not so():
            await asyncio.sleep(0.01)


async def until_closed(port: int, *pieces: bytes) -> tuple[bytes, float]:
    """What the server says to a client that sends a byte now and then, and after how many seconds it hangs up."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    began = time.monotonic()

    async def heard() -> bytes:
        said = b""
        with suppress(ConnectionResetError):  # it hung up while we were still talking
            while piece := await reader.read(4096):
                said += piece
        return said

    reading = asyncio.create_task(heard())
    for piece in pieces:
        writer.write(piece)
        await asyncio.sleep(0.05)
        if reading.done():
            break
    said = await asyncio.wait_for(reading, 10)
    writer.close()
    return said, time.monotonic() - began


async def test_a_head_that_drips_is_cut_off(bench: Scripted) -> None:
    async with listening(bench) as (port, _, _):
        said, seconds = await until_closed(port, b"GET /healthz HTTP/1.1\r\n", *[b"x"] * 100)
        silent, after = await until_closed(port)

    assert (said, silent) == (b"", b"")
    assert seconds < 2 and after < 2


async def test_a_second_head_that_drips_is_cut_off_too(bench: Scripted) -> None:
    whole = b"GET /healthz HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n"
    async with listening(bench) as (port, _, _):
        said, seconds = await until_closed(port, whole, *[b"x"] * 100)

    assert said.startswith(b"HTTP/1.1 200") and seconds < 2


async def test_a_connection_is_kept_longer_than_clients_keep_theirs(bench: Scripted) -> None:
    whole = b"GET /healthz HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n"
    async with listening(bench) as (port, _, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        heads = []
        for _ in range(2):
            writer.write(whole)
            heads.append(await reader.readuntil(b"}"))
            await asyncio.sleep(3 * QUICK.head)
        writer.close()

    assert [head.startswith(b"HTTP/1.1 200") for head in heads] == [True, True]
    assert _config(None, LIMITS).timeout_keep_alive > 60  # type: ignore[arg-type]


async def test_a_body_that_drips_is_told_so_and_cut_off(bench: Scripted) -> None:
    head = (
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
        b"content-length: 1000\r\n\r\n"
    )
    async with listening(bench) as (port, _, _):
        said, seconds = await until_closed(port, head, *[b" "] * 100)

    assert b" 408 " in said and b"too_slow" in said and seconds < 2


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\0\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nhost: 127.0.0.1\r\nx: " + b"y" * 40_000 + b"\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n{}",
    ],
)
async def test_what_is_no_request_is_told_so_in_openais_form(bench: Scripted, sent: bytes) -> None:
    async with listening(bench) as (port, _, _):
        said, _ = await until_closed(port, sent)

    top, _, body = said.partition(b"\r\n\r\n")
    assert b" 400 " in top and json.loads(body)["error"]["code"] == "invalid_http"


async def test_nonsense_after_an_answer_is_not_answered_again(
    bench: Scripted, caplog: pytest.LogCaptureFixture
) -> None:
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\ntransfer-encoding: chunked\r\n\r\n"
    async with listening(bench) as (port, _, _):
        said, _ = await until_closed(port, head, b"zz\r\n")

    assert b" 415 " in said and said.count(b"HTTP/1.1") == 1
    assert not caplog.records


async def test_who_takes_nothing_of_a_long_answer_is_left(
    bench: Scripted, slow: Slow, caplog: pytest.LogCaptureFixture
) -> None:
    slow.seconds = 0
    long = json.dumps(ask(text="word " * 20_000, stream=True)).encode()
    top = "POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
    request = f"{top}content-length: {len(long)}\r\n\r\n".encode() + long
    slow.says = "word " * 20_000
    async with listening(bench, replace(QUICK, write=0.2)) as (port, door, server):
        plug = socket.socket()
        plug.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        plug.connect(("127.0.0.1", port))
        _, writer = await asyncio.open_connection(sock=plug)
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(request * 100)
        await within(5, lambda: bool(server.server_state.connections))
        await within(20, lambda: not server.server_state.connections)
        under_way = door._under_way
        writer.transport.abort()

    assert under_way == 0
    assert not caplog.records


async def test_the_rest_of_a_refused_body_is_not_read_for_ever(bench: Scripted) -> None:
    head = b"POST /healthz HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 1000\r\n\r\n"
    async with listening(bench) as (port, _, _):
        said, seconds = await until_closed(port, head, *[b" "] * 100)

    assert b" 405 " in said and seconds < 2


@pytest.mark.parametrize("stream", [False, True])
async def test_who_hangs_up_stops_the_engine(
    bench: Scripted, slow: Slow, stream: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async with listening(bench) as (port, door, _), client(port) as http:
        asked = asyncio.create_task(chat(http, ask(stream=stream)))
        await within(5, lambda: bool(slow.began))
        await asyncio.sleep(2 * QUICK.patience)  # a stream has begun by then
        asked.cancel()
        await within(5, lambda: bool(slow.ended))
        await within(5, lambda: door._under_way == 0)
        under_way = door._under_way

    assert (slow.ended, under_way) == (["general"], 0)
    assert not caplog.records


async def test_answers_under_way_may_end_and_no_new_ones_begin(bench: Scripted, slow: Slow) -> None:
    slow.seconds = 0.3
    async with listening(bench, replace(QUICK, grace=5.0)) as (port, door, server), client(port) as http:
        await http.get("/healthz")
        asked = asyncio.create_task(chat(http, ask()))
        await within(5, lambda: bool(slow.began))
        door.stop()
        late = await http.get("/v1/models")
        server.should_exit = True
        whole = await asked

    assert (whole.status_code, late.status_code) == (200, 503)
    assert late.json()["error"]["code"] == "stopping"


async def test_answers_that_take_too_long_to_end_are_told_so(bench: Scripted, slow: Slow) -> None:
    async with listening(bench) as (port, door, _), client(port) as http:
        asked = [asyncio.create_task(chat(http, ask(text=f"{stream}", stream=stream))) for stream in (False, True)]
        await within(5, lambda: bool(slow.began))
        await asyncio.sleep(0.2)
        door.stop()
        door.cut()
        whole, streamed = await asyncio.gather(*asked)

    assert (whole.status_code, whole.json()["error"]["code"]) == (503, "stopping")
    assert streamed.status_code == 200
    told = events(streamed)
    assert told[-1]["error"]["code"] == "stopping" and "[DONE]" not in json.dumps(told)
