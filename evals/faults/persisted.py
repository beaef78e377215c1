"""Servers that refuse for a while (R8): one loop asks again, when they wish, within a budget, and never for ever."""

from __future__ import annotations

import asyncio
import time
from collections import Counter

from composer.engines.openai import OpenAIEngine
from composer.engines.retry import RETRIES
from composer.types import Draft, Host, Request, Stream
from evals.faults.bench import Bench, Finding

_MOST = 1.3  # calls per request at 30 % errors


async def _asked(bench: Bench, model: str, n: int, seconds: float, retries: int) -> list[Draft]:
    engine = OpenAIEngine(url=bench.url, model=model, retries=retries)
    await engine.open(Host("far", "openai", slots=8))
    ends = time.monotonic() + seconds
    requests = [Request(str(i), (Stream("far", f"{model} {i}?"),), deadline=ends) for i in range(n)]
    try:
        return [piece async for _, piece in engine.generate(requests) if isinstance(piece, Draft)]
    finally:
        await engine.close()


def refused_for_a_while(bench: Bench, n: int) -> Finding:
    """R8: every status, every form of a wish, 30 % errors, a server that comes back."""
    wrong: Counter[str] = Counter()
    total = 0

    def ask(model: str, n: int, seconds: float = 60, retries: int = RETRIES) -> tuple[list[Draft], int, float]:
        nonlocal total
        since, began = bench.mark(), time.monotonic()
        drafts = asyncio.run(_asked(bench, model, n, seconds, retries))
        total += n
        wrong["after the deadline"] += time.monotonic() - began > seconds + 0.25
        return drafts, bench.told("begun", since), time.monotonic() - began

    for status in (429, 500, 502, 503, 529):
        drafts, made, _ = ask(f"once:{status}", 4)
        wrong[f"{status} not asked again"] += sum(not draft.ok for draft in drafts) + (made != 8)
    for model, least in (
        ("wish-seconds:1", 1.0),
        ("wish-date:1", 0.9),
        ("wish-past:1", 0),
        ("wish-nonsense:1", 0),
        ("wish-none:1", 0),
    ):
        drafts, made, seconds = ask(model, 2)
        wrong[f"{model} not heeded"] += sum(not draft.ok for draft in drafts) + (seconds < least) + (made > 4)
    drafts, made, _ = ask("wish-absurd:1", 2, 20)
    wrong["an absurd wish waited for"] += sum(draft.ok for draft in drafts) + (made > 2)
    drafts, made, _ = ask("flaky:0.3", 20 * n)
    amplified, failed = made / (20 * n), sum(not draft.ok for draft in drafts)
    wrong["amplified"] += amplified > _MOST and n > 5
    drafts, during, seconds = ask("down:2", 2 * n, 60, retries=8)
    lost = sum(not draft.ok for draft in drafts)
    wrong["a lone expert given up"] += lost
    figure = (
        f"calls per request at 30 % errors {amplified:.2f} ({failed} of {20 * n} failed after their attempts); a lone expert that"
        f" was down for 2 s: {lost} of {2 * n} failed, {during} calls, all answered after {seconds:.1f} s"
        + "".join(f"; {name} {count}" for name, count in wrong.items() if count)
    )
    promise = (
        "one retry loop: jitter, Retry-After within the time, at most a tenth more calls, and no cooling into nothing"
    )
    return Finding(
        "R8",
        "429 with and without Retry-After, 500, 502, 503, 529, down for a while",
        promise,
        figure,
        total,
        not +wrong,
    )
