"""What decoding with two streams costs: CPU seconds per token beside those of the strong stream alone, in one run and one table.

`python -m evals.bench.contrast [--engines NAME …] [--sizes N …] [--rounds N] [--json FILE]`. Of `vllm` and `transformers` an
adapter against its base, of `in-model` a mixture-of-experts model against its own weak routing (`contrast_in_model.py`). Per
size of a batch both ways take turns, so that a busy machine shifts them alike; of an engine's turns the least counts. CPU
seconds are those of all processes of the host, prompts included.

The texts go on until they are as long as asked, alone and contrasted; where one ended early, which shifts the ratio, it is
said. A text has 48 tokens in vLLM (32 in a batch of 32); in transformers, where each stream is computed by itself, 48, 16 and 12 in
batches of 1, 8 and 32, with fewer turns: else they would take half an hour. The whole takes about ten minutes on two busy cores.
Limits per engine and size are in `ENGINES` and `IN_MODEL`.
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
from composer.engines.transformers import TransformersEngine
from composer.engines.vllm import VllmEngine
from composer.registry.vllm_home import find_python
from composer.types import Host, Request, Sampling, Stream
from evals.bench.contrast_equality import Place
from evals.bench.contrast_in_model import ROUNDS, in_model
from evals.bench.engines_vllm import Spent, spent
from evals.engines import as_folder

SIZES, STRONG = (1, 8, 32), "arithmetic"
IN_MODEL, MOST_IN_MODEL = "in-model", 1.35


@dataclass(frozen=True, slots=True)
class Turns:
    """How a size of a batch is measured: tokens of a text, turns that count, and whether one before them warms up."""

    tokens: int
    rounds: int
    warm: bool = True


@dataclass(frozen=True, slots=True)
class Contender:
    """An engine to be measured: how one is made, its host for so many requests of two streams at once, the most that may be
    paid per size of a batch, and how sizes are measured (of another one: as the next smaller)."""

    make: Callable[[Place], Engine]
    host: Callable[[Place, int], Host]
    most: Mapping[int, float]
    turns: Mapping[int, Turns]

    def of(self, size: int) -> Turns:
        return self.turns[max(known for known in self.turns if known <= size)]


def _vllm(place: Place) -> Engine:
    return VllmEngine(python=place.python, dtype="bfloat16", in_process=True, prefix_caching=False)


def _transformers(place: Place) -> Engine:
    return TransformersEngine(python=place.python, dtype="float32")


ENGINES: Mapping[str, Contender] = {
    "vllm": Contender(
        _vllm,
        lambda place, n: place.host(2 * n),
        {1: 1.3, 8: 1.7, 32: 2.0},
        {1: Turns(48, 3), 8: Turns(48, 3), 32: Turns(32, 2)},
    ),
    "transformers": Contender(
        _transformers,
        lambda place, n: place.host(n),
        dict.fromkeys(SIZES, 2.1),
        # Nothing of a batch is new after the first: streams are computed one by one.
        {1: Turns(48, 3), 8: Turns(16, 2, warm=False), 32: Turns(12, 1, warm=False)},
    ),
}


@dataclass(frozen=True, slots=True)
class Cost:
    """CPU milliseconds per token of a batch of `size`: the strong stream alone, and both; the most times that both may take; and,
    of the turns that counted, how many tokens were wanted and written."""

    engine: str
    size: int
    alone: float
    both: float
    most: float | None
    wanted: int
    written: int

    @property
    def ratio(self) -> float:
        """How many times as much both take."""
        return self.both / self.alone


def batch(n: int, tokens: int, *, both: bool) -> list[Request]:
    """Lists to be gone on with: neither the adapter nor both together end one."""
    weights, mix = contrast(0.5, 0.1)
    found = []
    for i in range(n):
        prompt = f"List {i}: red, blue, red, blue, red, blue, red, blue, red, blue,"
        strong = Stream("smol", prompt, STRONG, weights[0] if both else 1.0)
        streams = (strong, Stream("smol", prompt, None, weights[1])) if both else (strong,)
        found.append(Request(str(i), streams, Sampling(max_tokens=tokens), mix=mix if both else None))
    return found


async def costs(
    name: str, place: Place, sizes: Sequence[int], rounds: int | None, say: Callable[[str], None]
) -> list[Cost]:
    """One engine, all sizes."""
    contender, found = ENGINES[name], []
    engine = contender.make(place)
    await engine.open(contender.host(place, max(sizes)))
    try:
        for size in sizes:
            turns, best, written = contender.of(size), dict[bool, float](), 0
            count, warm = turns.rounds if rounds is None else rounds, turns.warm or size == min(sizes)
            for turn in range(count + warm):
                for both in (False, True):
                    one: Spent = await spent(engine, batch(size, turns.tokens, both=both))
                    per_token = 1000 * one.cpu / one.tokens
                    say(
                        f"  {name}, {size}, turn {turn}, {'both' if both else 'alone'}: {per_token:.2f} CPU ms per token, "
                        f"{one.tokens} tokens"
                    )
                    if turn >= warm:
                        best[both] = min(best.get(both, per_token), per_token)
                        written += one.tokens
            wanted = 2 * count * size * turns.tokens
            found.append(Cost(name, size, best[False], best[True], contender.most.get(size), wanted, written))
    finally:
        await engine.close()
    return found


def inside(place: Place, sizes: Sequence[int], rounds: int | None) -> list[Cost]:
    """The mixture-of-experts model, all sizes."""
    told = in_model(place.python, sizes, ROUNDS if rounds is None else rounds)
    return [Cost(IN_MODEL, one.size, one.alone, one.both, MOST_IN_MODEL, 0, 0) for one in told]


def report(found: Sequence[Cost]) -> bool:
    """Print it; whether all limits are kept."""
    kept = True
    print("engine        batch  CPU ms a token: alone    both   ratio  at most")
    for one in found:
        missed = one.most is not None and one.ratio > one.most
        kept = kept and not missed
        goal = "" if one.most is None else f"{one.most:7.2f}  {'MISSED' if missed else 'kept'}"
        early = "" if one.written == one.wanted else f"  texts ended early: {one.written} of {one.wanted} tokens"
        print(f"{one.engine:12} {one.size:6} {one.alone:22.2f} {one.both:7.2f} {one.ratio:7.2f} {goal}{early}")
    return kept


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(prog="python -m evals.bench.contrast", description=__doc__)
    parser.add_argument("--engines", nargs="*", choices=[*ENGINES, IN_MODEL], default=[*ENGINES, IN_MODEL])
    parser.add_argument("--sizes", nargs="*", type=int, default=list(SIZES))
    parser.add_argument("--rounds", type=int, help="turns of each size; else as in ENGINES")
    parser.add_argument("--json", type=Path, help="write the figures here")
    asked = parser.parse_args()

    def say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    python = find_python(None)
    place = Place(python, as_folder(load_settings(packaged_registry()), python))
    say(f"{os.cpu_count()} cores, load before it {', '.join(f'{value:.1f}' for value in os.getloadavg())}")
    found: list[Cost] = []
    for name in asked.engines:
        if name == IN_MODEL:
            found += inside(place, asked.sizes, asked.rounds)
        else:
            found += asyncio.run(costs(name, place, asked.sizes, asked.rounds, say))
    if asked.json is not None:
        told = [asdict(one) | {"ratio": one.ratio} for one in found]
        asked.json.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    with suppress(BrokenPipeError):
        sys.exit(0 if report(found) else 1)


if __name__ == "__main__":
    main()
