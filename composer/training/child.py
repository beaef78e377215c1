"""Trains a LoRA adapter; run by an interpreter that has torch, transformers and peft.

Run as a script, and it imports nothing of `composer`. Its argument is a JSON file, the job. What goes out is a line of
JSON per event: `ready`, `step`, `replies`, and at last `done` or `error`. When its input is closed it ends after the step
that it is at, with the best adapter so far.
"""

from __future__ import annotations

import json
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

LAYERS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
_WINDOW = 12  # batches whose examples are sorted by length together
_MOST_HALF = 65504  # the largest float16
_ASKED = 16  # prompts that are answered at once


class JobError(Exception):
    """What cannot be trained. `row`: which example it is about, None where it is about none."""

    def __init__(self, what: str, row: int | None = None) -> None:
        super().__init__(what)
        self.row = row


@dataclass(frozen=True, slots=True)
class Example:
    """The tokens of a prompt with its target, and where the target starts."""

    tokens: tuple[int, ...]
    start: int


@dataclass(slots=True)
class Patience:
    """Remembers the step with the lowest held-out loss. `first` is the loss before any step; `most`: how many looks
    without a new best are borne."""

    first: float
    most: int
    best: float = field(init=False)
    step: int = field(init=False, default=0)
    idle: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self.best = self.first

    def look(self, step: int, loss: float) -> bool:
        """Take the loss at a step; whether it is the best."""
        if loss < self.best:
            self.best, self.step, self.idle = loss, step, 0
            return True
        self.idle += 1
        return False

    @property
    def over(self) -> bool:
        """Whether to stop."""
        return self.idle >= self.most


def pace(step: int, steps: int, warmup: int) -> float:
    """The share of the learning rate at a step: up in a line, down in a line to 3 %.

    >>> [round(pace(step, 100, 10), 2) for step in (1, 10, 55, 100)]
    [0.1, 1.0, 0.52, 0.03]
    """
    if step <= warmup:
        return step / warmup
    return 1.0 - 0.97 * (step - warmup) / max(1, steps - warmup)


def batches(examples: Sequence[Example], size: int, seed: int) -> list[list[Example]]:
    """Batches of similar length in random order: little is padding. A rest that fills none is dropped, unless it is all."""
    rng = Random(seed)
    mixed = list(examples)
    rng.shuffle(mixed)
    size = min(size, len(mixed))
    made: list[list[Example]] = []
    for at in range(0, len(mixed), size * _WINDOW):
        window = sorted(mixed[at : at + size * _WINDOW], key=lambda one: len(one.tokens))
        made += [window[i : i + size] for i in range(0, len(window) - size + 1, size)]
    rng.shuffle(made)
    return made


def endless(examples: Sequence[Example], size: int, seed: int) -> Iterator[list[Example]]:
    """Batches without end: every round has all examples, each time mixed anew."""
    while True:
        yield from batches(examples, size, seed)
        seed += 1


def prompt(tokenizer: Any, turns: Sequence[dict[str, str]] | str, template: str | None) -> list[int]:
    """The tokens that a server of the model reads before it answers: `turns` in the chat template, or a text as it
    stands; with the mark of the beginning where the tokenizer sets one."""
    if isinstance(turns, str):
        text = turns
    else:
        text = tokenizer.apply_chat_template(
            list(turns), chat_template=template, add_generation_prompt=True, tokenize=False
        )
    ids = list(tokenizer(text, add_special_tokens=False).input_ids)
    begin = tokenizer.bos_token_id
    marked = tokenizer("a").input_ids[:1] == [begin]
    return [begin, *ids] if begin is not None and marked and ids[:1] != [begin] else ids


def closing(tokenizer: Any, template: str | None, chat: bool) -> int:
    """The token that ends an answer: what the template writes behind one, if that is a mark, else the end of a text."""
    end = int(tokenizer.eos_token_id)
    if not chat:
        return end
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    text = tokenizer.apply_chat_template(turns, chat_template=template, tokenize=False)
    ids = tokenizer(text.rpartition("b")[2], add_special_tokens=False).input_ids
    return int(ids[0]) if ids and ids[0] in tokenizer.all_special_ids else end


