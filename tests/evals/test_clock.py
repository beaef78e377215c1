"""The simulated clock: nobody waits, everything comes in its order, and who would wait for ever is told."""

from __future__ import annotations

import asyncio
import time

import pytest

from evals.faults.clock import Hanging, SimulatedLoop, simulate


def test_an_hour_takes_no_time_and_wakes_in_order() -> None:
    async def day() -> list[int]:
        woken: list[int] = []

        async def sleeper(hours: int) -> None:
            await asyncio.sleep(3600 * hours)
            woken.append(hours)

        began = asyncio.get_running_loop().time()
        await asyncio.gather(*map(sleeper, (3, 1, 2)))
        assert asyncio.get_running_loop().time() - began == 3 * 3600
        return woken

    began = time.process_time()

    assert simulate(day()) == [1, 2, 3]
    assert time.process_time() - began < 1


def test_a_deadline_is_met_exactly() -> None:
    async def late() -> float:
        began = asyncio.get_running_loop().time()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(30):
                await asyncio.Event().wait()
        return asyncio.get_running_loop().time() - began

    assert simulate(late()) == 30


def test_who_waits_for_ever_is_told_at_once() -> None:
    with pytest.raises(Hanging, match="nothing will ever happen"):
        simulate(asyncio.Event().wait())


def test_who_turns_in_a_circle_is_told() -> None:
    async def circle() -> None:
        while True:
            await asyncio.sleep(0)

    with pytest.raises(Hanging, match="in a circle"):
        simulate(circle())


def test_work_of_threads_is_done_and_takes_simulated_time() -> None:
    async def fetch() -> tuple[int, float]:
        began = asyncio.get_running_loop().time()
        with pytest.raises(ZeroDivisionError):
            await asyncio.to_thread(lambda: 1 // 0)
        return await asyncio.to_thread(lambda: 7), asyncio.get_running_loop().time() - began

    assert simulate(fetch(), SimulatedLoop(lambda: 5.0)) == (7, 10.0)


def test_what_a_loop_would_only_log_is_kept() -> None:
    async def careless() -> None:
        asyncio.get_running_loop().call_soon(lambda: 1 // 0)
        await asyncio.sleep(1)

    loop = SimulatedLoop()
    simulate(careless(), loop)

    assert len(loop.complaints) == 1 and "ZeroDivisionError" in loop.complaints[0]
