"""Trains the small mixture-of-experts model of `evals.train.moe`; run by an interpreter with torch and transformers.

Its argument is a JSON file, the job. It imports nothing of ours, and prints how it goes.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import MixtralConfig, MixtralForCausalLM

TOKENS = ("<pad>", "<end>", *"0123456789+-*=")
PAD, END = 0, 1
_LOOK = 250  # steps
_WARM = 100
_ASKED = 150  # problems that are answered at once


def encode(text: str) -> list[int]:
    """Characters to ids."""
    return [TOKENS.index(one) for one in text]


def padded(rows: Sequence[Sequence[int]], fill: int) -> torch.Tensor:
    """[row, longest], filled up on the right."""
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[fill] * (longest - len(row))] for row in rows])


def right(model: Any, held: Sequence[Sequence[str]]) -> int:
    """How many are written exactly as taught, greedily. Prompts of one length are asked together: none is padded."""
    done = 0
    for length in sorted({len(prompt) for prompt, _ in held}):
        group = [one for one in held if len(one[0]) == length]
        for at in range(0, len(group), _ASKED):
            part = group[at : at + _ASKED]
            asked = torch.tensor([encode(prompt) for prompt, _ in part])
            said = model.generate(asked, max_new_tokens=16, do_sample=False, pad_token_id=PAD, eos_token_id=END)
            for row, (_, target) in zip(said[:, length:].tolist(), part, strict=True):
                told = row[: row.index(END)] if END in row else row
                done += told == encode(target)
    return done


def pace(step: int, steps: int) -> float:
    """The share of the learning rate at a step: up in a line, down by a cosine to 2 %.

    >>> [round(pace(step, 1000), 2) for step in (1, 100, 550, 1000)]
    [0.01, 0.98, 0.45, 0.02]
    """
    return min(1.0, step / _WARM) * (0.51 + 0.49 * math.cos(math.pi * step / steps))


def main(file: str) -> None:
    """Train, and write the folder."""
    job = json.loads(Path(file).read_text(encoding="utf-8"))
    Path(file).unlink()
    torch.manual_seed(job["seed"])
    torch.set_num_threads(1)
    config = MixtralConfig(
        vocab_size=len(TOKENS),
        pad_token_id=PAD,
        eos_token_id=END,
        bos_token_id=None,
        output_router_logits=True,
        **job["shape"],
    )
    model = MixtralForCausalLM(config)
    print(f"{sum(one.numel() for one in model.parameters()):,} parameters, {len(job['lessons'])} lessons", flush=True)
    lessons = [(encode(prompt), [*encode(target), END]) for prompt, target in job["lessons"]]
    optimizer = torch.optim.AdamW(model.parameters(), lr=job["rate"], weight_decay=0.05, betas=(0.9, 0.98), fused=True)
    began, cpu, late = time.monotonic(), time.process_time(), 0.0
    for step in range(1, job["steps"] + 1):
        for group in optimizer.param_groups:
            group["lr"] = job["rate"] * pace(step, job["steps"])
        at = (step * job["size"]) % (len(lessons) - job["size"])
        part = lessons[at : at + job["size"]]
        told = padded([[*prompt, *target] for prompt, target in part], PAD)
        wanted = padded([[-100] * len(prompt) + target for prompt, target in part], -100)
        model.train()
        loss = model(input_ids=told, attention_mask=(told != PAD).long(), labels=wanted).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        late = loss.item() if step == 1 else 0.98 * late + 0.02 * loss.item()
        if step % _LOOK == 0 or step == job["steps"]:
            model.eval()
            found = right(model, job["held"])
            print(
                f"step {step}: loss {late:.4f}, {found} of {len(job['held'])} right, "
                f"{time.monotonic() - began:.0f} s, {time.process_time() - cpu:.0f} CPU s",
                flush=True,
            )
    model.config.output_router_logits = False
    out = Path(job["out"])
    model.eval().save_pretrained(out, safe_serialization=True)
    facts = {"tokens": TOKENS, "steps": job["steps"], "seed": job["seed"], "torch": torch.__version__}
    (out / "characters.json").write_text(json.dumps(facts), encoding="utf-8")
    print(f"wrote {out}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
