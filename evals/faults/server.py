"""A loopback server, OpenAI-compatible, whose model name is the fault. Run it: `python -m evals.faults.server LEDGER`.

It prints its address and serves until its stdin ends. The text of an answer is a hash of the prompt, so that one that is
changed, or given to another question, is seen. Every call is a line of LEDGER (`begun`, then `sent` or `left`), written
before anything is answered: what our side believes is held against it.

| model | what happens |
|---|---|
| ok, echo | a whole reply; the text is the prompt itself |
| slow:S, drip:S | S seconds before the first piece; S seconds before each |
| hang, hang@N | nothing more, from the beginning or after N events |
| flaky:P | a share P of all calls, drawn by prompt and attempt, is refused with status 503 |
| status:N | refused with this status |
| eof@N, rst@N | after N events the reply ends cleanly, or the connection is reset |
| done-nofinish | all text and `[DONE]`, but no reason why it ended |
| badjson@N | event N is no JSON |
| inband-error, empty | status 200 and an error; no choices at all |
| wrong-model, huge, gzip, utf8-split | another model's name; 20 MiB; compressed; characters cut in two |
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import hashlib
import json
import os
import random
import re
import signal
import socket
import struct
import sys
from collections import Counter
from collections.abc import Iterator
from typing import Any

_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: closing resets
_HEAD = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n"
EVENTS = 6
"""Events of a whole `ok` reply: four of text, the end with its reason and counts, `[DONE]`."""


def answer_to(prompt: str) -> str:
    """What every expert of this server says to a prompt.

    >>> answer_to("2 + 2?")
    'answer 70b499c547e0a11f'
    """
    return "answer " + hashlib.sha256(prompt.encode("utf-8", "surrogatepass")).hexdigest()[:16]


class FaultServer:
    """Serves one ledger, a file open for appending."""

    def __init__(self, ledger: int) -> None:
        self._ledger = ledger
        self._attempts: Counter[str] = Counter()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, until it is closed by either side."""
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while not writer.is_closing():
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                found = re.search(r"(?im)^content-length: *(\d+)", head)
                body = await reader.readexactly(int(found[1])) if found else b""
                if head.startswith("GET"):
                    await _plain(writer, 200, {"object": "list", "data": [{"id": "ok", "object": "model"}]})
                    continue
                await self._call(json.loads(body), reader, writer)
        writer.close()

    async def _call(self, body: dict[str, Any], reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        model, prompt = str(body["model"]), _prompt(body)
        name = hashlib.sha256(prompt.encode("utf-8", "surrogatepass")).hexdigest()[:16]
        self._tell("begun", model, name)
        answering = asyncio.ensure_future(self._answer(model, prompt, writer))
        leaving = asyncio.ensure_future(reader.read(1))  # nobody asks again before the reply is whole
        await asyncio.wait({answering, leaving}, return_when=asyncio.FIRST_COMPLETED)
        whole = answering.done() and answering.exception() is None
        self._tell("sent" if whole else "left", model, name)
        for task in (answering, leaving):
            task.cancel()
        await asyncio.gather(answering, leaving, return_exceptions=True)
        if not whole:
            writer.close()

    def _tell(self, what: str, model: str, name: str) -> None:
        os.write(self._ledger, f"{what} {model} {name}\n".encode())

    async def _answer(self, model: str, prompt: str, writer: asyncio.StreamWriter) -> None:
        fault, at, seconds = _parsed(model)
        if fault == "slow":
            await asyncio.sleep(seconds)
        if fault == "status":
            return await _plain(writer, int(seconds), {"error": {"message": "as you wished"}})
        if fault == "flaky":
            self._attempts[prompt] += 1
            if random.Random(f"{prompt} {self._attempts[prompt]}").random() < seconds:
                return await _plain(writer, 503, {"error": {"message": "flaky"}})
        if fault == "hang" and at is None:
            await asyncio.Event().wait()
        if fault == "inband-error":
            return await _plain(writer, 200, {"error": {"message": "something broke"}}, "text/event-stream")
        text = prompt if fault == "echo" else "x" * (20 * 2**20) if fault == "huge" else answer_to(prompt)
        writer.write((_HEAD + ("content-encoding: gzip\r\n" if fault == "gzip" else "") + "\r\n").encode())
        for number, event in enumerate(_events(fault, "another" if fault == "wrong-model" else model, text)):
            if fault == "drip":
                await asyncio.sleep(seconds)
            if number == at and fault == "hang":
                await asyncio.Event().wait()
            if number == at and fault == "rst":
                raw: socket.socket = writer.get_extra_info("socket")
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                writer.transport.abort()
                return None
            if number == at and fault == "eof":
                break
            data = b"data: {]\n\n" if number == at and fault == "badjson" else event
            data = gzip.compress(data) if fault == "gzip" else data
            for part in [data[i : i + 1] for i in range(len(data))] if fault == "utf8-split" else [data]:
                writer.write(b"%x\r\n%s\r\n" % (len(part), part))
            await writer.drain()
        writer.write(b"0\r\n\r\n")
        return await writer.drain()


def _prompt(body: dict[str, Any]) -> str:
    """The last thing that was said."""
    return str(body["prompt"] if "prompt" in body else body["messages"][-1]["content"])


def _parsed(model: str) -> tuple[str, int | None, float]:
    """The fault, the event it comes at, and its number."""
    fault, _, at = model.partition("@")
    fault, _, number = fault.partition(":")
    return fault, int(at) if at else None, float(number or 0)


def _events(fault: str, model: str, text: str) -> Iterator[bytes]:
    step = max(1, -(-len(text) // 4))
    for start in range(0, len(text), step):
        choice = {"index": 0, "delta": {"content": text[start : start + step]}, "finish_reason": None}
        yield _event({"model": model, "choices": [] if fault == "empty" else [choice]})
    usage = {"prompt_tokens": 7, "completion_tokens": 7}
    end = {"index": 0, "delta": {}, "finish_reason": None if fault == "done-nofinish" else "stop"}
    yield _event({"model": model, "choices": [] if fault == "empty" else [end], "usage": usage})
    yield b"data: [DONE]\n\n"


def _event(value: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(value)}\n\n".encode()


async def _plain(
    writer: asyncio.StreamWriter, status: int, value: dict[str, Any], kind: str = "application/json"
) -> None:
    body = _event(value) if "stream" in kind else json.dumps(value).encode()
    writer.write(f"HTTP/1.1 {status} as wished\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\n\r\n".encode())
    writer.write(body)
    await writer.drain()


async def main(ledger: str) -> None:
    """Serve until stdin ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    server = await asyncio.start_server(
        FaultServer(os.open(ledger, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)).serve, "127.0.0.1", 0
    )
    os.write(1, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}\n".encode())
    await asyncio.to_thread(sys.stdin.read)
    os._exit(0)  # without waiting for calls that hang, as they should


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
