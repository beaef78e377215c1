"""The three limits of a call, and what must not make them fire."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import pytest

from composer.engines.limits import Limits
from composer.engines.openai import OpenAIEngine
from composer.types import Delta, Draft, Host, Request, Stream
from evals.faults.bench import Bench

LONG = {"first": 30, "idle": 30, "longest": 30}


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    with Bench() as running:
        yield running


async def asked(bench: Bench, model: str, **options: Any) -> tuple[Draft, float]:
    engine = OpenAIEngine(url=bench.url, model=model, retries=0, **options)
    await engine.open(Host("far", "openai"))
    began = time.monotonic()
    [draft] = [
        piece async for _, piece in engine.generate([Request("a", (Stream("far", "?"),))]) if isinstance(piece, Draft)
    ]
    await engine.close()
    return draft, time.monotonic() - began


@pytest.mark.parametrize(
    ("model", "limit", "words"),
    [
        ("hang", "first", "not even a first token"),
        ("hang@0", "first", "not even a first token"),
        ("ping:20", "first", "not even a first token"),
        ("hang@2", "idle", "of the last piece"),
        ("drip:0.15", "longest", "in its time"),
    ],
)
async def test_each_limit_ends_a_call_by_itself_and_the_server_is_told(
    bench: Bench, model: str, limit: str, words: str
) -> None:
    since = bench.mark()
    draft, seconds = await asked(bench, model, **LONG | {limit: 0.3})

    async with asyncio.timeout(10):
        while not bench.told("left", since):
            await asyncio.sleep(0.01)
    assert draft.error is not None and draft.error.kind == "timeout"
    assert words in draft.error.message
    assert 0.3 <= seconds < 5


async def test_a_slow_reply_within_its_limits_is_whole(bench: Bench) -> None:
    draft, _ = await asked(bench, "drip:0.1", first=5, idle=5, longest=30)

    assert draft.ok


async def test_a_program_that_was_busy_elsewhere_does_not_call_the_server_silent(bench: Bench) -> None:
    engine = OpenAIEngine(url=bench.url, model="drip:0.02", retries=0, first=0.4, idle=0.4)
    await engine.open(Host("far", "openai"))
    request = Request("a", (Stream("far", "?"),), deltas=True)
    pieces = []
    async for _, piece in engine.generate([request]):
        pieces.append(piece)
        time.sleep(0.5)  # the reader stops the whole loop
    await engine.close()

    assert isinstance(pieces[-1], Draft) and pieces[-1].error is None
    assert "".join(piece.text for piece in pieces[:-1] if isinstance(piece, Delta)) == pieces[-1].text


async def test_a_reader_that_takes_its_time_holds_up_nobody(bench: Bench) -> None:
    engine = OpenAIEngine(url=bench.url, model="drip:0.02", retries=0, first=0.4, idle=0.4)
    await engine.open(Host("far", "openai"))
    pieces = []
    async for _, piece in engine.generate([Request("a", (Stream("far", "?"),), deltas=True)]):
        pieces.append(piece)
        await asyncio.sleep(0.6)
    await engine.close()

    assert isinstance(pieces[-1], Draft) and pieces[-1].ok


def test_limits_are_generous_where_nobody_says_otherwise() -> None:
    assert Limits() == Limits(first=120, idle=60, longest=600)
