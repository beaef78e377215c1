"""One loop asks again: within its budget, at the time the server wishes, and never in the place of the server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import pytest

from composer.engines.openai import OpenAIEngine
from composer.engines.retry import Breaker, Budget, Persistence, Unusable, wish_of
from composer.types import Delta, Draft, Host, Request, Stream
from evals.faults.bench import Bench
from evals.faults.server import answer_to


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    with Bench() as running:
        yield running


async def asked(bench: Bench, model: str, n: int = 1, seconds: float = 30, **options: Any) -> dict[str, Draft]:
    engine = OpenAIEngine(url=bench.url, model=model, **options)
    await engine.open(Host("far", "openai", slots=8))
    ends = time.monotonic() + seconds
    requests = [Request(str(i), (Stream("far", f"{i}?"),), deadline=ends) for i in range(n)]
    found = {name: piece async for name, piece in engine.generate(requests) if isinstance(piece, Draft)}
    await engine.close()
    return found


def kind(draft: Draft) -> str:
    return draft.error.kind if draft.error else "ok"


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504, 529])
async def test_what_may_pass_is_asked_again(bench: Bench, status: int) -> None:
    since = bench.mark()
    [draft] = (await asked(bench, f"once:{status}")).values()

    assert bench.told("begun", since) == 2
    assert draft.ok and draft.text == answer_to("0?")


@pytest.mark.parametrize("model", ["status:400", "status:401", "status:404", "status:422", "badjson@1", "inband-error"])
async def test_what_would_only_fail_again_is_not(bench: Bench, model: str) -> None:
    since = bench.mark()
    [draft] = (await asked(bench, model)).values()

    assert bench.told("begun", since) == 1
    assert draft.error is not None and draft.error.attempts == 1


@pytest.mark.parametrize("model", ["status:503", "eof@2", "rst@2", "done-nofinish"])
async def test_attempts_are_counted_and_come_to_an_end(bench: Bench, model: str) -> None:
    since = bench.mark()
    [draft] = (await asked(bench, model, retries=2)).values()

    made = bench.told("begun", since)
    assert draft.error is not None
    assert draft.error.attempts == made == (1 if model == "done-nofinish" else 3)


@pytest.mark.parametrize(("model", "least"), [("wish-seconds:1", 1.0), ("wish-date:1", 0.9), ("wish-past:1", 0.0)])
async def test_a_server_is_called_again_when_it_wishes(bench: Bench, model: str, least: float) -> None:
    began = time.monotonic()
    [draft] = (await asked(bench, model)).values()
    seconds = time.monotonic() - began

    assert draft.ok
    assert least <= seconds < least + 5


async def test_a_wish_for_longer_than_there_is_time_is_not_waited_for(bench: Bench) -> None:
    since = bench.mark()
    began = time.monotonic()
    [draft] = (await asked(bench, "wish-absurd:1", seconds=20)).values()

    assert bench.told("begun", since) == 1
    assert time.monotonic() - began < 5
    assert draft.error is not None and draft.error.kind == "overloaded"
    assert "86400 s" in draft.error.message


async def test_while_one_is_told_to_wait_the_others_wait_too(bench: Bench) -> None:
    since = bench.mark()
    engine = OpenAIEngine(url=bench.url, model="wish-seconds:1")
    await engine.open(Host("far", "openai", slots=8))

    async def one(prompt: str) -> float:
        request = Request(prompt, (Stream("far", prompt),))
        [draft] = [piece async for _, piece in engine.generate([request]) if isinstance(piece, Draft)]
        assert draft.ok
        return time.monotonic()

    began = time.monotonic()
    first = asyncio.create_task(one("a"))
    while not bench.told("sent", since):
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.1)
    await one("b")
    made = bench.calls("wish-seconds:1", since)
    await first
    await engine.close()

    assert time.monotonic() - began >= 1
    assert max(made.values()) <= 2


async def test_of_many_failures_a_tenth_is_asked_again(bench: Bench) -> None:
    since = bench.mark()
    drafts = await asked(bench, "flaky:0.5", n=200)

    made = bench.told("begun", since)
    assert made <= 1.3 * 200
    assert sum(draft.ok for draft in drafts.values()) > 100


async def test_a_lone_expert_that_comes_back_in_time_answers_everybody(bench: Bench) -> None:
    since = bench.mark()
    drafts = await asked(bench, "down:1.5", n=16, retries=8)

    made = bench.told("begun", since)
    assert {kind(draft) for draft in drafts.values()} == {"ok"}
    assert made < 16 + 32


async def test_a_text_that_breaks_off_is_told_from_its_beginning_again(bench: Bench) -> None:
    engine = OpenAIEngine(url=bench.url, model="eof@3", retries=1)
    await engine.open(Host("far", "openai"))
    request = Request("a", (Stream("far", "?"),), deltas=True)
    told = [piece async for _, piece in engine.generate([request])]
    await engine.close()

    begins = [piece.at for piece in told if isinstance(piece, Delta)]
    assert begins.count(0) == 2


def down() -> Unusable:
    return Unusable("unreachable", "nobody there", again=True, down=True)


async def test_an_open_breaker_lets_one_probe_through_and_the_others_share_what_it_finds() -> None:
    calls = 0
    healthy = False

    async def attempt() -> str:
        nonlocal calls
        calls += 1
        await asyncio.sleep(0.01)
        if not healthy:
            raise down()
        return "here"

    persistence = Persistence(retries=20, budget=Budget(most=1000, left=1000))
    ends = time.monotonic() + 30
    asking = [asyncio.create_task(persistence.run(attempt, ends)) for _ in range(20)]
    while not persistence.breaker.open:
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.1)
    before = calls
    await asyncio.sleep(0.6)
    probes = calls - before
    healthy = True
    found = await asyncio.gather(*asking)

    assert before <= 20 + 5
    assert probes <= 3
    assert found == ["here"] * 20


async def test_whoever_has_little_time_makes_an_attempt_in_it() -> None:
    breaker = Breaker(failures=5)
    breaker.leave(False, Unusable("overloaded", "later", again=True, down=True, wish=50))
    persistence = Persistence(breaker=breaker)

    async def attempt() -> str:
        return "here"

    assert await persistence.run(attempt, time.monotonic() + 0.4) == "here"
    assert not breaker.open


async def test_a_cancelled_probe_leaves_the_way_to_the_next() -> None:
    breaker = Breaker(failures=5)
    persistence = Persistence(breaker=breaker)

    async def hangs() -> str:
        await asyncio.Event().wait()
        return "never"

    async def works() -> str:
        return "here"

    probe = asyncio.create_task(persistence.run(hangs, time.monotonic() + 30))
    await asyncio.sleep(0.01)
    second = asyncio.create_task(persistence.run(works, time.monotonic() + 30))
    await asyncio.sleep(0.01)
    probe.cancel()

    assert await asyncio.wait_for(second, 5) == "here"


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7),
        ({"retry-after": "-7"}, 0),
        ({"retry-after": "inf"}, float("inf")),
        ({"retry-after": "nan"}, None),
        ({"retry-after": ""}, None),
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0),
        ({"retry-after": "Fri, 31 Dec 9999 23:59:59 GMT", "date": "nonsense"}, None),
        ({"retry-after": "Fri, 27 Nov 2026 10:00:30 GMT", "date": "Fri, 27 Nov 2026 10:00:00 GMT"}, 30),
    ],
)
def test_wishes_are_read_in_every_form(headers: dict[str, str], seconds: float | None) -> None:
    assert wish_of(headers) == seconds