def encode(tokenizer: Any, rows: Sequence[Sequence[Any]], template: str | None, most: int, first: int) -> list[Example]:
    """The rows (turns, target) as examples; the closing mark belongs to the target. Raises JobError for a row of more than
    `most` tokens; rows count from `first`."""
    made: list[Example] = []
    for number, (turns, target) in enumerate(rows, first):
        head = prompt(tokenizer, turns, template)
        tail = list(tokenizer(target, add_special_tokens=False).input_ids)
        tail.append(closing(tokenizer, template, not isinstance(turns, str)))
        if len(head) + len(tail) > most:
            raise JobError(f"question and target are {len(head) + len(tail)} tokens, the context has {most}", number)
        made.append(Example((*head, *tail), len(head)))
    return made


def tell(**event: Any) -> None:
    """A line that goes out."""
    sys.stdout.write(json.dumps(event) + "\n")
    sys.stdout.flush()


class Training:
    """One adapter on its way: the base with LoRA layers, and what is learnt from. `job` is as `run.py` writes it."""

    def __init__(self, torch: Any, job: dict[str, Any]) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: PLC0415 its absence is told

        self.torch, self.job, self.out = torch, job, Path(job["out"])
        torch.manual_seed(job["seed"])
        self.device = device(torch)
        self.dtype = getattr(torch, job["dtype"]) if job["dtype"] else quickest(torch, self.device)
        self.tokenizer = AutoTokenizer.from_pretrained(job["base"])
        base = AutoModelForCausalLM.from_pretrained(job["base"], dtype=self.dtype)
        most = min(job["context"], getattr(base.config, "max_position_embeddings", None) or job["context"])
        self.train = encode(self.tokenizer, job["train"], job["template"], most, 0)
        self.held = encode(self.tokenizer, job["held"], job["template"], most, len(self.train))
        self.model = adapted(base, job).to(self.device)
        self.weights = [weight for weight in self.model.parameters() if weight.requires_grad]
        for weight in self.weights:
            weight.data = weight.data.float()

    def loss(self, batch: Sequence[Example]) -> tuple[Any, int]:
        """The mean cross-entropy of the target tokens, and how many there are; the vocabulary is scored only at places
        where some row has a target."""
        torch = self.torch
        longest = max(len(one.tokens) for one in batch)
        ids = torch.full((len(batch), longest), self.tokenizer.eos_token_id)  # padding on the right needs no mask
        wanted = torch.zeros((len(batch), longest), dtype=torch.bool)
        for row, one in enumerate(batch):
            ids[row, : len(one.tokens)] = torch.tensor(one.tokens)
            wanted[row, one.start : len(one.tokens)] = True
        wanted = wanted[:, 1:]
        places = wanted.any(0).nonzero()[:, 0]
        logits = self.model(
            input_ids=ids.to(self.device), use_cache=False, logits_to_keep=places.to(self.device)
        ).logits
        chosen = wanted[:, places]
        goal = ids[:, 1:][:, places][chosen].to(self.device)
        return torch.nn.functional.cross_entropy(logits[chosen.to(self.device)].float(), goal), len(goal)

    def held_out(self) -> float:
        """The mean loss per target token of what is held back."""
        self.model.eval()
        size, total, count = self.job["size"], 0.0, 0
        rows = sorted(self.held, key=lambda one: len(one.tokens))
        with self.torch.inference_mode():
            for at in range(0, len(rows), size):
                mean, n = self.loss(rows[at : at + size])
                total, count = total + float(mean) * n, count + n
        self.model.train()
        return total / count

    def save(self) -> None:
        """Write the adapter as PEFT does, naming the base as the job says; in place of an earlier one, whole."""
        from peft import get_peft_model_state_dict  # noqa: PLC0415
        from safetensors.torch import save_file  # noqa: PLC0415

        state = {name: value.detach().cpu() for name, value in get_peft_model_state_dict(self.model).items()}
        large = max(float(value.abs().max()) for value in state.values())
        half = self.torch.float16 if large < _MOST_HALF else self.torch.float32
        state = {name: value.to(half).contiguous() for name, value in state.items()}
        draft = self.out / ".adapter.tmp"  # we may be killed at any moment: the last best stays whole
        save_file(state, str(draft), metadata={"format": "pt"})
        draft.replace(self.out / "adapter_model.safetensors")
        config = {
            "base_model_name_or_path": self.job["base_name"],
            "bias": "none",
            "fan_in_fan_out": False,
            "inference_mode": True,
            "lora_alpha": self.job["alpha"],
            "lora_dropout": 0.0,
            "peft_type": "LORA",
            "r": self.job["rank"],
            "target_modules": sorted(self.model.peft_config["default"].target_modules),
            "task_type": "CAUSAL_LM",
        }
        (self.out / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")

    def replies(self, asked: Sequence[Any], most: int) -> list[str]:
        """What the model writes greedily to each of `asked`, at most so many tokens."""
        torch, ids = self.torch, [prompt(self.tokenizer, turns, self.job["template"]) for turns in asked]
        end, found = self.tokenizer.eos_token_id, []
        chat = not isinstance(asked[0], str) if asked else True
        ends = sorted({end, closing(self.tokenizer, self.job["template"], chat)})
        self.model.eval()
        for at in range(0, len(ids), _ASKED):
            group = ids[at : at + _ASKED]
            longest = max(map(len, group))
            rows = torch.tensor([[end] * (longest - len(one)) + one for one in group], device=self.device)
            mask = torch.tensor([[0] * (longest - len(one)) + [1] * len(one) for one in group], device=self.device)
            with torch.inference_mode():
                written = self.model.generate(
                    input_ids=rows, attention_mask=mask, max_new_tokens=most, do_sample=False,
                    eos_token_id=ends, pad_token_id=end,
                )  # fmt: skip
            found += [self.tokenizer.decode(row[longest:], skip_special_tokens=True).strip() for row in written]
        self.model.train()
        return found

    def run(self, stop: threading.Event) -> None:
        """All steps, or fewer; the folder then holds the best adapter. Raises JobError where none is better than the
        base."""
        job, torch = self.job, self.torch
        tell(
            event="ready", device=str(self.device), dtype=str(self.dtype).removeprefix("torch."),
            weights=sum(weight.numel() for weight in self.weights), versions=versions(),
        )  # fmt: skip
        if job["asked"]:
            with self.model.disable_adapter():
                tell(event="replies", when="before", replies=self.replies(job["asked"], job["most"]))
        adam = torch.optim.AdamW(self.weights, lr=job["rate"], weight_decay=0.0, betas=(0.9, 0.99))
        seen = Patience(self.held_out(), job["patience"])
        tell(event="step", step=0, loss=None, held=seen.first, best=0, left=None)
        self.model.train()
        kept: dict[str, Any] = {}
        began, recent, why, step, looked = time.monotonic(), 0.0, "finished", 0, 0
        for step, batch in enumerate(endless(self.train, job["size"], job["seed"]), 1):
            for group in adam.param_groups:
                group["lr"] = job["rate"] * pace(step, job["steps"], job["warmup"])
            loss, _ = self.loss(batch)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.weights, 1.0)
            adam.step()
            adam.zero_grad()
            value = float(loss.detach())
            if not math.isfinite(value):
                raise JobError(f"the loss is {value} at step {step}: the learning rate is too high")
            recent = value if step == 1 else 0.9 * recent + 0.1 * value
            held = None
            last = step >= job["steps"] or stop.is_set()
            if step % job["every"] == 0 or last:
                looked, held = step, self.held_out()
                if seen.look(step, held):
                    self.save()
                    kept = {name: w.detach().clone() for name, w in self.model.named_parameters() if w.requires_grad}
            left = (time.monotonic() - began) / step * (job["steps"] - step)
            tell(event="step", step=step, loss=recent, held=held, best=seen.step, left=left)
            if stop.is_set():
                why = "stopped"
            elif looked == step and seen.over:
                why = "patience"
            if last or why != "finished":
                break
        if not kept:
            raise JobError(f"no step was better than the base: its held-out loss is {seen.first:.3f}")
        with torch.no_grad():
            for name, weight in self.model.named_parameters():
                if name in kept:
                    weight.copy_(kept[name])
        if job["asked"] and why != "stopped":
            tell(event="replies", when="after", replies=self.replies(job["asked"], job["most"]))
        tell(
            event="done", why=why, steps=step, best=seen.step, loss=recent, first=seen.first, held=seen.best,
            seconds=time.monotonic() - began,
        )  # fmt: skip


