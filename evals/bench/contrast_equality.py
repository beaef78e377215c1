"""Do the engines decode several streams as it is defined? Their tokens beside those of a loop that is written down plainly
(`contrast_naive.py`: transformers, float32, a cache per stream, run by vLLM's interpreter).

`python -m evals.bench.contrast_equality [--engines NAME …] [--cases N] [--tokens N] [--json FILE]` prints, per engine,
`equal N of M tokens`: those before the first one that is another. Of engines that compute in float32 all have to be equal;
of others it is only told where they part, and how near the second choice was there. The cases are greedy: adapter against
base, adapter against adapter, base against adapter, and with against without evidence, in turn.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from composer.config import PACKAGED, load_settings, packaged_registry
from composer.decoding.recipes import contrast, contrastive
from composer.engines.base import Engine
from composer.engines.llamacpp import LlamaCppEngine
from composer.engines.transformers import TransformersEngine
from composer.engines.vllm import VllmEngine
from composer.registry.experts import Registry
from composer.registry.vllm_home import find_python
from composer.types import AdapterFile, Draft, Host, Request, Sampling, Stream
from evals.engines import as_folder

CASES, TOKENS, CONTEXT = 20, 64, 512
ADAPTERS = ("arithmetic", "units", "sorting", "extraction")
_NAIVE = Path(__file__).with_name("contrast_naive.py")
_THINGS = ("river", "clock", "garden", "letter", "train")


@dataclass(frozen=True, slots=True)
class Place:
    """Where things are: the interpreter that has vLLM and transformers, and the packaged model as a folder."""

    python: str
    folder: Path

    def host(self, slots: int = 8) -> Host:
        """The model with its adapters."""
        files = tuple(AdapterFile(name, PACKAGED / "adapters" / name, "0" * 64) for name in ADAPTERS)
        return Host("smol", "vllm", self.folder, files, CONTEXT, slots)


@dataclass(frozen=True, slots=True)
class Contender:
    """An engine to be compared: how one is made and its host, and whether it has to be equal."""

    make: Callable[[Place], Engine]
    host: Callable[[Place], Host]
    exact: bool


def _vllm(place: Place) -> Engine:
    return VllmEngine(python=place.python, dtype="float32", in_process=True)


def _transformers(place: Place) -> Engine:
    return TransformersEngine(python=place.python, dtype="float32")


def _llamacpp(_: Place) -> Engine:
    return LlamaCppEngine()


def _quantised(_: Place) -> Host:
    """The packaged file, of which the folder was made, with the adapters in llama.cpp's form."""
    settings = load_settings(packaged_registry())
    return Registry(settings).host(next(iter(settings.models)), ADAPTERS)


ENGINES: Mapping[str, Contender] = {
    "vllm": Contender(_vllm, Place.host, exact=True),
    "transformers": Contender(_transformers, Place.host, exact=True),
    "llamacpp": Contender(_llamacpp, _quantised, exact=False),  # it computes with the weights as they are quantised
}


@dataclass(frozen=True, slots=True)
class Equal:
    """How an engine fares: tokens equal to the reference's, all of those, and per case that parts (case, token, gap)."""

    equal: int
    of: int
    parted: tuple[tuple[int, int, float], ...]


