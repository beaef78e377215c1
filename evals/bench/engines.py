"""What asking a server costs: our strict client beside bare pooled httpx, the openai client and LiteLLM, in one run.

`python -m evals.bench.engines [--rounds N] [--json FILE]`; then vLLM through us beside vLLM by hand, and six adapters at
once beside one after the other (`engines_vllm.py`), where vLLM is installed. For the first part, a loopback server in a process of its own answers at once, with
one piece of text or sixteen; the figure is CPU milliseconds of this process per request, the best of several turns taken in
turn, so that a busy machine shifts all alike. Compare ratios, not milliseconds. Our client always streams and checks; the
others are measured as they are used: one whole reply, and a stream. Limits: at most 1.2 times httpx, a quarter of LiteLLM.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import subprocess
import sys
import time
import warnings
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from composer.engines.openai import OpenAIEngine
from composer.types import Draft, Host, Message, Request, Sampling, Stream
from evals.bench.engines_vllm import as_json, report
from evals.bench.engines_vllm import measure as engines_vllm

MOST, UNDER = 1.2, 4.0
SIZES = {"one": 1, "sixteen": 16}
Work = Callable[[], Awaitable[None]]


class _Server(asyncio.Protocol):
    """Answers whatever is asked, before anything else happens."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport, self._heard = transport, b""

    def data_received(self, data: bytes) -> None:
        self._heard += data
        while (end := self._heard.find(b"\r\n\r\n")) >= 0:
            found = re.search(rb"(?i)content-length: *(\d+)", self._heard[:end])
            size = end + 4 + (int(found[1]) if found else 0)
            if len(self._heard) < size:
                return
            head, body, self._heard = self._heard[:end], self._heard[end + 4 : size], self._heard[size:]
            self._transport.write(_answer(head, json.loads(body or b"{}")))


def _answer(head: bytes, asked: dict[str, Any]) -> bytes:
    if head.startswith(b"GET"):
        return _framed({"data": [{"id": "m", "object": "model", "owned_by": "somebody"}]})
    n = SIZES[asked["messages"][-1]["content"]]
    base = {"id": "c", "object": "chat.completion", "created": 1, "model": "m"}
    usage = {"prompt_tokens": 5, "completion_tokens": n, "total_tokens": 5 + n}
    if not asked.get("stream"):
        message = {"role": "assistant", "content": "word " * n}
        return _framed(base | {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}], "usage": usage})
    base["object"] = "chat.completion.chunk"
    pieces: list[dict[str, Any]] = [{"delta": {"content": "word "}, "finish_reason": None}] * n
    chunks = [
        base | {"choices": [{"index": 0, **piece}]} for piece in [*pieces, {"delta": {}, "finish_reason": "stop"}]
    ]
    told = [*map(json.dumps, [*chunks, base | {"choices": [], "usage": usage}]), "[DONE]"]
    events = b"".join(b"%x\r\ndata: %s\n\n\r\n" % (len(event) + 8, event.encode()) for event in told)
    return (
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        + events
        + b"0\r\n\r\n"
    )


def _framed(value: dict[str, Any]) -> bytes:
    body = json.dumps(value).encode()
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)


async def _serve() -> None:
    server = await asyncio.get_running_loop().create_server(_Server, "127.0.0.1", 0)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    os._exit(0)


@contextmanager
def _served() -> Iterator[str]:
    words = [sys.executable, "-m", "evals.bench.engines", "--serve"]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        yield process.stdout.readline().strip()
        process.stdin.close()


def _httpx(url: str, size: str, *, stream: bool) -> Work:
    client = httpx.AsyncClient(base_url=url, trust_env=False)
    body = _body(size)

    async def whole() -> None:
        told = await client.post("/v1/chat/completions", json=body)
        assert told.json()["choices"]

    async def streamed() -> None:
        async with client.stream("POST", "/v1/chat/completions", json=body | {"stream": True}) as told:
            async for line in told.aiter_lines():
                if line.startswith("data:") and not line.endswith("[DONE]"):
                    json.loads(line[5:])

    return streamed if stream else whole


def _body(size: str) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": size}], "max_tokens": 32, "temperature": 0.0}


