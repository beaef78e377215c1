"""What the engines are asked by `evals.bench.contrast_equality`, and the reference: `contrast_naive.py`, run by the
interpreter that has torch, transformers and peft."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import composer
from composer.config import PACKAGED
from composer.decoding.recipes import contrast, contrastive
from composer.types import Request, Sampling, Stream

CASES, TOKENS = 20, 64
ADAPTERS = ("arithmetic", "units", "sorting", "extraction")
END = -2  # stands for every token that ends a text: engines tell it, or leave it out
_NAIVE = Path(__file__).with_name("contrast_naive.py")
_THINGS = ("river", "clock", "garden", "letter", "train")


@dataclass(frozen=True, slots=True)
class Reference:
    """The tokens of a request, END where its text ends; how far the second choice of each was behind (drawn: 0 where that
    token was not the best)."""

    ids: tuple[int, ...]
    gaps: tuple[float, ...]

    def first(self, tokens: int) -> Reference:
        """What it is of a request for fewer tokens."""
        return Reference(self.ids[:tokens], self.gaps[:tokens])


def requests(n: int = CASES, tokens: int = TOKENS) -> list[Request]:
    """Contrasts, greedy: adapter against base, adapter against adapter, base against adapter, and with against without
    evidence, in turn."""
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


def plain(asked: Sequence[Request]) -> list[Request]:
    """The first stream of each alone."""
    return [
        replace(one, id=f"{one.id}, plain", streams=(replace(one.streams[0], weight=1.0),), mix=None) for one in asked
    ]


def drawn(asked: Sequence[Request]) -> list[Request]:
    """The same at temperature 0.8, each with a seed of its own."""
    return [
        replace(one, id=f"{one.id}, drawn", sampling=replace(one.sampling, temperature=0.8, seed=7 + i))
        for i, one in enumerate(asked)
    ]


def naive(python: str, folder: Path, asked: Sequence[Request]) -> tuple[list[Reference], frozenset[int]]:
    """The reference of each request, and the ids of the tokens that end a text. Raises RuntimeError where it fails."""
    config = {
        "model": str(folder),
        "adapters": {name: str(PACKAGED / "adapters" / name) for name in ADAPTERS},
        "package": str(Path(composer.__file__).parent),
    }
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        [python, str(_NAIVE)],
        input="".join(json.dumps(line) + "\n" for line in (config, *map(_case, asked))),
        env=environment | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"the reference ended: {done.stderr[-2000:]}")
    first, *told = map(json.loads, done.stdout.splitlines())
    ends = frozenset(first["ends"])
    return [Reference(ended(one["ids"], ends), tuple(one["gaps"])) for one in told], ends


def ended(ids: Sequence[int], ends: Collection[int]) -> tuple[int, ...]:
    """The tokens, with END for one that ends the text."""
    return (*ids[:-1], END) if ids and ids[-1] in ends else tuple(ids)


def _case(request: Request) -> dict[str, object]:
    mix, sampling = request.mix, request.sampling
    return {
        "streams": [{"prompt": s.prompt, "adapter": s.adapter, "weight": s.weight} for s in request.streams],
        "alpha": mix.alpha if mix else 0.0,
        "logprob": mix is not None and mix.space == "logprob",
        "tokens": sampling.max_tokens,
        "temperature": sampling.temperature,
        "seed": sampling.seed,
    }
