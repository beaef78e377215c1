"""Hosts that prove to be other than they were thought, and copies of a host; on a simulated clock."""

from __future__ import annotations

import asyncio

import pytest
from scripted_hosts import Machine, Memory, Watched, collect, want, wants

from composer.engines.scripted import ScriptedEngine
from composer.pool.hosts import Hosts
from composer.pool.ledger import Ledger
from composer.pool.pool import Pool
from composer.pool.queues import HostQueue, Job
from composer.types import Caps, Draft, Mix, Request, Stream
from evals.faults.clock import simulate


def test_a_host_that_is_too_large_beside_those_at_work_waits_for_them() -> None:
    async def day() -> tuple[Machine, dict[str, Draft]]:
        machine = Machine(sizes={"a": 100, "b": 100, "c": 30}, real={"b": 190}, opening=1, delay=1)
        pool = Pool(machine, Memory(), memory=300, at_once=3)
        other = asyncio.create_task(collect(pool, wants("a", 20)))
        await asyncio.sleep(1.5)
        beside = asyncio.create_task(collect(pool, wants("c", 1)))

        found = await collect(pool, [want("1", "b")])

        await asyncio.gather(other, beside)
        await pool.close()
        return machine, found

    machine, found = simulate(day())

    assert found["1"].ok, found["1"].error
    assert machine.loads.count("b") == 2, "closed again, and opened when there was room"


def test_nothing_is_asked_of_a_host_that_is_being_opened_again_with_other_adapters() -> None:
    async def day() -> dict[str, Draft]:
        pool = Pool(Machine(opening=1, delay=1), Memory(), memory=250)
        before = asyncio.create_task(collect(pool, [want("1", "a.x")]))
        await asyncio.sleep(1.5)
        leaves = asyncio.create_task(collect(pool, [want("2", "a.y")]))  # at 2 s it is closed, and opened for that
        await asyncio.sleep(1)
        leaves.cancel()

        found = await collect(pool, [want("3", "a.x")])

        await asyncio.gather(before, leaves, return_exceptions=True)
        await pool.close()
        return found

    assert simulate(day())["3"].ok


def test_a_copy_begins_no_other_lane_while_it_works_on_one() -> None:
    queue = HostQueue("a", patience=30, lead=5)

    def push(name: str, expert: str, priority: int = 0) -> None:
        request = want(name, expert, priority=priority)
        queue.push(Job(name, "a", request), request)

    push("1", "a.x")
    push("2", "a.x")
    first = queue.take(0, has={"a.x"}, flying=None, mixed=False)
    push("urgent", "a.y", priority=1)

    assert first is not None and first.key == "1"
    assert queue.next_adapters(0) == {"a.y"}, "another copy is opened for it"
    assert queue.take(0, has={"a.x", "a.y"}, flying="a.x", mixed=False) is None
    taken = queue.take(0, has={"a.x", "a.y"}, flying=None, mixed=False)
    assert taken is not None and taken.key == "urgent"


def test_nothing_waits_in_a_pool_that_is_closed() -> None:
    async def day() -> None:
        pool = Pool(Machine(opening=1, delay=1), Memory(), memory=250)
        waiting = asyncio.create_task(collect(pool, [*wants("a", 20), *wants("b", 20)]))
        await asyncio.sleep(2.5)

        await pool.close()

        await waiting
        assert [host.queued for host in pool.status().hosts.values()] == [0, 0]

    simulate(day())


def test_what_needs_more_adapters_at_once_than_an_engine_holds_fails_and_the_rest_is_served() -> None:
    async def day() -> dict[str, Draft]:
        machine = Machine(caps=Caps(slots=2, adapters="live", adapter_slots=1, mixed_adapters=True), opening=1)
        pool = Pool(machine, Memory(), memory=250)
        streams = (Stream("a.x", "both", "a.x"), Stream("a.y", "both", "a.y", -0.5))

        found = await collect(pool, [Request("both", streams, mix=Mix()), *wants("a.x", 2), *wants("a.y", 2)])

        await pool.close()
        return found

    found = simulate(day())

    assert {name for name, draft in found.items() if not draft.ok} == {"both"}
    assert found["both"].error is not None and found["both"].error.kind == "unsupported"


def test_a_host_that_ends_is_waited_for_however_often_whoever_waits_is_cancelled() -> None:
    ended: list[str] = []

    class Heavy(Watched):
        async def close(self) -> None:
            await asyncio.sleep(5)
            ended.append("whole")
            await super().close()

    class Slow(Machine):
        def engine(self, name: str) -> ScriptedEngine:  # type: ignore[override]
            return Heavy(self)

    async def day() -> None:
        hosts = Hosts(Slow(opening=60), Ledger(), memory=250)
        opening = asyncio.create_task(hosts.open("a", (), (), upcoming=(), busy=()))
        for _ in range(3):
            await asyncio.sleep(1)
            opening.cancel()

        with pytest.raises(asyncio.CancelledError):
            await opening

    simulate(day())

    assert ended == ["whole"]
