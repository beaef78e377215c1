"""Adapters in vLLM on a CPU: computed per adapter (`composer.engines.vllm_lora`) beside vLLM's own way, in one run.

`python -m evals.bench.vllm_lora [--sizes N …] [--rounds N] [--json FILE]`. Both are our engine in process, bfloat16, the one
with `COE_VLLM_ADAPTERS=vllm`; both are open and take turns, so that a busy machine shifts them alike, and of `rounds` turns
the least counts, after one that warms up. CPU milliseconds per token, prompts included; `base` is the same batch without an
adapter, `one` has all rows with the same, `four` takes them in turn.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from composer.config import load_settings, packaged_registry
from composer.engines.vllm import VllmEngine
from composer.registry.vllm_home import find_python
from composer.types import Request, Sampling, Stream
from evals.bench.contrast_cases import ADAPTERS
from evals.bench.contrast_equality import Place
from evals.bench.engines_vllm import spent
from evals.engines import as_folder

SIZES, TOKENS = (1, 8, 32), 48
MIXES: Mapping[str, Sequence[str | None]] = {"base": (None,), "one": ("arithmetic",), "four": ADAPTERS}
WAYS = {"ours": "", "vLLM's": "COE_VLLM_ADAPTERS=vllm"}


@dataclass(frozen=True, slots=True)
class Cost:
    """CPU milliseconds per token of a batch of `size` with a mix of adapters."""

    mix: str
    size: int
    ours: float
    own: float

    @property
    def ratio(self) -> float:
        """How many times as much vLLM's own way takes."""
        return self.own / self.ours


def batch(size: int, adapters: Sequence[str | None]) -> list[Request]:
    """Texts that go on: an adapter of a short answer ends another text soon."""
    return [
        Request(
            str(i),
            (Stream("smol", f"List {i}:" + " red, blue," * 5, adapters[i % len(adapters)]),),
            Sampling(max_tokens=TOKENS),
        )
        for i in range(size)
    ]


async def measure(place: Place, sizes: Sequence[int], rounds: int, say: Callable[[str], None]) -> list[Cost]:
    """All mixes and sizes, both ways in turn."""
    found = []
    async with AsyncExitStack() as stack:
        engines = {}
        for way, environment in WAYS.items():
            engine = engines[way] = VllmEngine(
                python=place.python, dtype="bfloat16", in_process=True, prefix_caching=False, environment=environment
            )
            await engine.open(place.host(max(sizes)))
            stack.push_async_callback(engine.close)
        for mix, adapters in MIXES.items():
            for size in sizes:
                best: dict[str, float] = {}
                for turn in range(rounds + 1):
                    for way, engine in engines.items():
                        one = await spent(engine, batch(size, adapters))
                        cost = 1000 * one.cpu / one.tokens
                        say(f"  {mix}, {size}, turn {turn}, {way}: {cost:.2f} CPU ms per token, {one.tokens} tokens")
                        if turn:  # the first one warms up
                            best[way] = min(best.get(way, cost), cost)
                found.append(Cost(mix, size, *best.values()))
    return found


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(prog="python -m evals.bench.vllm_lora", description=__doc__)
    parser.add_argument("--sizes", nargs="*", type=int, default=list(SIZES))
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write the figures here")
    asked = parser.parse_args()

    def say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    python = find_python(None)
    place = Place(python, as_folder(load_settings(packaged_registry()), python))
    say(f"{os.cpu_count()} cores, load before it {', '.join(f'{value:.1f}' for value in os.getloadavg())}")
    found = asyncio.run(measure(place, asked.sizes, asked.rounds, say))
    if asked.json is not None:
        told = [asdict(one) | {"ratio": one.ratio} for one in found]
        asked.json.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    with suppress(BrokenPipeError):
        for one in found:
            print(
                f"{one.mix:>4}, batch of {one.size:3}: {one.ours:7.2f} CPU ms per token, "
                f"vLLM's own way {one.own:7.2f}, {one.ratio:.2f} x"
            )


if __name__ == "__main__":
    main()
