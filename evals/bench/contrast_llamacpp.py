"""What contrasting through llama.cpp loses and costs, with the packaged model and its adapters.

`python -m evals.bench.contrast_llamacpp [--prompts N] [--steps N] [--rounds N] [--pair NAME]`. What it costs: CPU
milliseconds (server and this process) per token, contrasted and by the strong stream alone, taken in turn; compare ratios. What
is lost: each step of 20 drafts is decided again from the 4,096 likeliest tokens of both streams, and from the whole vocabulary
where a plausible one is not among the weak stream's; counted is how often that chooses another token, how often a plausible
token is not among the N likeliest of the weak stream, and how often the choice would be another if it counted as the least of
those instead of being asked for.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from composer.config import PACKAGED, load_settings, packaged_registry
from composer.decoding.combine import combine, plausible
from composer.decoding.recipes import contrast
from composer.engines.llamacpp import LlamaCppEngine
from composer.engines.llamacpp_contrast import Source
from composer.registry.experts import Registry
from composer.types import AdapterFile, Draft, Host, Message, Prompt, Request, Sampling, Stream

MODEL, SLOTS, CONTEXT = "smollm2", 16, 512
NARROW = (10, 64, 256, 2048)
WIDE, WHOLE, VOCABULARY = 4096, 10**6, 49_152
WEIGHTS, MIX = contrast()
SUBJECTS = (
    "rain", "bread", "the moon", "a market", "winter", "trains", "honey", "glass", "rivers", "chess",
    "paper", "salt", "bridges", "tea", "horses", "clocks", "maps", "islands", "music", "snow",
)  # fmt: skip
EVIDENCE = "It is known since the year 1873, and above all in the north, where people make a feast of it."
# Who is strong, who is weak, and whether only the strong one has evidence.
PAIRS: Mapping[str, tuple[str | None, str | None, bool]] = {
    "base against adapter": (None, "arithmetic", False),
    "adapter against base": ("extraction", None, False),
    "adapter against adapter": ("extraction", "units", False),
    "with against without evidence": (None, None, True),
}


@dataclass
class Lost:
    """Counts over steps: `sure`, one token was plausible; `other`, another one was written than is chosen now, whose score
    is at most `margin` above it; `wide`, the whole vocabulary was asked for; per width `missing`, a plausible token was not
    among the weak stream's likeliest, and `bounded`, the choice would be another if it counted as the least of those."""

    steps: int = 0
    sure: int = 0
    other: int = 0
    wide: int = 0
    margin: float = 0.0
    missing: Counter[int] = field(default_factory=Counter)
    bounded: Counter[int] = field(default_factory=Counter)


def streams(pair: str, subject: str) -> tuple[Stream, Stream]:
    """Strong and weak."""
    strong, weak, evidence = PAIRS[pair]
    asked = f"Write three sentences about {subject}."
    told: Prompt = (Message("user", f"{EVIDENCE} {asked}" if evidence else asked),)
    plain: Prompt = (Message("user", asked),)
    return Stream(MODEL, told, strong, WEIGHTS[0]), Stream(MODEL, plain, weak, WEIGHTS[1])


def packaged() -> Host:
    """The packaged model with all adapters that these pairs need."""
    registry = Registry(load_settings(packaged_registry()))
    host = registry.host(MODEL, ())
    names = sorted({name for pair in PAIRS.values() for name in pair[:2] if name is not None})
    files = tuple(AdapterFile(name, next((PACKAGED / "adapters" / name).glob("*.gguf")), "") for name in names)
    return Host(MODEL, "llamacpp", host.path, files, CONTEXT, SLOTS, template=host.template)


async def written(engine: LlamaCppEngine, requests: Sequence[Request]) -> list[Draft]:
    """Their drafts, each asked in a call of its own, as the pool does."""

    async def one(request: Request) -> Draft:
        async for _, piece in engine.generate([request]):
            if isinstance(piece, Draft):
                assert piece.error is None, piece.error
                return piece
        raise AssertionError("no draft")

    return await asyncio.gather(*map(one, requests))


async def told(source: Source, width: int) -> NDArray[np.float64]:
    """The log-probabilities of its next token, by id; of those that are not among the likeliest -inf."""
    row = np.full(VOCABULARY, -np.inf)
    for token in await source.top(width):
        row[token.id] = token.logprob
    return row


