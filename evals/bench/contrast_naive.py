"""Contrast as one writes it down: one pass per stream and token, each with a cache of its own, in float32. The reference of
`evals.bench.contrast_equality`, so it shares nothing with what it is compared with.

Run as a script by an interpreter that has torch, transformers and peft. One JSON line comes in: `{"model": folder, "adapters":
{name: folder}, "package": folder of `composer`}`, and `{"ends": [ids that end a text]}` goes out; then a line per case, `{"streams":
[{"prompt": text, "adapter": name or null, "weight": w}, …], "alpha": a, "logprob": whether log-probabilities are summed, else
logits, "tokens": the most, "temperature": t, "seed": n}`, and a line goes out for each: `{"ids": […], "gaps": […]}`, the tokens
that were chosen, and how far the second choice of each was behind. Above temperature 0 they are drawn by `Draws` of that
package: how is a convention, and not what is compared.
"""

from __future__ import annotations

import json
import math
import os
import sys
import types
from typing import Any


def main() -> None:
    """Open the model, then answer case by case."""
    sys.path.pop(0)  # this folder has an `engines.py`
    reply = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print is no answer
    config = json.loads(sys.stdin.readline())
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(config["model"])
    bare, adapted = (
        AutoModelForCausalLM.from_pretrained(config["model"], dtype=torch.float32).eval() for _ in range(2)
    )
    for name, folder in config["adapters"].items():
        if isinstance(adapted, PeftModel):
            adapted.load_adapter(folder, adapter_name=name)
        else:
            adapted = PeftModel.from_pretrained(adapted, folder, adapter_name=name)
    adapted.eval()
    ends = bare.generation_config.eos_token_id
    ends = set(ends if isinstance(ends, list) else [ends])
    package = types.ModuleType("composer")
    package.__path__ = [config["package"]]
    sys.modules["composer"] = (
        package  # nothing else of the folder it lies in, which has libraries of another interpreter
    )
    print(json.dumps({"ends": sorted(ends)}), file=reply, flush=True)
    with torch.inference_mode():
        for line in sys.stdin:
            ids, gaps = decode(torch, bare, adapted, tokenizer, json.loads(line), ends)
            print(json.dumps({"ids": ids, "gaps": gaps}), file=reply, flush=True)


def decode(
    torch: Any, bare: Any, adapted: Any, tokenizer: Any, case: dict[str, Any], ends: set[int]
) -> tuple[list[int], list[float]]:
    """The tokens of one case, and the distance of the second choice at each (0 where the best was not drawn)."""
    draw = drawing(case) if case["temperature"] > 0 else None
    streams = case["streams"]
    feeds = [tokenizer(stream["prompt"], return_tensors="pt").input_ids for stream in streams]
    caches: list[Any] = [None] * len(streams)
    ids: list[int] = []
    gaps: list[float] = []
    while len(ids) < case["tokens"] and not (ids and ids[-1] in ends):
        scores = []
        for place, stream in enumerate(streams):
            model = bare if stream["adapter"] is None else adapted
            if stream["adapter"] not in (None, getattr(model, "active_adapter", None)):
                model.set_adapter(stream["adapter"])  # takes long, so only where it is another
            out = model(feeds[place], past_key_values=caches[place], use_cache=True)
            caches[place] = out.past_key_values
            scores.append(out.logits[0, -1].double())
        strong = torch.log_softmax(scores[0], -1)
        parts = [torch.log_softmax(one, -1) for one in scores] if case["logprob"] else scores
        mixed = sum(stream["weight"] * part for stream, part in zip(streams, parts, strict=True))
        if case["alpha"] > 0:
            mixed[strong < strong.max() + math.log(case["alpha"])] = -math.inf
        first, second = mixed.topk(2).values
        best = int(mixed.argmax())
        ids.append(best if draw is None else draw.next(mixed.numpy()))
        gaps.append(min(float(first - second), 1e9) if ids[-1] == best else 0.0)
        feeds = [torch.tensor([ids[-1:]])] * len(streams)
    return ids, gaps


def drawing(case: dict[str, Any]) -> Any:
    """What draws the tokens of a case."""
    from composer.decoding.draw import Draws
    from composer.types import Sampling

    return Draws(Sampling(temperature=case["temperature"], seed=case["seed"]))


if __name__ == "__main__":
    main()