async def _ours(url: str, size: str) -> Work:
    engine = OpenAIEngine(url=url, model="m")
    await engine.open(Host("far", "openai"))
    request = Request("a", (Stream("far", (Message("user", size),)),), Sampling(max_tokens=32))

    async def work() -> None:
        async for _, piece in engine.generate([request]):
            assert isinstance(piece, Draft) and piece.ok, piece

    return work


def _openai(url: str, size: str, *, stream: bool) -> Work:
    import openai

    client = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
    body = _body(size)

    async def whole() -> None:
        await client.chat.completions.create(**body)

    async def streamed() -> None:
        async for _ in await client.chat.completions.create(**body, stream=True):
            pass

    return streamed if stream else whole


def _litellm(url: str, size: str, *, stream: bool) -> Work:
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    import litellm

    litellm.suppress_debug_info = True
    body = _body(size) | {"model": "openai/m", "api_base": f"{url}/v1", "api_key": "none", "max_retries": 0}

    async def whole() -> None:
        await litellm.acompletion(**body)

    async def streamed() -> None:
        async for _ in await litellm.acompletion(**body, stream=True):
            pass

    return streamed if stream else whole


async def _measure(works: dict[str, Work], rounds: int, each: int) -> dict[str, float]:
    """CPU milliseconds per request, the best of `rounds` turns."""
    best = dict.fromkeys(works, float("inf"))
    for turn in range(rounds + 1):
        for name, work in works.items():
            began = time.process_time()
            for _ in range(each):
                await work()
            if turn:  # the first one warms up
                best[name] = min(best[name], 1000 * (time.process_time() - began) / each)
    return best


async def measure(url: str, rounds: int, each: int) -> dict[str, dict[str, float]]:
    """Per size of the answer, what each client costs, and how that compares."""
    found = {}
    for size in SIZES:
        best = await _measure(
            {
                "ours": await _ours(url, size),
                "httpx": _httpx(url, size, stream=False),
                "httpx, streamed": _httpx(url, size, stream=True),
                "openai": _openai(url, size, stream=False),
                "openai, streamed": _openai(url, size, stream=True),
                "litellm": _litellm(url, size, stream=False),
                "litellm, streamed": _litellm(url, size, stream=True),
            },
            rounds,
            each,
        )
        ours = best["ours"]
        found[size] = best | {
            "ours / httpx": ours / best["httpx"],
            "ours / httpx, streamed": ours / best["httpx, streamed"],
            "openai / ours": best["openai"] / ours,
            "litellm / ours": best["litellm"] / ours,
            "litellm, streamed / ours": best["litellm, streamed"] / ours,
        }
    return found


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(prog="python -m evals.bench.engines", description=__doc__)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--each", type=int, default=60, help="requests per turn")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--no-vllm", action="store_true", help="leave out vLLM, which takes minutes")
    options = parser.parse_args()
    if options.serve:
        return asyncio.run(_serve())
    warnings.simplefilter("ignore")
    with _served() as url:
        found = asyncio.run(measure(url, options.rounds, options.each))
    for size, row in found.items():
        print(f"{SIZES[size]} piece(s) of text")
        for name, figure in row.items():
            print(f"  {name:26} {figure:7.2f}{'' if '/' in name else ' CPU ms'}")
    one, sixteen = found["one"], found["sixteen"]
    kept = one["ours / httpx"] <= MOST and sixteen["ours / httpx, streamed"] <= MOST
    kept = kept and min(one["litellm / ours"], sixteen["litellm, streamed / ours"]) >= UNDER
    print(
        f"goals ({MOST} x httpx for the same kind of reply, {UNDER:.0f} x under LiteLLM): {'kept' if kept else 'MISSED'}"
    )
    vllm = (
        None if options.no_vllm else engines_vllm(options.rounds, lambda text: print(text, file=sys.stderr, flush=True))
    )
    if vllm is not None:
        report(vllm)
    if options.json:
        options.json.write_text(json.dumps(found | (as_json(vllm) if vllm else {}), indent=2) + "\n")
    return None


if __name__ == "__main__":
    main()