async def lost(engine: LlamaCppEngine, pair: str, subject: str, steps: int, found: Lost) -> None:
    """Decide every step of one draft again."""
    both = streams(pair, subject)
    [draft] = await written(engine, [Request("q", both, Sampling(max_tokens=steps, logprobs=0), mix=MIX)])
    ids = [token.id for token in draft.logprobs or () if token.id is not None]
    sources = [Source(engine._processes[0], stream, slot) for slot, stream in enumerate(both)]
    for source in sources:
        await source.begin(Request("all", (Stream(MODEL, source.stream.prompt),)), time.monotonic() + 3600)
    for id in ids:
        one, two = [await told(source, WIDE) for source in sources]
        kept = np.flatnonzero(plausible(one, MIX.alpha, MIX.top_p))
        assert len(kept) < WIDE
        if (two[kept] == -np.inf).any():
            found.wide += 1
            two = await told(sources[1], WHOLE)
        scores = combine([one, two], WEIGHTS, MIX)
        chosen = int(scores.argmax())
        found.steps += 1
        found.sure += len(kept) == 1
        found.other += chosen != id
        found.margin = max(found.margin, float(scores[chosen] - scores[id]))
        for width in NARROW:
            least = np.sort(two)[-width]
            if len(kept) > 1 and (two[kept] < least).any():
                found.missing[width] += 1
                bounded = combine([one, np.maximum(two, least)], WEIGHTS, MIX)
                found.bounded[width] += int(bounded.argmax()) != chosen
        for source in sources:
            source.ids.append(id)


def cpu(engine: LlamaCppEngine) -> float:
    """CPU seconds of the server and of this process so far."""
    child = engine._processes[0].child
    assert child is not None
    fields = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK") + time.process_time()


async def cost(engine: LlamaCppEngine, pair: str, n: int, rounds: int) -> tuple[float, float, float, float]:
    """CPU milliseconds per token by the strong stream alone and contrasted (medians), their ratio's median, and the
    passes per token of the contrast."""
    sampling = Sampling(max_tokens=32)
    alone: list[float] = []
    contrasted: list[float] = []
    passes: list[float] = []
    for turn in range(rounds):
        subjects = [SUBJECTS[(turn * n + i) % len(SUBJECTS)] for i in range(n)]
        pairs = [streams(pair, subject) for subject in subjects]
        plain = [
            Request(str(i), (Stream(MODEL, one.prompt, one.adapter),), sampling) for i, (one, _) in enumerate(pairs)
        ]
        mixed = [Request(str(i), both, sampling, mix=MIX) for i, both in enumerate(pairs)]
        for requests, into in ((plain, alone), (mixed, contrasted)):
            await written(
                engine,
                [Request("rinse", (Stream(MODEL, f"{turn} {i}"),), Sampling(max_tokens=1)) for i in range(SLOTS)],
            )
            before = cpu(engine)
            drafts = await written(engine, requests)
            into.append(1000 * (cpu(engine) - before) / sum(draft.usage.tokens_out for draft in drafts))
        passes.append(sum(draft.usage.passes for draft in drafts) / sum(draft.usage.tokens_out for draft in drafts))
    ratios = [two / one for one, two in zip(alone, contrasted, strict=True)]
    return statistics.median(alone), statistics.median(contrasted), statistics.median(ratios), statistics.mean(passes)


async def main(prompts: int, steps: int, rounds: int, only: str) -> None:
    """Measure and print."""
    engine = LlamaCppEngine()
    await engine.open(packaged())
    try:
        print(
            f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; alpha {MIX.alpha}, weights {WEIGHTS}", flush=True
        )
        for pair in PAIRS if rounds else ():
            if only not in pair:
                continue
            for n in (1, 8):
                one, two, ratio, passes = await cost(engine, pair, n, rounds)
                print(
                    f"{pair}, {n} at once: {one:.1f} ms alone, {two:.1f} contrasted, {ratio:.2f} times; "
                    f"{passes:.2f} passes a token",
                    flush=True,
                )
        for at, pair in enumerate(PAIRS) if prompts else ():
            if only not in pair:
                continue
            found = Lost()
            for subject in SUBJECTS[:prompts][at :: len(PAIRS)]:
                await lost(engine, pair, subject, steps, found)
            print(
                f"{pair}: {found.steps} steps, {found.sure} with one plausible token; another token than with the whole "
                f"vocabulary {found.other} (by at most {found.margin:.3f}); with a token that is not among the weak stream's likeliest "
                + ", ".join(
                    f"{found.missing[w]} of {w} ({found.bounded[w]} decided otherwise by a bound)" for w in NARROW
                ),
                flush=True,
            )
    finally:
        await engine.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=20)
    parser.add_argument("--steps", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--pair", default="", help="only pairs whose name holds this")
    options = parser.parse_args()
    asyncio.run(main(options.prompts, options.steps, options.rounds, options.pair))
