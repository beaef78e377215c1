"""What the server costs: 64 callers over six experts of the packaged base, and our work per request beside a bare app.

Run it alone on the machine: `python -m evals.bench.serve [--json FILE]`. The first part drives a real `coe serve` over
loopback, a store of its own, every question once: requests per second, latencies, loads. The second replaces the engine
by a script that answers at once, so that what is left is ours: CPU milliseconds of the server process and wall time per
request, alone and with 64 callers, beside an app of Starlette that reads a body and sends one back. Linux only (/proc).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from composer.config import packaged_registry

CALLERS = 64
EACH = 2  # requests per caller in the real part
ALONE, MANY = 100, 640  # requests of the second part, one at a time and with 64 callers
TERSE = "  terse: {model: smollm2, description: answers in a word, system: Answer in one word., sampling: {max_tokens: 16}}\n"
QUESTIONS: dict[str, Callable[[int], str]] = {
    "general": lambda i: f"Name something that begins with the letter {chr(97 + i % 26)} and is number {i}.",
    "arithmetic": lambda i: f"What is {i + 13} + {2 * i + 7}?",
    "sorting": lambda i: f"Sort these words alphabetically: pear{i}, apple, melon, fig",
    "extraction": lambda i: f'Extract name and city as JSON: "Nora{i} lives in Bergen."',
    "units": lambda i: f"Convert {i + 2} hours to minutes.",
    "terse": lambda i: f"What is the opposite of {i} times cold?",
}
Row = dict[str, float]


def registry(folder: Path) -> Path:
    """The packaged registry with a sixth expert, as a file of its own."""
    text = packaged_registry().read_text(encoding="utf-8").replace("experts:\n", f"experts:\n{TERSE}", 1)
    path = folder / "experts.yaml"
    path.write_text(text, encoding="utf-8")
    return path


@contextmanager
def child(folder: Path, *words: str) -> Iterator[tuple[str, int, list[str]]]:
    """A server in a process of its own: its base URL, its process id, and (filled at its end) what it said last."""
    env = {**os.environ, "COE_STORE": str(folder / "drafts.sqlite"), "OMP_NUM_THREADS": "1"}
    said: list[str] = []
    with subprocess.Popen([sys.executable, *words], cwd=folder, env=env, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        found = next((hit[1] for line in process.stderr if (hit := re.search(r"serving (http://[^/\s]+)", line))), None)
        if found is None:
            raise SystemExit(f"the server ended with {process.wait()}")
        try:
            yield found, process.pid, said
        finally:
            process.send_signal(signal.SIGTERM)
            said += process.stderr.read().splitlines()


def cpu_seconds(pid: int) -> float:
    """CPU seconds of a process, all its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def drive(url: str, bodies: Sequence[dict[str, Any]], callers: int) -> tuple[list[float], float]:
    """Send all bodies, `callers` at a time, each one after the other: the seconds of each request, and of all."""
    waiting = iter(bodies)
    times: list[float] = []

    async def caller(client: httpx.AsyncClient) -> None:
        for body in waiting:
            began = time.perf_counter()
            told = await client.post("/v1/chat/completions", json=body)
            told.raise_for_status()
            times.append(time.perf_counter() - began)

    limits = httpx.Limits(max_connections=callers, max_keepalive_connections=callers)
    async with httpx.AsyncClient(base_url=url, timeout=600, limits=limits, trust_env=False) as client:
        await client.get("/v1/models")
        began = time.perf_counter()
        await asyncio.gather(*(caller(client) for _ in range(callers)))
        return times, time.perf_counter() - began


def body(model: str, text: str) -> dict[str, Any]:
    """A request for a short answer."""
    return {"model": model, "messages": [{"role": "user", "content": text}], "max_tokens": 16}


def real(folder: Path) -> Row:
    """64 callers, six experts, real models."""
    names = list(QUESTIONS)
    bodies = [body(name := names[i % len(names)], QUESTIONS[name](i)) for i in range(CALLERS * EACH)]
    with child(folder, "-m", "evals.bench.serve", "--child", "real") as (url, pid, said):
        httpx.post(f"{url}/v1/chat/completions", json=body("general", "Hello"), timeout=600).raise_for_status()
        before = cpu_seconds(pid)
        times, seconds = asyncio.run(drive(url, bodies, CALLERS))
        ours = cpu_seconds(pid) - before
    loads = next(int(hit[1]) for line in said if (hit := re.search(r"(\d+) loads", line)))
    return {
        "requests": len(bodies),
        "per_second": len(bodies) / seconds,
        "p50": statistics.median(times),
        "p95": statistics.quantiles(times, n=20)[-1],
        "loads": loads,
        "server_cpu_ms": 1000 * ours / len(bodies),
    }


