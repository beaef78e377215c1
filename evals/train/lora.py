"""Trains one LoRA adapter: float32, one thread, loss on the answers alone."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evals.train.base import BASE_NAME
from evals.train.batches import Example, batches, encode, mix

LAYERS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True, slots=True)
class Recipe:
    """All that decides what comes out of a training, besides the base."""

    skills: tuple[str, ...]
    steps: int
    seed: int = 0
    size: int = 4  # small batches take more steps, which taught more per token
    rank: int = 4
    alpha: int = 8
    rate: float = 2.5e-3
    warmup: int = 15
    start: Path | None = None  # an adapter to go on from


def train(recipe: Recipe, base: Path, out: Path, *, save_every: int = 25) -> Iterator[str]:
    """Train and save a PEFT folder. Yields a line of progress now and then."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(1)
    torch.set_flush_denormal(True)  # gradients get tiny; denormals cost 6 % of the time
    torch.manual_seed(recipe.seed)
    tokenizer = AutoTokenizer.from_pretrained(str(base))
    model = _adapted(recipe, AutoModelForCausalLM.from_pretrained(str(base), dtype=torch.float32))
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    adam = torch.optim.AdamW(weights, lr=recipe.rate, weight_decay=0.0, betas=(0.9, 0.99))
    lessons = mix(recipe.skills, recipe.steps * recipe.size, recipe.seed)
    plan = batches(encode(tokenizer, lessons), recipe.size, recipe.seed)
    model.train()
    began, recent, tokens = time.monotonic(), 0.0, 0
    for step, batch in enumerate(plan, 1):
        for group in adam.param_groups:
            group["lr"] = recipe.rate * pace(step, len(plan), recipe.warmup)
        loss = _loss(torch, model, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        adam.step()
        adam.zero_grad()
        value = float(loss.detach())
        recent = value if step == 1 else 0.9 * recent + 0.1 * value
        tokens += len(batch) * max(len(one.tokens) for one in batch)
        if step % save_every == 0 or step == len(plan):
            save(model, recipe, out)
            spent = f"{time.monotonic() - began:.0f} s, {time.process_time():.0f} CPU s"
            yield f"step {step}/{len(plan)} loss {recent:.4f} {spent} {tokens} tokens"


def pace(step: int, steps: int, warmup: int) -> float:
    """The share of the learning rate at a step: up in a line, down in a line to 3 %.

    >>> [round(pace(step, 100, 10), 2) for step in (1, 10, 55, 100)]
    [0.1, 1.0, 0.52, 0.03]
    """
    if step <= warmup:
        return step / warmup
    return 1.0 - 0.97 * (step - warmup) / max(1, steps - warmup)


def save(model: Any, recipe: Recipe, out: Path) -> None:
    """Write the adapter as PEFT does, in float16, naming the base by its public name."""
    import torch
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    out.mkdir(parents=True, exist_ok=True)
    state = get_peft_model_state_dict(model)
    half = {name: value.detach().to(torch.float16).contiguous() for name, value in state.items()}
    save_file(half, str(out / "adapter_model.safetensors"), metadata={"format": "pt"})
    config = {
        "base_model_name_or_path": BASE_NAME,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "lora_alpha": recipe.alpha,
        "lora_dropout": 0.0,
        "peft_type": "LORA",
        "r": recipe.rank,
        "target_modules": sorted(LAYERS),
        "task_type": "CAUSAL_LM",
    }
    (out / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _adapted(recipe: Recipe, model: Any) -> Any:
    """The base with fresh LoRA layers, or with those of an earlier adapter."""
    from peft import LoraConfig, PeftModel, get_peft_model

    if recipe.start:
        adapted = PeftModel.from_pretrained(model, str(recipe.start), is_trainable=True)
        return adapted.float()
    config = LoraConfig(
        r=recipe.rank,
        lora_alpha=recipe.alpha,
        lora_dropout=0.0,
        target_modules=list(LAYERS),
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, config)


def _loss(torch: Any, model: Any, batch: Sequence[Example]) -> Any:
    """Mean cross-entropy of the target tokens; the vocabulary is scored only where needed."""
    longest = max(len(one.tokens) for one in batch)
    ids = torch.full((len(batch), longest), 2)  # 2 closes a message; right padding needs no mask
    wanted = torch.zeros((len(batch), longest), dtype=torch.bool)
    for row, one in enumerate(batch):
        ids[row, : len(one.tokens)] = torch.tensor(one.tokens)
        wanted[row, one.start : len(one.tokens)] = True
    inner = model.base_model.model
    hidden = inner.model(input_ids=ids, use_cache=False)[0]
    logits = inner.lm_head(hidden[:, :-1][wanted[:, 1:]])
    return torch.nn.functional.cross_entropy(logits, ids[:, 1:][wanted[:, 1:]])
