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
| status:N, once:N | refused with this status; only the first time that it is asked a prompt |
| wish-seconds:N, -date, -absurd, -nonsense, -past, -none | the first N attempts are refused with 429, and such a Retry-After |
| down:S | status 503 for the first S seconds after the first call |
| context:N, cuts:N | a prompt of N tokens (words, and 3) is too long: refused, or its first half dropped in silence |
| swap:N | every N calls the server starts anew with other weights |
| eof@N, rst@N | after N events the reply ends cleanly, or the connection is reset |
| done-nofinish | all text and `[DONE]`, but no reason why it ended |
| badjson@N | event N is no JSON |
| inband-error, empty | status 200 and an error; no choices at all |
| ping:S | S seconds of nothing but comments, then a reply |
| wrong-model, huge, gzip, utf8-split | another model's name; 20 MiB; compressed; characters cut in two |

Under `/as/KIND/NAME` it is a server of that kind (vllm, llamacpp, ollama, tgi, other) which lists the model NAME; without, it
has no list.
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
import time
from collections import Counter
from collections.abc import Callable, Iterator
from email.utils import formatdate
from typing import Any
from urllib.parse import unquote

_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: closing resets
_HEAD = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n"
_WISHES: dict[str, Callable[[], str | None]] = {
    "wish-seconds": lambda: "1",
    "wish-date": lambda: formatdate(time.time() + 2, usegmt=True),
    "wish-absurd": lambda: "86400",
    "wish-nonsense": lambda: "soon",
    "wish-past": lambda: "-5",
    "wish-none": lambda: None,
}
_OWNERS = {"ollama": "library", "other": "somebody"}
_REFUSED = {"error": {"message": "as you wished"}}
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
        self._first: dict[str, float] = {}
        self._calls: Counter[str] = Counter()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, until it is closed by either side."""
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while not writer.is_closing():
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                found = re.search(r"(?im)^content-length: *(\d+)", head)
                body = await reader.readexactly(int(found[1])) if found else b""
                kind, name, path = _address(head)
                told = json.loads(body or b"{}")
                if path in ("/v1/chat/completions", "/v1/completions"):
                    await self._call(told, reader, writer)
                else:
                    await _plain(writer, *self._about(kind, name, path, told))
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

    def _about(self, kind: str, name: str, path: str, told: dict[str, Any]) -> tuple[int, Any]:
        """What is said of the server itself."""
        fault, _, number = _parsed(name)
        if path == "/v1/models" and kind:
            owner = name if kind == "tgi" else _OWNERS.get(kind, kind)
            entry: dict[str, Any] = {"id": name, "object": "model", "created": int(time.time()), "owned_by": owner}
            if fault == "swap":
                entry["root"] = f"weights {self._calls[name] // int(number)}"
            if fault in ("context", "cuts") and kind == "vllm":
                entry["max_model_len"] = int(number)
            return 200, {"object": "list", "data": [entry]}
        words = told.get("content", "").split()
        tokens = ["t"] * (_tokens(told) if told and not words else len(words) + 3 * ("<s>" not in words))
        said: dict[str, dict[str, Any]] = {
            "vllm": {"/tokenize": {"count": len(tokens), "tokens": tokens}},
            "llamacpp": {
                "/props": {"default_generation_settings": {"n_ctx": int(number)}},
                "/apply-template": {"prompt": "<s> user " + _prompt(told) + " assistant"}
                if "messages" in told
                else None,
                "/tokenize": {"tokens": tokens},
            },
            "tgi": {
                "/info": {"max_total_tokens": int(number)},
                "/chat_tokenize": {"tokenize_response": tokens},
                "/tokenize": tokens,
            },
        }
        found = said.get(kind, {}).get(path)
        return (404, {"detail": "Not Found"}) if found is None else (200, found)

    def _tell(self, what: str, model: str, name: str) -> None:
        os.write(self._ledger, f"{what} {model} {name}\n".encode())

    async def _answer(self, model: str, prompt: str, writer: asyncio.StreamWriter) -> None:
        fault, at, seconds = _parsed(model)
        self._calls[model] += 1
        if fault == "swap" and self._calls[model] % seconds == 0:
            return writer.transport.abort()
        if fault == "down" and time.monotonic() < self._first.setdefault(model, time.monotonic()) + seconds:
            return await _plain(writer, 503, {"error": {"message": "loading"}})
        if fault in _WISHES or fault == "once":
            self._attempts[model + prompt] += 1
            if self._attempts[model + prompt] <= (1 if fault == "once" else seconds):
                wish = _WISHES[fault]() if fault in _WISHES else None
                return await _plain(writer, 429 if fault in _WISHES else int(seconds), _REFUSED, wish=wish)
        if fault == "context" and (n := _tokens({"prompt": prompt})) >= seconds:
            told = f"This model's maximum context length is {seconds:.0f} tokens. However, you requested {n} tokens"
            return await _plain(writer, 400, {"object": "error", "message": told, "code": 400})
        if fault == "cuts" and _tokens({"prompt": prompt}) >= seconds:
            prompt = " ".join(prompt.split()[len(prompt.split()) // 2 :])
        if fault == "slow":
            await asyncio.sleep(seconds)
        if fault == "status":
            return await _plain(writer, int(seconds), _REFUSED)
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
        if fault == "ping":
            for _ in range(int(10 * seconds)):
                writer.write(b"e\r\n: still here\n\n\r\n")
                await writer.drain()
                await asyncio.sleep(0.1)
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


def _address(head: str) -> tuple[str, str, str]:
    """The kind of server and the model it is asked as, and the path there."""
    path = head.split(" ", 2)[1]
    if not path.startswith("/as/"):
        return "", "", path
    kind, name, path = path.removeprefix("/as/").split("/", 2)
    return kind, unquote(name), "/" + path


def _tokens(body: dict[str, Any]) -> int:
    return len((body["inputs"] if "inputs" in body else _prompt(body)).split()) + 3


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
    writer: asyncio.StreamWriter, status: int, value: Any, kind: str = "application/json", wish: str | None = None
) -> None:
    body = _event(value) if "stream" in kind else json.dumps(value).encode()
    more = "" if wish is None else f"retry-after: {wish}\r\n"
    head = f"HTTP/1.1 {status} as wished\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\n{more}\r\n"
    writer.write(head.encode())
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
