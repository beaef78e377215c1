"""vLLM through us beside vLLM by hand, and six adapters at once beside one after the other; a part of `evals.bench.engines`.

`python -m evals.bench.engines_vllm [--rounds N] [--json FILE]`. All three ways to ask vLLM are open at once and take turns,
so that a busy machine shifts all alike; of `rounds` turns the least seconds count, of wall and of CPU. CPU seconds are those of all processes.
Limit: a batch in process takes at most 1.1 times what it takes by hand.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from composer.config import PACKAGED, load_settings, packaged_registry
from composer.engines.base import Engine
from composer.engines.llamacpp import LlamaCppEngine
from composer.engines.vllm import VllmEngine
from composer.engines.vllm_keeper import MAKE_ONE
from composer.registry.experts import Registry
from composer.registry.vllm_home import find_python, vllm_version
from composer.types import AdapterFile, Draft, Host, Message, Request, Sampling, Stream
from evals.engines import as_folder
from evals.tasks.skills import SKILLS, items

MOST = 1.1
BATCH, TOKENS, SLOTS, CONTEXT = 64, 48, 32, 512
EACH = 8  # questions per adapter
ADAPTERS = ("arithmetic", "sorting", "extraction", "units", "dates", "units again")
_BY_HAND = Path(__file__).with_name("vllm_by_hand.py")
_TICK = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Spent:
    """Seconds of wall and of CPU, and tokens written."""

    wall: float
    cpu: float
    tokens: int


def prompts() -> list[str]:
    """Texts to be gone on with: none of them ends by itself soon."""
    things = ("river", "clock", "garden", "letter", "train", "mountain", "kitchen", "island")
    return [f"Story {i}. Once there was a {things[i % 8]} that nobody had seen, and" for i in range(BATCH)]


async def by_hand(python: str, folder: Path) -> tuple[subprocess.Popen[str], Callable[[], Awaitable[Spent]]]:
    """vLLM's own interface in a process of its own."""
    engine = {
        "model": str(folder),
        "dtype": "bfloat16",
        "max_model_len": CONTEXT,
        "max_num_seqs": SLOTS,
        "enforce_eager": True,
        "enable_lora": True,
        "max_loras": 5,
        "max_cpu_loras": 5,
        "max_lora_rank": 16,
        "enable_prefix_caching": False,
        "kv_cache_memory_bytes": 2**29,
        "generation_config": "vllm",
    }
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    environment |= {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": "1",
    }
    environment |= {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
    process = subprocess.Popen(
        [python, str(_BY_HAND)],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdin is not None and process.stdout is not None
    wire, back = process.stdin, process.stdout
    wire.write(json.dumps({"engine": engine, "prompts": prompts(), "tokens": TOKENS}) + "\n")

    async def turn() -> Spent:
        wire.write("\n")
        wire.flush()
        told = json.loads(await asyncio.to_thread(back.readline))
        return Spent(told["wall"], told["cpu"], told["tokens"])

    return process, turn


async def batches(python: str, folder: Path, rounds: int, say: Callable[[str], None]) -> dict[str, Spent]:
    """The same batch by hand, through us in process, and through us on a server."""
    host = Host("smol", "vllm", folder, (), CONTEXT, SLOTS)
    sampling = Sampling(max_tokens=TOKENS)
    asked = [Request(str(i), (Stream("smol", text),), sampling) for i, text in enumerate(prompts())]
    ways: dict[str, Callable[[], Awaitable[Spent]]] = {}
    async with AsyncExitStack() as stack:
        for name, inside in (("in process", True), ("server", False)):
            engine = VllmEngine(
                python=python,
                dtype="bfloat16",
                in_process=inside,
                prefix_caching=False,
                null_adapter=False,
                cache=2**29,
            )
            await engine.open(host)
            stack.push_async_callback(engine.close)
            ways[name] = lambda engine=engine: spent(engine, asked)  # type: ignore[misc]
        process, ways["by hand"] = await by_hand(python, folder)
        stack.callback(_end, process)
        best: dict[str, Spent] = {}
        for turn in range(rounds + 1):
            for name, way in ways.items():
                found = await way()
                say(f"  turn {turn}, {name}: {found.wall:.2f} s, {found.cpu:.2f} CPU s, {found.tokens} tokens")
                if turn:  # the first one warms up
                    known = best.get(name, found)
                    best[name] = Spent(min(known.wall, found.wall), min(known.cpu, found.cpu), found.tokens)
    return best


async def adapters(make: Callable[[], Engine], host: Host, *, batched: bool) -> dict[str, Spent]:
    """The six adapters' questions: in one host at once, adapter by adapter, and with a host of its own for each."""
    groups = {adapter.name: questions(adapter.name) for adapter in host.adapters}
    every = [request for group in zip(*groups.values(), strict=True) for request in group]
    found: dict[str, Spent] = {}
    engine = make()
    opening = time.monotonic()
    await engine.open(host)
    try:
        opened = Spent(time.monotonic() - opening, cpu_of(engine), 0)
        await spent(engine, every)  # warm, for both
        found["one batch" if batched else "grouped"] = await spent(engine, every)
        if batched:
            found["six batches"] = _sum([await spent(engine, group) for group in groups.values()])
    finally:
        await engine.close()
    name = "one batch" if batched else "grouped"
    found[f"{name}, opened for it"] = _sum([opened, found[name]])
    alone = []
    for adapter in host.adapters:
        engine = make()
        opening = time.monotonic()
        await engine.open(Host(host.name, host.engine, host.path, (adapter,), host.context, host.slots, host.threads))
        try:
            alone += [Spent(time.monotonic() - opening, cpu_of(engine), 0), await spent(engine, groups[adapter.name])]
        finally:
            await engine.close()
    found["opened per adapter"] = _sum(alone)
    return found


async def spent(engine: Engine, requests: Sequence[Request]) -> Spent:
    """What a batch took, in all processes."""
    wall, cpu, ours, tokens = time.monotonic(), cpu_of(engine), time.process_time(), 0
    async for _, piece in engine.generate(requests):
        assert isinstance(piece, Draft) and piece.error is None, piece
        tokens += piece.usage.tokens_out
    return Spent(time.monotonic() - wall, cpu_of(engine) - cpu + time.process_time() - ours, tokens)


def questions(name: str) -> list[Request]:
    """Held-out questions of an adapter's skill."""
    skill = name.split()[0]
    assert skill in SKILLS
    asked = [item.question for item in items(skill, "test", EACH, 1)]
    return [
        Request(f"{name} {i}", (Stream("smol", (Message("user", text),), name),), Sampling(max_tokens=TOKENS))
        for i, text in enumerate(asked)
    ]


def cpu_of(engine: Engine) -> float:
    """CPU seconds of the processes that an engine holds, so far."""
    server = getattr(engine, "_server", None) or getattr(engine, "_process", None)
    leader = server.pid if server is not None else getattr(engine, "_processes")[0].child.pid  # noqa: B009 ours, and only here
    total = 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError, ValueError, IndexError):
            values = path.read_text().rpartition(")")[2].split()
            if int(values[2]) == leader:  # its group; the next two are of it and of its children that have ended
                total += sum(map(int, values[11:15]))
    return total / _TICK


def _sum(parts: Sequence[Spent]) -> Spent:
    return Spent(sum(p.wall for p in parts), sum(p.cpu for p in parts), sum(p.tokens for p in parts))


def _end(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None and process.stdout is not None
    process.stdin.close()
    process.wait()
    process.stdout.close()


def _hosts(folder: Path, scratch: Path) -> tuple[Host, Host]:
    """The packaged model with six adapters, for vLLM and for llama.cpp; the sixth is another file with the same numbers."""
    registry = Registry(load_settings(packaged_registry()))
    [model] = registry.settings.models
    template = registry.host(model, ()).template
    peft, gguf = [], []
    for name in ADAPTERS:
        source = PACKAGED / "adapters" / name.split()[0]
        sha = hashlib.sha256(name.encode()).hexdigest()
        peft.append(AdapterFile(name, source, sha))
        file = scratch / f"{name}.gguf"
        file.write_bytes(next(source.glob("*.gguf")).read_bytes())
        gguf.append(AdapterFile(name, file, sha))
    path = registry.host(model, ()).path
    return (
        Host("smol", "vllm", folder, tuple(peft), CONTEXT, SLOTS, template=template),
        Host("smol", "llamacpp", path, tuple(gguf), CONTEXT, 8, template=template),
    )


def measure(
    rounds: int, say: Callable[[str], None], *, batch_only: bool = False
) -> Mapping[str, Mapping[str, Spent]] | None:
    """All of it; None where there is no vLLM."""
    python = find_python(None)
    if (release := vllm_version(python)) == "unknown":
        say(f"SKIPPED: {python} has no vLLM, and nothing of it was measured: {MAKE_ONE}")
        return None
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    say(f"vLLM {release}, {os.cpu_count()} cores, load before it {load}")
    folder = as_folder(load_settings(packaged_registry()), python)

    def vllm() -> Engine:
        return VllmEngine(python=python, dtype="bfloat16", in_process=True, max_loras=6)

    async def all_of_it(scratch: Path) -> dict[str, dict[str, Spent]]:
        batch = await batches(python, folder, rounds, say)
        if batch_only:
            return {"batch": batch}
        served, local = _hosts(folder, scratch)
        return {
            "batch": batch,
            "six adapters, vllm": await adapters(vllm, served, batched=True),
            "six adapters, llamacpp": await adapters(LlamaCppEngine, local, batched=False),
        }

    with tempfile.TemporaryDirectory() as scratch:
        return asyncio.run(all_of_it(Path(scratch)))


def report(found: Mapping[str, Mapping[str, Spent]]) -> bool:
    """Print it; whether the limit is kept."""
    firsts = {"batch": "by hand", "six adapters, vllm": "one batch", "six adapters, llamacpp": "grouped, opened for it"}
    for part, ways in found.items():
        first = ways[firsts[part]]
        print(f"{part}, beside {firsts[part]!r}")
        for name, one in ways.items():
            times = f"{one.wall / first.wall:5.2f} x wall {one.cpu / first.cpu:5.2f} x CPU"
            print(f"  {name:24} {one.wall:7.2f} s {one.cpu:7.2f} CPU s {one.tokens:6} tokens  {times}")
    ratio = found["batch"]["in process"].cpu / found["batch"]["by hand"].cpu
    kept = ratio <= MOST
    print(f"goal (in process at most {MOST} x by hand, CPU seconds): {ratio:.2f}, {'kept' if kept else 'MISSED'}")
    return kept


def as_json(found: Mapping[str, Mapping[str, Spent]]) -> dict[str, Any]:
    """The figures for `--json`."""
    return {
        part: {name: {"wall": one.wall, "cpu": one.cpu, "tokens": one.tokens} for name, one in ways.items()}
        for part, ways in found.items()
    }


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(prog="python -m evals.bench.engines_vllm", description=__doc__)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument(
        "--batch-only", action="store_true", help="leave out the six adapters, which take a quarter of an hour"
    )
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    found = measure(
        options.rounds, lambda text: print(text, file=sys.stderr, flush=True), batch_only=options.batch_only
    )
    if found is None:
        return
    report(found)
    if options.json:
        options.json.write_text(json.dumps(as_json(found), indent=2) + "\n")


if __name__ == "__main__":
    main()
