"""Replies that never come, come slowly, or break off (R4, R5 and R9), through the engine and through a pipeline."""

from __future__ import annotations

import asyncio
import time
from collections import Counter

from composer.asker import Wishes
from composer.config import load_settings
from composer.engines.openai import OpenAIEngine
from composer.pipeline import Pipeline
from composer.state import Query
from composer.types import Draft, Host, Request, Stream
from evals.faults.bench import Bench, Finding
from evals.faults.server import EVENTS, answer_to

_SECONDS = 0.4  # until the deadline
_BESIDE = 1.0  # the same where 75 others are to be answered meanwhile, on a busy machine
_LATE = 0.25  # seconds after a deadline that are promised
_CUT = [f"{fault}@{event}" for fault in ("eof", "rst", "badjson") for event in range(EVENTS)]
_GOOD = ["ok", "utf8-split", "gzip"]
_BAD = [*_CUT, "done-nofinish", "inband-error", "empty", "huge", "status:500"]


async def _drafts(bench: Bench, model: str, n: int, seconds: float, limit: str = "") -> list[tuple[Draft, float]]:
    """`n` requests at once: each draft, and how many seconds after its deadline it came (negative: before). `limit` is
    the option that sets the time, instead of the requests' own deadline."""
    first, idle, longest = (seconds if limit == name else 60 for name in ("first", "idle", "longest"))
    # Each limit begins where it should: with the question, not with a look at the server before it.
    engine = OpenAIEngine(
        url=bench.url, model=model, retries=0, preflight=False, first=first, idle=idle, longest=longest
    )
    await engine.open(Host("far", "openai", slots=n))
    deadline = time.monotonic() + seconds
    ends = None if limit else deadline
    requests = [
        Request(str(i), (Stream("far", f"{model} {i}?"),), deadline=ends, deltas=limit == "idle") for i in range(n)
    ]
    found, due = [], dict.fromkeys([request.id for request in requests], deadline)
    async for name, piece in engine.generate(requests):
        now = time.monotonic()
        if isinstance(piece, Draft):
            found.append((piece, now - due[name]))
        else:
            due[name] = now + seconds  # silence begins with the last piece
    await engine.close()
    return found


def _in_time(bench: Bench, models: tuple[tuple[str, str], ...], n: int) -> tuple[float, Counter[str]]:
    """The latest draft, in seconds after its deadline; and what was wrong."""
    worst, wrong = 0.0, Counter[str]()
    asyncio.run(_drafts(bench, "ok", 1, 30))  # what the first connection of a process imports is not what is timed
    for model, limit in models:
        since = bench.mark()
        found = asyncio.run(_drafts(bench, model, n, _SECONDS, limit))
        worst = max(worst, *(late for _, late in found))
        wrong["too late"] += sum(late > _LATE for _, late in found)
        wrong["no timeout"] += sum(draft.error is None or draft.error.kind != "timeout" for draft, _ in found)
        until = time.monotonic() + 1
        while (left := bench.told("left", since)) < n and time.monotonic() < until:
            time.sleep(0.01)
        wrong["server not told"] += n - left
    return worst, wrong


def hanging(bench: Bench, n: int) -> Finding:
    """R4: nothing comes, or nothing more; alone, and beside an expert that answers."""
    alone = (("ping:60", "first"), ("hang", "first"), ("hang@2", "idle"), ("drip:0.15", "longest"))
    models = (("hang", ""), ("hang@0", ""), ("hang@2", ""), *alone)
    worst, wrong = _in_time(bench, models, n)
    registry = bench.registry(bench.new("hanging"), "ok", "hang", slots=n)
    with Pipeline(load_settings(registry), store=registry.with_name("drafts.sqlite")) as pipeline:
        pipeline.run(
            [Query("first", "?", wishes=Wishes(deadline=time.monotonic() + _SECONDS))]
        )  # imports are not what is timed
        deadline = time.monotonic() + _BESIDE
        asked = [Query(str(i), f"beside {i}?", wishes=Wishes(deadline=deadline)) for i in range(n)]
        answers = pipeline.run(asked)
        late = time.monotonic() - deadline
    right = {answer_to(f"beside {i}?") for i in range(n)}
    wrong["unmarked"] = sum(answer.status != "degraded" for answer in answers)
    wrong["wrong answers"] = len(right) - len(right & {answer.text for answer in answers})
    wrong["too late"] += late > _LATE
    figure = (
        f"over deadline + 250 ms: {wrong['too late']}; latest draft {1000 * worst:.0f} ms after it, latest batch with a "
        f"hung expert {1000 * late:.0f} ms; its answers unmarked {wrong['unmarked']}{_others(wrong)}"
    )
    promise = "by deadline, by time to the first token, by silence and by time in all: failed within 250 ms; the server is told; other experts answer, marked degraded"
    return Finding(
        "R4", "expert hangs before or after the first token", promise, figure, (len(models) + 1) * n, not +wrong
    )


def dripping(bench: Bench, n: int) -> Finding:
    """R5: bytes keep coming, so limits per read never fire."""
    models = ((f"drip:{_SECONDS / 3}", ""), (f"drip:{_SECONDS / 1.5}", ""))
    worst, wrong = _in_time(bench, models, n)
    figure = f"over deadline + 250 ms: {wrong['too late']}; slowest {1000 * worst:.0f} ms after it{_others(wrong)}"
    return Finding(
        "R5", "slow drip", "the total deadline holds although bytes flow", figure, len(models) * n, not +wrong
    )


def broken(bench: Bench, n: int) -> Finding:
    """R9: replies cut at every event, malformed, or with an error inside."""

    async def count() -> tuple[int, int]:
        bad = [draft for model in _BAD for draft, _ in await _drafts(bench, model, n, 30)]
        good = [draft for model in _GOOD for draft, _ in await _drafts(bench, model, n, 30)]
        return sum(draft.error is None for draft in bad), sum(draft.ok for draft in good)

    accepted, whole = asyncio.run(count())
    total = (len(_BAD) + len(_GOOD)) * n
    figure = f"broken replies accepted {accepted} of {len(_BAD) * n}; whole ones accepted {whole} of {len(_GOOD) * n}"
    promise = "only a whole reply with a reason for its end counts"
    return Finding(
        "R9",
        "reply cut at every event, malformed, in-band error",
        promise,
        figure,
        total,
        not accepted and whole == len(_GOOD) * n,
    )


def _others(wrong: Counter[str]) -> str:
    return "".join(
        f"; {name} {count}" for name, count in wrong.items() if count and name not in ("too late", "unmarked")
    )
