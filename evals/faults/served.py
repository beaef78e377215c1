"""A server that is abused (S14): every abuse gets its right answer, and the next caller gets theirs."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from evals.faults.abuses import CLOSED, Abuse, abuses, asked, head, post, slow_ones
from evals.faults.bench import Bench, Finding
from evals.faults.server import answer_to
from evals.faults.watched import SLOW

_STALL, _GROWTH = 0.1, 50 * 2**20  # seconds, bytes: what is promised
_BESIDE_OTHERS = 1.0  # seconds: where other tests want the same processors
_PATIENCE = 20.0
_STUCK = b"it never hung up"
_RESET = 7  # the state of a connection that the other side has aborted: Linux's TCP_CLOSE
_FORM = {"message", "type", "param", "code"}


@dataclass(frozen=True, slots=True)
class _Watched:
    """A server in a process of its own, and what can be seen of it from outside."""

    port: int
    pid: int
    folder: Path

    def bytes(self, name: str) -> int:
        """`VmRSS`, or `VmHWM`: the most it ever was since `forget`."""
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(name))

    def forget(self) -> None:
        """Count the most memory from now on."""
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")

    def stall(self) -> float:
        """The longest time, in seconds, that its event loop was busy with one thing since this was asked last."""
        worst = float(struct.unpack("d", (self.folder / "stall").read_bytes())[0])
        os.kill(self.pid, signal.SIGUSR1)
        return worst

    def said(self) -> str:
        """What its log says."""
        return (self.folder / "log").read_text(errors="replace")


def abused_server(bench: Bench, rounds: int) -> Finding:
    """S14: all abuses, one after the other, `rounds` times; after each one health and a good question."""
    with _watched(bench) as server:
        wrong, stalls, grown = asyncio.run(_all(server, rounds))
        tracebacks = server.said().count("Traceback")
    sent = rounds * len([*slow_ones(), *abuses()])
    name, stall = max(stalls.items(), key=lambda each: each[1])
    within = stall < (_STALL if rounds > 1 else _BESIDE_OTHERS)
    least = f", the least of {rounds} rounds" if rounds > 1 else ""
    figure = (
        f"wrong answers {len(wrong)}{' (' + '; '.join(wrong[:3]) + ')' if wrong else ''}, tracebacks {tracebacks}, "
        f"health and a good question after each {sent - sum('after' in each for each in wrong)}/{sent}; "
        f"event loop held for {1000 * stall:.0f} ms at most ({name}{least}), memory {grown / 2**20:+.0f} MiB at most"
    )
    promise = "an error in OpenAI's form, never 500; loop held under 100 ms, memory under +50 MiB; others are answered"
    passed = not wrong and not tracebacks and within and grown < _GROWTH
    return Finding("S14", "callers that abuse `coe serve`", promise, figure, sent, passed)


@contextmanager
def _watched(bench: Bench) -> Iterator[_Watched]:
    folder = bench.new("served")
    bench.registry(folder, "ok", "drip:0.2", "echo")
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "evals.faults.watched", str(folder)], stdout=subprocess.PIPE, stderr=log, text=True
        )
    assert process.stdout is not None
    try:
        address = process.stdout.readline().split("/v1")[0]
        yield _Watched(int(address.rpartition(":")[2]), process.pid, folder)
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)


async def _all(server: _Watched, rounds: int) -> tuple[list[str], dict[str, float], int]:
    """What went wrong, the stall that each abuse caused, and how much the memory grew at most."""
    for i in range(20):  # imports, and buffers that stay
        await _good(server, f"warm {i}")
    server.forget()
    wrong, before, stalls, names = [], server.bytes("VmRSS"), dict[str, float](), Counter[str]()
    server.stall()

    async def look(name: str) -> None:
        names[name] += 1
        health = await _talk(server.port, Abuse("health", (200,), [head("GET", "/healthz")]))
        if not health.startswith(b"HTTP/1.1 200") or not await _good(server, f"{name} {names[name]}"):
            wrong.append(f"after {name} nobody is answered")
        # what is ours comes again in every round; what other processes took does not
        stalls[name] = min(stalls.get(name, 1e9), server.stall())

    for _ in range(rounds):
        slow = {abuse.name: asyncio.create_task(_talk(server.port, abuse)) for abuse in slow_ones()}
        await asyncio.sleep(SLOW / 2)
        await look("all that are slow")
        for abuse in [*slow_ones(), *abuses()]:
            said = await (slow[abuse.name] if abuse.name in slow else _talk(server.port, abuse))
            wrong += [f"{abuse.name}: {why}" for why in _wrong(abuse, said)]
            await look(abuse.name)
    return wrong, stalls, server.bytes("VmHWM") - before


async def _good(server: _Watched, question: str) -> bool:
    """Whether a good question is answered well."""
    said = await _talk(server.port, Abuse("good", (200,), [post(asked(question))]))
    with suppress(ValueError, KeyError, IndexError):
        told = json.loads(said.partition(b"\r\n\r\n")[2])
        return bool(told["choices"][0]["message"]["content"] == answer_to(question))
    return False


async def _talk(port: int, abuse: Abuse) -> bytes:
    """What the server says until it hangs up, or we do."""
    plug = socket.socket()
    if abuse.deaf:
        plug.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    plug.connect(("127.0.0.1", port))
    reader, writer = await asyncio.open_connection(sock=plug)
    said = bytearray()

    async def hear() -> None:
        if abuse.deaf:
            writer.transport.pause_reading()  # type: ignore[attr-defined]
            while plug.fileno() >= 0 and plug.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] != _RESET:
                await asyncio.sleep(0.05)
            return
        with suppress(ConnectionError):  # it hangs up while we are still talking
            while (abuse.hears is None or len(said) < abuse.hears) and (piece := await reader.read(65536)):
                said.extend(piece)

    async def tell() -> None:
        with suppress(ConnectionError):
            for piece in abuse.pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(abuse.pause)

    telling, hearing = asyncio.create_task(tell()), asyncio.create_task(hear())
    try:
        async with asyncio.timeout(_PATIENCE):
            await hearing
            if abuse.hears is not None:
                await telling
    except TimeoutError:
        said.extend(_STUCK)
    finally:
        telling.cancel()
        hearing.cancel()
        await asyncio.gather(telling, hearing, return_exceptions=True)
        writer.transport.abort()
    return bytes(said)


def _wrong(abuse: Abuse, said: bytes) -> Iterator[str]:
    """What is wrong with the answer to an abuse."""
    if said.startswith(b"HTTP/1.1 100"):
        said = said.partition(b"\r\n\r\n")[2]
    top, _, body = said.partition(b"\r\n\r\n")
    if length := re.search(rb"(?i)content-length: (\d+)", top):
        body = body[: int(length[1])] if abuse.answers > 1 else body
    status = int(top.split(b" ", 2)[1]) if top.startswith(b"HTTP/1.1 ") else CLOSED
    if status not in abuse.statuses or (status == CLOSED and said):
        yield f"status {status}, {said[-60:]!r}"
    if status and (found := said.count(b"HTTP/1.1 ")) != abuse.answers:
        yield f"{found} answers"
    if said.endswith(_STUCK):
        yield _STUCK.decode()
    if b"access-control" in top.lower():
        yield "other pages may read it"
    if abuse.pieces and abuse.pieces[0].startswith(b"HEAD "):
        if body:
            yield "HEAD has a body"
    elif status >= 400:
        try:
            error = json.loads(body)["error"]
        except (ValueError, KeyError, TypeError):
            error = {}
        if set(error) != _FORM or not error["message"]:
            yield f"not OpenAI's form: {body[:60]!r}"
    if b"Traceback" in said or b".py" in body:
        yield "tells of this machine"