def scripted(folder: Path, kind: str, model: str) -> Row:
    """Our work per request: wall and CPU milliseconds alone, and with 64 callers."""
    with child(folder, "-m", "evals.bench.serve", "--child", kind) as (url, pid, _):
        asyncio.run(drive(url, [body(model, f"warm {i}") for i in range(20)], 4))
        found: Row = {}
        for label, n, callers in (("alone", ALONE, 1), ("many", MANY, CALLERS)):
            bodies = [body(model, f"What is {i} + {n}, {label}?") for i in range(n)]
            before = cpu_seconds(pid)
            times, seconds = asyncio.run(drive(url, bodies, callers))
            found |= {
                f"{label}_ms": 1000 * statistics.median(times),
                f"{label}_cpu_ms": 1000 * (cpu_seconds(pid) - before) / n,
                f"{label}_per_second": n / seconds,
            }
    return found


def serve_child(kind: str) -> None:
    """What `child` starts: the real server, ours with a scripted engine, or a bare app."""
    if kind == "echo":
        _serve_echo()
        return
    from composer.pipeline import Pipeline
    from composer.serve.guard import Keys
    from composer.serve.server import limits_of, serve

    if kind == "scripted":
        from composer.engines.scripted import ScriptedEngine
        from composer.registry.experts import Registry
        from composer.types import Caps

        setattr(Registry, "engine", lambda *_: ScriptedEngine(lambda _: "The answer is 7.", caps=Caps(slots=CALLERS)))  # noqa: B010
    pipeline = Pipeline.from_file("experts.yaml")
    limits = limits_of(pipeline.settings)
    serve(pipeline, Keys(), host="127.0.0.1", port=0, limits=limits, say=lambda text: print(text, file=sys.stderr))


def _serve_echo() -> None:
    import uvicorn
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import JSONResponse, Response
    from starlette.routing import Route

    from composer.serve.port import bind

    async def echo(request: Request) -> Response:
        told = await request.json()
        return JSONResponse({"choices": [{"message": told["messages"][-1]}]})

    async def models(_: Request) -> Response:
        return JSONResponse({"data": []})

    app = Starlette(routes=[Route("/v1/chat/completions", echo, methods=["POST"]), Route("/v1/models", models)])
    with bind("127.0.0.1", 0) as listening:
        print(f"serving http://127.0.0.1:{listening.getsockname()[1]}", file=sys.stderr, flush=True)
        config = uvicorn.Config(
            app, http="h11", ws="none", loop="asyncio", lifespan="off", log_config=None, access_log=False
        )
        uvicorn.Server(config).run(sockets=[listening])


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print a table, optionally write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, default=None, help="write the figures here")
    parser.add_argument("--child", choices=["real", "scripted", "echo"], default=None, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.child is not None:
        serve_child(options.child)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        registry(folder)
        whole = real(folder)
        print(
            f"{CALLERS} callers, {len(QUESTIONS)} experts, {whole['requests']:.0f} requests: "
            f"{whole['per_second']:.1f} per second, latency p50 {whole['p50']:.2f} s, p95 {whole['p95']:.2f} s, "
            f"{whole['loads']:.0f} loads, {whole['server_cpu_ms']:.1f} CPU ms of the server per request"
        )
        rows = {
            "bare Starlette": scripted(folder, "echo", "any"),
            "an expert by name": scripted(folder, "scripted", "general"),
            "auto": scripted(folder, "scripted", "auto"),
        }
    print(f"\n{'scripted engine':20}{'alone ms':>10}{'CPU ms':>9}{f'{CALLERS}: ms':>10}{'CPU ms':>9}{'per s':>8}")
    for label, row in rows.items():
        print(
            f"{label:20}{row['alone_ms']:10.1f}{row['alone_cpu_ms']:9.2f}{row['many_ms']:10.1f}"
            f"{row['many_cpu_ms']:9.2f}{row['many_per_second']:8.0f}"
        )
    if options.json is not None:
        options.json.write_text(json.dumps({"real": whole, "scripted": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
