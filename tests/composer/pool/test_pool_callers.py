"""Callers of a pool: they meet in its queues, go in order, and withdraw only what nobody else wants."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence

import pytest
from scripted_hosts import Machine, Memory, collect, pool_of, want, wants

from composer.engines.scripted import ScriptedEngine
from composer.errors import EngineError, MemoryBudgetError
from composer.pool.pool import Pool
from composer.types import Caps, Delta, Draft, Request


async def test_what_arrives_while_a_host_is_open_joins_it() -> None:
    machine = Machine(delay=0.01)
    pool = pool_of(machine)
    first = asyncio.create_task(collect(pool, wants("a", 20)))
    await asyncio.sleep(0.02)

    await collect(pool, [want("!", "a")])

    assert not first.done(), "the second caller has not waited for the first"
    await first
    await pool.close()
    assert machine.loads == ["a"]


async def test_every_free_slot_takes_the_next_and_no_more_run_than_there_are_slots() -> None:
    machine = Machine(delay=0.002, caps=Caps(slots=3))
    pool = pool_of(machine)

    await asyncio.gather(*(collect(pool, [request]) for request in wants("a", 12)))
    await pool.close()

    assert machine.at_once == 3


async def test_adapters_share_no_batch_unless_the_engine_can() -> None:
    requests = [*wants("a.x", 6), *wants("a.y", 6), *wants("a", 6)]

    for mixed in (False, True):
        machine = Machine(delay=0.002, caps=Caps(slots=4, mixed_adapters=mixed))
        pool = pool_of(machine)
        await collect(pool, requests)
        await pool.close()

        assert machine.loads == ["a"]
        assert any(len(mix) > 1 for mix in machine.mixes) == mixed


async def test_a_lane_goes_in_order_of_priority_deadline_and_text() -> None:
    machine = Machine(caps=Caps(slots=1))
    pool = pool_of(machine)
    later = time.monotonic() + 900

    await collect(
        pool,
        [
            want("b", "a"),
            want("a", "a"),
            want("late", "a", deadline=later + 1),
            want("soon", "a", deadline=later),
            want("top", "a", priority=1),
        ],
    )
    await pool.close()

    assert [prompt for _, prompt in machine.served] == ["top", "soon", "late", "a", "b"]


async def test_in_a_lane_what_has_waited_too_long_gets_every_second_place() -> None:
    machine = Machine(delay=0.004, caps=Caps(slots=1))
    pool = pool_of(machine, patience=0.02)
    old = asyncio.create_task(collect(pool, wants("a", 20)))
    await asyncio.sleep(0.06)

    await collect(pool, [want(f"urgent {place}", "a", priority=1) for place in range(6)])
    await old
    await pool.close()

    prompts = [prompt.split()[0] for _, prompt in machine.served]
    first = prompts.index("urgent")
    assert prompts[first : first + 11].count("urgent") in (5, 6), "they take turns"


async def test_a_waiting_job_takes_the_urgency_of_whoever_wants_it_most() -> None:
    machine = Machine(delay=0.005, caps=Caps(slots=1))
    pool = pool_of(machine)
    patient = asyncio.create_task(collect(pool, wants("a", 20)))
    await asyncio.sleep(0.01)

    found = await collect(pool, [want("a 019", "a", priority=1)])

    assert found["a 019"].cached, "paid by whoever asked first"
    assert len(machine.served) < 10
    await patient
    await pool.close()


async def test_closing_withdraws_what_waits_and_what_is_under_way() -> None:
    machine = Machine(delay=0.01)
    pool = pool_of(machine)
    stream = pool.submit(wants("a", 50))
    await anext(stream)

    await stream.aclose()  # type: ignore[attr-defined]
    assert machine.flying == []
    asked = len(machine.served)
    await asyncio.sleep(0.03)

    assert len(machine.served) == asked < 10
    await collect(pool, [want("other", "a")])
    await pool.close()


async def test_closing_takes_nothing_from_another_caller() -> None:
    machine = Machine(delay=0.005)
    pool = pool_of(machine)
    stream = pool.submit(wants("a", 10))
    await anext(stream)
    other = asyncio.create_task(collect(pool, wants("a", 10)))
    await asyncio.sleep(0)
    await asyncio.sleep(0)

    await stream.aclose()  # type: ignore[attr-defined]

    assert len(await other) == 10
    assert max(Counter(machine.served).values()) == 1, "nothing was asked twice"
    await pool.close()


async def test_a_caller_that_leaves_while_the_store_is_asked_leaves_its_work_to_the_others() -> None:
    class Slow(Memory):
        async def get(self, keys: list[str]) -> dict[str, Draft]:  # type: ignore[override]
            await asyncio.sleep(0.01)
            return await super().get(keys)

    pool = Pool(Machine(), Slow(), memory=250)
    stream = pool.submit(wants("a", 3))
    first = asyncio.create_task(anext(stream))
    await asyncio.sleep(0.005)
    other = asyncio.create_task(collect(pool, wants("a", 3)))
    await asyncio.sleep(0)
    await asyncio.sleep(0)

    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    await stream.aclose()  # type: ignore[attr-defined]

    assert len(await other) == 3
    await pool.close()


async def test_a_caller_whose_other_host_cannot_fit_takes_nothing_from_another() -> None:
    machine = Machine(sizes={"huge": 900})
    pool = pool_of(machine)

    failing, other = await asyncio.gather(
        collect(pool, [*wants("a", 3), want("1", "huge")]), collect(pool, wants("a", 3)), return_exceptions=True
    )

    assert isinstance(failing, MemoryBudgetError) and not isinstance(other, BaseException)
    assert len(other) == 3 and len(machine.served) == 3
    await pool.close()


async def test_who_joins_a_draft_that_is_being_written_hears_its_beginning() -> None:
    class Writing(Machine):
        def engine(self, name: str) -> ScriptedEngine:  # type: ignore[override]
            class Engine(ScriptedEngine):
                async def generate(self, requests: Sequence[Request]) -> AsyncIterator[tuple[str, Delta | Draft]]:
                    for word in ("one ", "two ", "three"):
                        yield requests[0].id, Delta(word)
                        await asyncio.sleep(0.02)
                    yield requests[0].id, Draft("", "one two three", "stop")

            return Engine(lambda _: "")

    pool = pool_of(Writing())
    first = asyncio.create_task(collect(pool, [want("1", "a")]))
    await asyncio.sleep(0.03)

    heard = [piece.text async for _, piece in pool.submit([want("1", "a")])]

    assert "".join(heard[:-1]) == heard[-1] == "one two three"
    await first
    await pool.close()


async def test_a_slow_store_holds_up_no_slot() -> None:
    pool = Pool(Machine(delay=0.001), Memory(slow=0.05), memory=250)

    began = time.monotonic()
    await collect(pool, wants("a", 60))

    assert time.monotonic() - began < 0.5, "one after the other they would take 1.5 s"
    await pool.close()


async def test_a_closed_pool_says_so() -> None:
    class Stuck(Memory):
        async def get(self, keys: Sequence[str]) -> dict[str, Draft]:
            await asyncio.sleep(60)
            return {}

    pool = Pool(Machine(), Stuck(), memory=250)
    waiting = asyncio.create_task(collect(pool, wants("a", 3)))
    await asyncio.sleep(0.01)

    await pool.close()

    with pytest.raises(EngineError, match="the pool is closed"):
        await waiting
    with pytest.raises(EngineError, match="the pool is closed"):
        await collect(pool, wants("a", 3))


async def test_what_waits_in_a_queue_is_no_task() -> None:
    pool = pool_of(Machine(delay=0.001))
    stream = pool.submit(wants("a", 3000))
    await anext(stream)

    assert pool.status().hosts["a"].queued > 2900
    assert len(asyncio.all_tasks()) < 20
    await stream.aclose()  # type: ignore[attr-defined]
    await pool.close()


async def test_closing_the_pool_tells_whoever_waits() -> None:
    pool = pool_of(Machine(delay=0.01))
    waiting = asyncio.create_task(collect(pool, wants("a", 30)))
    await asyncio.sleep(0.02)

    await pool.close()

    assert "cancelled" in {draft.stop for draft in (await waiting).values()}