def adapted(base: Any, job: dict[str, Any]) -> Any:
    """The base with fresh LoRA layers, or with those of the adapter `job["start"]`. Sets the job's rank and alpha."""
    from peft import LoraConfig, PeftModel, get_peft_model  # noqa: PLC0415

    if job["start"]:
        model = PeftModel.from_pretrained(base, job["start"], is_trainable=True)
        config = model.peft_config["default"]
        job["rank"], job["alpha"] = config.r, config.lora_alpha
        return model
    there = {name.rpartition(".")[2] for name, _ in base.named_modules()}
    names: Any = list(LAYERS) if there.issuperset(LAYERS) else "all-linear"
    return get_peft_model(
        base,
        LoraConfig(
            r=job["rank"], lora_alpha=job["alpha"], lora_dropout=0.0, target_modules=names, task_type="CAUSAL_LM"
        ),
    )


def device(torch: Any) -> Any:
    """An accelerator if torch sees one, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def quickest(torch: Any, place: Any) -> Any:
    """The type of the base's numbers: bfloat16 where the device computes faster with it, else float32."""
    if place.type != "cpu":
        return torch.bfloat16 if place.type == "cuda" and torch.cuda.is_bf16_supported() else torch.float32
    spent = {}
    for dtype in (torch.float32, torch.bfloat16):
        a, b = torch.ones((192, 512), dtype=dtype), torch.ones((512, 1024), dtype=dtype)
        seconds = []
        for _ in range(6):
            began = time.perf_counter()
            a @ b
            seconds.append(time.perf_counter() - began)
        spent[dtype] = min(seconds)
    return min(spent, key=lambda dtype: spent[dtype])


