"""`python -m evals.train.measure SKILL`: how often an adapter is right, beside its base.

Both answer greedily in llama.cpp on the quantised base. The base is told the form of the
answer and shown three examples; the adapter gets the bare question, as when serving.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any
from urllib import request

from composer.answers.extract import extract
from composer.answers.grade import grade
from composer.config import PACKAGED, load_settings, packaged_registry
from composer.registry.experts import Registry
from evals.tasks.skills import SKILLS, Item, Kind, items

Messages = list[dict[str, str]]
Ask = Callable[[Messages, float], str]  # messages, scale of the adapter -> reply

_FORMS: dict[Kind, str] = {
    "number": "Answer with the number only.",
    "choice": "Answer with the letter only.",
    "list": "Answer with the list only, separated by commas.",
    "set": "Answer with the items only, separated by commas.",
    "json": "Answer with one JSON object only.",
    "text": "Answer with a word or two only.",
}
_SLOTS = 8


def base_gguf(path: str | Path | None) -> Path:
    """The base model's GGUF file: `path`, or the packaged registry's model, fetched if need be."""
    if path is None:
        registry = Registry(load_settings(packaged_registry()))
        fetched = registry.host(registry.settings.generalist.model, ()).path
        assert fetched is not None
        return fetched
    found = Path(path)
    if not found.is_file():
        raise FileNotFoundError(f"no base model at {found}; pass --base FILE.gguf")
    return found


def right(kind: Kind, reply: str, answer: str) -> bool:
    """Is the reply right, read and graded as everywhere else?

    >>> right("number", "47 + 36 = 83", "83"), right("list", "B, c.", "b, c")
    (True, True)
    """
    return grade(extract(reply, kind), answer, kind, text=reply) == 1.0


def shown(item: Item, examples: Sequence[Item]) -> Messages:
    """The question as the base gets it: told the form, after three solved examples."""
    form = _FORMS[item.kind]
    turns: Messages = []
    for example in examples:
        turns.append({"role": "user", "content": f"{example.question}\n{form}"})
        turns.append({"role": "assistant", "content": example.answer.split("|")[0]})
    return [*turns, {"role": "user", "content": f"{item.question}\n{form}"}]


@contextmanager
def served(gguf: Path, adapter: Path | None) -> Iterator[Ask]:
    """An in-process llama.cpp server with one thread, and a function that asks it."""
    import xllamacpp as xlc

    params = xlc.CommonParams()
    params.model.path = str(gguf)
    params.n_parallel, params.n_ctx, params.verbosity = _SLOTS, 1024 * _SLOTS, 0
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.chat_template = (PACKAGED / "chatml.jinja").read_text("utf-8")  # as served
    if adapter:
        lora = xlc.CommonAdapterLoraInfo()
        lora.path, lora.scale = str(adapter), 0.0
        params.lora_adapters, params.lora_init_without_apply = [lora], True
    server = xlc.Server(params)
    url = f"{server.listening_address}/v1/chat/completions"

    def ask(messages: Messages, scale: float) -> str:
        body: dict[str, Any] = {"messages": messages, "temperature": 0, "max_tokens": 120, "cache_prompt": True}
        if adapter:
            body["lora"] = [{"id": 0, "scale": scale}]
        sent = request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
        with request.urlopen(sent, timeout=300) as reply:
            return str(json.load(reply)["choices"][0]["message"]["content"])

    yield ask
    del server


def accuracy(ask: Ask, asked: Sequence[Item], *, scale: float) -> tuple[int, list[tuple[Item, str]]]:
    """How many are right with the adapter (scale 1) or few-shot (0), and the wrong replies."""
    examples = items(asked[0].task, "train", 3, 1) if not scale else []

    def messages(item: Item) -> Messages:
        return [{"role": "user", "content": item.question}] if scale else shown(item, examples)

    with ThreadPoolExecutor(_SLOTS) as pool:
        replies = list(pool.map(lambda item: ask(messages(item), scale), asked))
    pairs = list(zip(asked, replies, strict=True))
    wrong = [(item, reply) for item, reply in pairs if not right(item.kind, reply, item.answer)]
    return len(asked) - len(wrong), wrong


def handwritten(task: str) -> list[Item]:
    """The questions of a skill that people wrote: test data, never trained on."""
    text = resources.files("evals.tasks.skills").joinpath("handwritten.jsonl").read_text("utf-8")
    rows = [json.loads(line) for line in text.splitlines()]
    return [Item(**row, split="test") for row in rows if row["task"] == task]


def main(arguments: list[str] | None = None) -> None:
    """Print one JSON line per system and set."""
    parser = argparse.ArgumentParser(prog="python -m evals.train.measure", description=__doc__)
    parser.add_argument("skill", choices=list(SKILLS))
    parser.add_argument("--base", help="the base model, a GGUF file (default: the packaged one)")
    parser.add_argument("--adapter", type=Path, help="a GGUF adapter; without it only the base is asked")
    parser.add_argument("--split", default="test", choices=["profile", "calibration", "test"])
    parser.add_argument("--n", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0, help="of the questions")
    parser.add_argument("--hand", action="store_true", help="also the hand-written questions")
    parser.add_argument("--no-base", action="store_true", help="leave out the few-shot base")
    parser.add_argument("--show", type=int, default=0, help="print so many wrong replies")
    given = parser.parse_args(arguments)
    sets = {given.split: items(given.skill, given.split, given.n, given.seed)}
    if given.hand:
        sets["handwritten"] = handwritten(given.skill)
    scales = ([1.0] if given.adapter else []) + ([] if given.no_base else [0.0])
    with served(base_gguf(given.base), given.adapter) as ask:
        for name, asked in sets.items():
            for scale in scales if asked else ():
                began = time.monotonic()
                count, wrong = accuracy(ask, asked, scale=scale)
                system = str(given.adapter) if scale else "base, 3 examples"
                row = {"skill": given.skill, "set": name, "system": system, "right": count, "n": len(asked)}
                print(json.dumps(row | {"seconds": round(time.monotonic() - began)}), flush=True)
                for item, reply in wrong[: given.show]:
                    print(f"  {item.question!r} gold {item.answer!r} got {reply!r}", file=sys.stderr)


if __name__ == "__main__":
    main()
