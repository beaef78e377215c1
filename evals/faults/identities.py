"""The wrong model (R10), and prompts that do not fit (R22): found out before a token is spent, or by the reply."""

from __future__ import annotations

import asyncio
from collections import Counter

from composer.engines.base import Engine
from composer.engines.litellm import LiteLLMEngine
from composer.engines.openai import OpenAIEngine
from composer.types import Draft, Host, Message, Prompt, Request, Stream
from evals.faults.bench import Bench, Finding
from evals.faults.server import answer_to

_KINDS = ("vllm", "llamacpp", "tgi", "ollama", "other")
_REACH = 4  # tokens on both sides of the limit


async def _asked(
    url: str, model: str, prompts: list[Prompt], context: int = 2048, engine: Engine | None = None
) -> list[Draft]:
    engine = engine or OpenAIEngine(url=url, model=model, retries=2)
    await engine.open(Host("far", "openai", slots=1, context=context))
    requests = [Request(str(i), (Stream("far", prompt),)) for i, prompt in enumerate(prompts)]
    found = {name: piece async for name, piece in engine.generate(requests) if isinstance(piece, Draft)}
    await engine.close()
    return [found[request.id] for request in requests]


def wrong_models(bench: Bench, n: int) -> Finding:
    """R10: a name that is not served, a reply of another model, weights that change while they are asked."""
    missed = early = 0
    for kind in _KINDS:
        since = bench.mark()
        drafts = asyncio.run(_asked(f"{bench.url}/as/{kind}/served", "asked", [f"{i}?" for i in range(n)]))
        missed += sum(draft.error is None or draft.error.kind != "wrong_model" for draft in drafts)
        early += bench.told("begun", since)
    replies = asyncio.run(_asked(bench.url, "wrong-model", [f"{i}?" for i in range(n)]))
    by_litellm = LiteLLMEngine(model="openai/wrong-model", url=f"{bench.url}/v1", retries=0)
    replies += asyncio.run(_asked(bench.url, "wrong-model", [f"{i}?" for i in range(n)], engine=by_litellm))
    missed += sum(draft.error is None or draft.error.kind != "wrong_model" for draft in replies)
    mixed = 0
    for i in range(n):
        model = f"swap:{3 + i}"
        drafts = asyncio.run(_asked(f"{bench.url}/as/vllm/{model}", model, [f"{j}?" for j in range(2 * (3 + i))]))
        mixed += sum(draft.error is None for draft in drafts[2 + i :])
    figure = f"not noticed {missed}, tokens spent before {early}; answered after the weights were changed {mixed}"
    promise = "the served model is compared with the asked one before the first token, and in every reply, through LiteLLM too"
    return Finding(
        "R10",
        "wrong name; another model behind the same port",
        promise,
        figure,
        (len(_KINDS) + 3) * n,
        not missed + early + mixed,
    )


def long_prompts(bench: Bench, n: int) -> Finding:
    """R22: prompts around the limit of servers that drop what is too long, and of one that refuses."""
    wrong: Counter[str] = Counter()
    total = refused = 0
    for limit in [64 + 37 * i for i in range(n)]:
        for kind in ("vllm", "llamacpp", "tgi", "ollama"):
            for turns in (True, False):
                model = f"cuts:{limit}"
                texts = [" ".join(["w"] * (size - 3)) for size in range(limit - _REACH, limit + _REACH + 1)]
                prompts: list[Prompt] = [(Message("user", text),) if turns else text for text in texts]
                drafts = asyncio.run(_asked(f"{bench.url}/as/{kind}/{model}", model, prompts, limit))
                total += len(texts)
                for size, text, draft in zip(range(limit - _REACH, limit + _REACH + 1), texts, drafts, strict=True):
                    if draft.error is not None:
                        refused += 1
                        wrong["another failure"] += draft.error.kind != "too_long"
                        wrong["refused though it fits"] += kind != "ollama" and size < limit
                    else:
                        wrong["cut unnoticed"] += draft.text != answer_to(text)
        drafts = asyncio.run(_asked(f"{bench.url}/as/other/context:{limit}", f"context:{limit}", ["w " * limit], 10**6))
        wrong["a refusal not understood"] += sum(
            draft.error is None or draft.error.kind != "too_long" for draft in drafts
        )
        total += 1
    figure = f"cut without a word {wrong['cut unnoticed']}, refused {refused} as too long"
    figure += "".join(f"; {name} {count}" for name, count in wrong.items() if count and name != "cut unnoticed")
    promise = (
        "counted by the server's own tokenizer where it has one, refused where nobody can count; never cut in silence"
    )
    return Finding(
        "R22", "prompts of every length around the limit, with and without a chat", promise, figure, total, not +wrong
    )