def versions() -> dict[str, str]:
    """Of what trains."""
    from importlib.metadata import version  # noqa: PLC0415

    return {name: version(name) for name in ("torch", "transformers", "peft")}


def main(place: Path) -> int:
    """Do the job in the file `place`; the exit code."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches us as the end of our input
    job = json.loads(place.read_bytes())
    os.environ["HF_HUB_OFFLINE"] = "1"  # all that is needed is here
    stop = threading.Event()

    def listen() -> None:
        sys.stdin.read()
        stop.set()

    threading.Thread(target=listen, daemon=True).start()
    try:
        import peft  # noqa: F401, PLC0415 its absence is told like every other error
        import safetensors  # noqa: F401, PLC0415
        import torch  # noqa: PLC0415
        import transformers  # noqa: PLC0415
    except ImportError as why:
        tell(event="error", error=str(why), missing=why.name or "peft", row=None)
        return 1
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(job["threads"])
    torch.set_flush_denormal(True)  # gradients get tiny; denormals cost 6 % of the time
    try:
        Training(torch, job).run(stop)
    except JobError as why:
        tell(event="error", error=str(why), missing=None, row=why.row)
        return 1
    except Exception as why:
        tell(event="error", error=f"{type(why).__name__}: {why}", missing=None, row=None)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