def requests(n: int = CASES, tokens: int = TOKENS) -> list[Request]:
    """The cases."""
    found = []
    for i in range(n):
        thing, kind = _THINGS[i // 4 % 5], i % 4
        story = f"Story {i}. Once there was a {thing} that nobody had seen, and"
        weights, mix = contrast(0.5, 0.1) if i % 8 < 4 else contrastive(0.1)
        adapters = ((ADAPTERS[i // 4 % 4], None), ("units", "arithmetic"), (None, "extraction"), (None, None))[kind]
        told = f"The {thing} was blue, and it sang at night.\n\n{story}" if kind == 3 else story
        both = (
            Stream("smol", prompt, adapter, weight)
            for prompt, adapter, weight in zip((told, story), adapters, weights, strict=True)
        )
        found.append(Request(f"case {i}", tuple(both), Sampling(max_tokens=tokens, logprobs=0), mix=mix))
    return found


def naive(place: Place, asked: Sequence[Request], tokens: int = TOKENS) -> list[tuple[list[int], list[float]]]:
    """The reference: per request the tokens, and how far the second choice of each was behind."""
    config = {
        "model": str(place.folder),
        "adapters": {name: str(PACKAGED / "adapters" / name) for name in ADAPTERS},
        "tokens": tokens,
    }
    lines = [json.dumps(config)]
    for request in asked:
        assert request.mix is not None
        streams = [{"prompt": s.prompt, "adapter": s.adapter, "weight": s.weight} for s in request.streams]
        lines.append(
            json.dumps({"streams": streams, "alpha": request.mix.alpha, "logprob": request.mix.space == "logprob"})
        )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        [place.python, str(_NAIVE)],
        input="\n".join(lines) + "\n",
        env=environment | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"the reference ended: {done.stderr[-2000:]}")
    return [(told["ids"], told["gaps"]) for told in map(json.loads, done.stdout.splitlines())]


async def said(contender: Contender, place: Place, asked: Sequence[Request]) -> list[list[int]]:
    """The tokens of an engine, all cases at once. Raises RuntimeError for what it does not answer."""
    engine = contender.make(place)
    await engine.open(contender.host(place))
    found: dict[str, list[int]] = {}
    try:
        async for name, piece in engine.generate(asked):
            if not isinstance(piece, Draft):
                continue
            if piece.error is not None or piece.logprobs is None:
                raise RuntimeError(f"{name}: {piece.error}")
            found[name] = [-1 if token.id is None else token.id for token in piece.logprobs]
    finally:
        await engine.close()
    return [found[request.id] for request in asked]


def compare(reference: Sequence[tuple[list[int], list[float]]], found: Sequence[list[int]]) -> Equal:
    """How far the tokens are equal. A text that ends sooner or later parts there."""
    equal, parted = 0, []
    for case, ((ids, gaps), own) in enumerate(zip(reference, found, strict=True)):
        same = next((i for i, (one, other) in enumerate(zip(ids, own, strict=False)) if one != other), None)
        at = min(len(ids), len(own)) if same is None else same
        equal += at
        if ids != own:
            parted.append((case, at, gaps[at] if at < len(gaps) else 0.0))
    return Equal(equal, sum(len(ids) for ids, _ in reference), tuple(parted))


def measure(names: Sequence[str], cases: int, tokens: int, say: Callable[[str], None]) -> dict[str, Equal]:
    """All engines beside the one reference."""
    python = find_python(None)
    place = Place(python, as_folder(load_settings(packaged_registry()), python))
    asked = requests(cases, tokens)
    say(f"the reference: {len(asked)} cases of at most {tokens} tokens, a pass per stream and token")
    reference = naive(place, asked, tokens)
    found = {}
    for name in names:
        say(f"asking {name}")
        found[name] = compare(reference, asyncio.run(said(ENGINES[name], place, asked)))
    return found


def report(found: Mapping[str, Equal]) -> bool:
    """Print it; whether those that have to be equal are."""
    kept = True
    for name, one in found.items():
        kept = kept and not (one.parted and ENGINES[name].exact)
        wanted = "all have to be" if ENGINES[name].exact else "told, not demanded"
        print(f"{name}: equal {one.equal} of {one.of} tokens ({wanted})")
        for case, at, gap in one.parted:
            print(f"  case {case} parts at token {at}, where the second choice is {gap:.2g} behind")
    return kept


def main() -> None:
    """Parse, compare, print."""
    parser = argparse.ArgumentParser(prog="python -m evals.bench.contrast_equality", description=__doc__)
    parser.add_argument("--engines", nargs="*", choices=list(ENGINES), default=list(ENGINES))
    parser.add_argument("--cases", type=int, default=CASES)
    parser.add_argument("--tokens", type=int, default=TOKENS)
    parser.add_argument("--json", type=Path, help="write the figures here")
    asked = parser.parse_args()
    found = measure(asked.engines, asked.cases, asked.tokens, lambda line: print(line, file=sys.stderr, flush=True))
    if asked.json is not None:
        told: dict[str, Any] = {
            name: {"equal": one.equal, "of": one.of, "parted": one.parted} for name, one in found.items()
        }
        asked.json.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    with suppress(BrokenPipeError):
        sys.exit(0 if report(found) else 1)


if __name__ == "__main__":
    main()
