"""Random days of a pool: callers come, leave, change their minds, hosts die; nothing hangs, is lost, or is told twice."""

from __future__ import annotations

import asyncio
import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scripted_hosts import Machine, Memory, want

from composer.pool.pool import Pool
from composer.types import Caps, Draft, Failure, Request

EXPERTS = ["a", "a.x", "a.y", "b", "b.x", "c", "far"]


async def day(seed: int, callers: int) -> None:
    """One seeded schedule, with everything that may go wrong in it."""
    chance = random.Random(seed)
    deadly, failing = chance.choice([0.0, 0.0, 0.1]), chance.choice([0.0, 0.1])

    def answer(request: Request) -> str | Draft | Failure:
        if chance.random() < deadly:
            return Failure("host_died", "gone")
        return Failure("bad_response", "noise") if chance.random() < failing else request.id

    machine = Machine(
        answer,
        sizes={"a": 100, "b": 60, "c": 30, "far": 0},
        caps=Caps(slots=chance.randint(1, 4), mixed_adapters=chance.random() < 0.3),
        delay=chance.choice([0.0, 0.001]),
        opening=chance.choice([0.0, 0.002]),
        copies=chance.randint(1, 2),
    )
    memory = chance.choice([100, 130, 190, 300])
    pool = Pool(machine, Memory(), memory=memory, at_once=chance.randint(1, 2), patience=chance.choice([0.01, 30.0]))

    async def caller(name: int) -> None:
        await asyncio.sleep(chance.random() * 0.02)
        requests = [
            want(f"{name} {place} {chance.randint(0, 30)}", chance.choice(EXPERTS), priority=chance.choice([0, 0, 1]))
            for place in range(chance.randint(1, 15))
        ]
        shared = [want(f"shared {place}", chance.choice(EXPERTS)) for place in range(chance.randint(0, 3))]
        asked = {request.id: request for request in [*requests, *shared]}
        fickle, leaves = chance.random() < 0.3, chance.random() < 0.3
        heard: set[str] = set()
        stream = pool.submit(list(asked.values()), lambda _: not fickle or chance.random() < 0.9)
        async for request, piece in stream:
            assert isinstance(piece, Draft) and request not in heard
            assert not piece.ok or piece.text.split()[0] in (str(name), "shared")
            heard.add(request)
            if leaves and chance.random() < 0.2:
                await stream.aclose()  # type: ignore[attr-defined]
                return
        assert heard == set(asked)

    async with asyncio.timeout(20):
        await asyncio.gather(*(caller(name) for name in range(callers)))
        await pool.close()
    assert machine.most <= memory
    assert not machine.held and not machine.flying
    assert asyncio.all_tasks() == {asyncio.current_task()}


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 2**32), st.integers(1, 6))
async def test_whatever_happens_everybody_is_told_once(seed: int, callers: int) -> None:
    await day(seed, callers)


@pytest.mark.slow
async def test_whatever_happens_for_long() -> None:
    for seed in range(3000):
        await day(seed, 1 + seed % 8)


@pytest.mark.slow
async def test_nothing_is_asked_of_a_host_that_is_being_opened_again_with_other_adapters() -> None:
    for _ in range(600):  # it was one in a hundred
        await day(2354, 3)
