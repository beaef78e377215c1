"""What decoding with two streams costs: CPU seconds per token beside those of the strong stream alone, in one run.

`python -m evals.bench.contrast [--engines NAME …] [--sizes N …] [--rounds N] [--json FILE]`. An adapter against its base; per
size of a batch both ways take turns, so that a busy machine shifts them alike, and of `rounds` turns the least counts, after
one that warms up. CPU seconds are those of all processes of the host. Limits per engine and size are in `ENGINES`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from composer.config import load_settings, packaged_registry
from composer.decoding.recipes import contrast
from composer.engines.base import Engine
from composer.engines.vllm import VllmEngine
from composer.registry.vllm_home import find_python
from composer.types import Host, Request, Sampling, Stream
from evals.bench.contrast_equality import Place
from evals.bench.engines_vllm import Spent, spent
from evals.engines import as_folder

SIZES, TOKENS, STRONG = (1, 8, 32), 48, "units"


@dataclass(frozen=True, slots=True)
class Contender:
    """An engine to be measured: how one is made, its host for so many requests of two streams at once, and the most that
    may be paid per size of a batch."""

    make: Callable[[Place], Engine]
    host: Callable[[Place, int], Host]
    most: Mapping[int, float]


def _vllm(place: Place) -> Engine:
    return VllmEngine(python=place.python, dtype="bfloat16", in_process=True, prefix_caching=False)


ENGINES: Mapping[str, Contender] = {
    "vllm": Contender(_vllm, lambda place, n: place.host(2 * n), {1: 1.3, 8: 1.7, 32: 2.0})
}


@dataclass(frozen=True, slots=True)
class Cost:
    """CPU milliseconds per token of a batch of `size`: the strong stream alone, and both; and the most that both may take."""

    engine: str
    size: int
    alone: float
    both: float
    most: float | None

    @property
    def ratio(self) -> float:
        """How many times as much both take."""
        return self.both / self.alone


def batch(n: int, *, both: bool) -> list[Request]:
    """Texts to be gone on with; none of them ends by itself soon."""
    weights, mix = contrast(0.5, 0.1)
    found = []
    for i in range(n):
        prompt = f"Story {i}. Once there was a clock that nobody had seen, and"
        strong = Stream("smol", prompt, STRONG, weights[0] if both else 1.0)
        streams = (strong, Stream("smol", prompt, None, weights[1])) if both else (strong,)
        found.append(Request(str(i), streams, Sampling(max_tokens=TOKENS), mix=mix if both else None))
    return found


async def costs(name: str, place: Place, sizes: Sequence[int], rounds: int, say: Callable[[str], None]) -> list[Cost]:
    """One engine, all sizes."""
    contender, found = ENGINES[name], []
    engine = contender.make(place)
    await engine.open(contender.host(place, max(sizes)))
    try:
        for size in sizes:
            best: dict[bool, float] = {}
            for turn in range(rounds + 1):
                for both in (False, True):
                    one: Spent = await spent(engine, batch(size, both=both))
                    per_token = 1000 * one.cpu / one.tokens
                    say(
                        f"  {name}, {size}, turn {turn}, {'both' if both else 'alone'}: {per_token:.2f} CPU ms per token"
                    )
                    if turn:  # the first one warms up
                        best[both] = min(best.get(both, per_token), per_token)
            found.append(Cost(name, size, best[False], best[True], contender.most.get(size)))
    finally:
        await engine.close()
    return found


def report(found: Sequence[Cost]) -> bool:
    """Print it; whether all limits are kept."""
    kept = True
    for one in found:
        missed = one.most is not None and one.ratio > one.most
        kept = kept and not missed
        goal = "" if one.most is None else f"  (at most {one.most}: {'MISSED' if missed else 'kept'})"
        print(
            f"{one.engine}, batch of {one.size:3}: {one.alone:7.2f} CPU ms per token alone, {one.both:7.2f} of both, "
            f"{one.ratio:.2f} x{goal}"
        )
    return kept


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(prog="python -m evals.bench.contrast", description=__doc__)
    parser.add_argument("--engines", nargs="*", choices=list(ENGINES), default=list(ENGINES))
    parser.add_argument("--sizes", nargs="*", type=int, default=list(SIZES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the figures here")
    asked = parser.parse_args()

    def say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    python = find_python(None)
    place = Place(python, as_folder(load_settings(packaged_registry()), python))
    say(f"{os.cpu_count()} cores, load before it {', '.join(f'{value:.1f}' for value in os.getloadavg())}")
    found = [cost for name in asked.engines for cost in asyncio.run(costs(name, place, asked.sizes, asked.rounds, say))]
    if asked.json is not None:
        told = [asdict(one) | {"ratio": one.ratio} for one in found]
        asked.json.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    with suppress(BrokenPipeError):
        sys.exit(0 if report(found) else 1)


if __name__ == "__main__":
    main()
