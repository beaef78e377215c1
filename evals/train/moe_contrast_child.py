"""Decodes for `evals.train.moe_contrast`; run by an interpreter with torch and transformers, with `composer`'s folder alone.

Its argument is a JSON file, the job. Prints a line of JSON per way, or per batch size where costs are asked.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, MixtralConfig, MixtralForCausalLM

from composer.decoding.moe import Moe, check
from composer.decoding.policies import KOverride, Policy, TopP
from composer.decoding.scmoe import Decoded, plain, scmoe
from composer.types import Sampling

_LONGEST = 16  # tokens of an answer
_TOGETHER = 100  # prompts in a batch
_ROUNDS = 5
_TIMED = 24  # tokens of a text


def decoded(moe: Moe, way: dict[str, Any], prompts: Sequence[Sequence[int]], end: int) -> Decoded:
    """What a way writes after the prompts."""
    policy: Policy = ()
    if way["k"] is not None:
        policy = (KOverride(way["k"]),)
    if way["top_p"] is not None:
        policy = (TopP(way["top_p"], weights=way["weights"]),)
    sampling = Sampling(_LONGEST)
    if way["rank"] is None:
        return plain(moe, prompts, sampling, end={end}, policy=policy)
    return scmoe(
        moe, prompts, sampling, end={end}, beta=way["beta"], alpha=way["alpha"], weak_rank0=way["rank"],
        weak_weight=way["weight"], strong=policy,
    )  # fmt: skip


def tried(moe: Moe, way: dict[str, Any], asked: Sequence[Sequence[Sequence[int]]], end: int) -> dict[str, Any]:
    """A way on all problems, each (prompt, target): which are right, and passes and activations per token written."""
    right: list[bool] = []
    passes, tokens, activations = 0, 0, 0.0
    for at in range(0, len(asked), _TOGETHER):
        part = asked[at : at + _TOGETHER]
        found = decoded(moe, way, [prompt for prompt, _ in part], end)
        right += [list(one.tokens) == [*target, end] for one, (_, target) in zip(found.written, part, strict=True)]
        passes += found.passes
        tokens += (own := sum(len(one.tokens) for one in found.written))
        activations += own * sum(found.activations.values())
    return {"right": right, "passes": passes / tokens, "activations": activations / tokens}


def bare(moe: Moe, prompts: Sequence[Sequence[int]]) -> None:
    """Greedy decoding of the strong request alone, without a hook: what costs are compared with."""
    told, cache = torch.tensor(prompts), None
    mask = torch.ones_like(told)
    with torch.inference_mode():
        for _ in range(_TIMED):
            passed = moe.model(
                input_ids=told, attention_mask=mask, past_key_values=cache, use_cache=True, logits_to_keep=1
            )
            cache, told = passed.past_key_values, passed.logits[:, -1].argmax(-1, keepdim=True)
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], -1)


def cost(moe: Moe, batch: int, vocabulary: int, rounds: int = _ROUNDS) -> dict[str, Any]:
    """CPU seconds per token: the median of rounds in which every way has its turn."""
    prompts = torch.randint(2, vocabulary, (batch, 12), generator=torch.Generator().manual_seed(0)).tolist()
    sampling = Sampling(_TIMED)
    ways: dict[str, Callable[[], Any]] = {
        "greedy": lambda: bare(moe, prompts),
        "hooks that change nothing": lambda: plain(moe, prompts, sampling),
        "SCMoE": lambda: scmoe(moe, prompts, sampling),
        "random weak expert": lambda: scmoe(moe, prompts, sampling, weak_rank0="random"),
    }
    spent: dict[str, list[float]] = {name: [] for name in ways}
    for way in ways.values():
        way()  # what is only made once
    for _ in range(rounds):
        for name, way in ways.items():
            began = time.process_time()
            way()
            spent[name].append((time.process_time() - began) / (_TIMED * batch))
    return {"batch": batch, **{name: statistics.median(one) for name, one in spent.items()}}


def main(file: str) -> None:
    """Do the job."""
    job = json.loads(Path(file).read_text(encoding="utf-8"))
    Path(file).unlink()
    torch.set_num_threads(1)
    if job.get("random"):
        torch.manual_seed(0)
        moe = check(MixtralForCausalLM(MixtralConfig(**job["random"])).eval())
    else:
        moe = check(AutoModelForCausalLM.from_pretrained(job["folder"], dtype=torch.float32).eval())
    if "cost" in job:
        for batch in job["cost"]:
            told = cost(moe, batch, int(moe.model.config.vocab_size), job.get("rounds", _ROUNDS))
            print(json.dumps(told), flush=True)
        return
    tokens = json.loads((Path(job["folder"]) / "characters.json").read_text(encoding="utf-8"))["tokens"]
    asked = [[[tokens.index(letter) for letter in text] for text in one] for one in job["problems"]]
    for way in job["ways"]:
        print(json.dumps(tried(moe, way, asked, tokens.index("<end>"))), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
