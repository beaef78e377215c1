"""A batch in slots: order, width, deadlines, and an end that leaves nothing running."""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing

import pytest

from composer.engines.common import in_slots, prompt_text
from composer.types import Draft, Message, Request, Stream


def requests(n: int) -> list[Request]:
    return [Request(str(i), (Stream("someone", f"prompt {i}"),)) for i in range(n)]


async def test_requests_start_in_order_and_never_more_than_the_slots() -> None:
    started: list[str] = []
    running, most = 0, 0

    async def answer(request: Request) -> Draft:
        nonlocal running, most
        started.append(request.id)
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.001 * (7 - int(request.id) % 7))
        running -= 1
        return Draft("", request.id, "stop")

    landed = [(name, draft.text) async for name, draft in in_slots(requests(20), answer, 3)]

    assert started == [str(i) for i in range(20)]
    assert most == 3
    assert sorted(landed, key=lambda pair: int(pair[0])) == [(str(i), str(i)) for i in range(20)]


async def test_a_slow_reader_leaves_no_slot_empty() -> None:
    started: list[str] = []

    async def answer(request: Request) -> Draft:
        started.append(request.id)
        return Draft("", "", "stop")

    async with aclosing(in_slots(requests(4), answer, 1)) as drafts:
        await anext(drafts)
        await asyncio.sleep(0.01)

        assert started == ["0", "1"]


async def test_closing_early_ends_what_runs_before_it_returns() -> None:
    started: list[str] = []
    ended: list[str] = []

    async def answer(request: Request) -> Draft:
        started.append(request.id)
        try:
            await asyncio.sleep(0 if request.id == "0" else 60)
        finally:
            ended.append(request.id)
        return Draft("", "", "stop")

    async with aclosing(in_slots(requests(5), answer, 3)) as drafts:
        await anext(drafts)

    assert sorted(ended) == started == ["0", "1", "2"]


async def test_what_is_past_its_deadline_is_not_started() -> None:
    async def answer(request: Request) -> Draft:
        raise AssertionError("it was asked")

    late = Request("late", (Stream("someone", "?"),), deadline=time.monotonic() - 1)

    [(name, draft)] = [pair async for pair in in_slots([late], answer, 1)]

    assert name == "late"
    assert draft.error is not None and draft.error.kind == "timeout"


async def test_a_mistake_of_ours_is_raised_and_ends_the_others() -> None:
    ended = asyncio.Event()

    async def answer(request: Request) -> Draft:
        if request.id == "0":
            await asyncio.sleep(0.01)
            raise ZeroDivisionError
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()
        return Draft("", "", "stop")

    with pytest.raises(ZeroDivisionError):
        async for _ in in_slots(requests(2), answer, 2):
            pass

    assert ended.is_set()


def test_the_text_of_a_prompt_leaves_out_the_speakers() -> None:
    assert prompt_text("Once") == "Once"
    assert prompt_text((Message("system", "Be brief."), Message("user", "Hi"))) == "Be brief.\nHi"
