"""Hosts that prove to be other than they were thought, and copies of a host; on a simulated clock."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from scripted_hosts import Machine, Memory, Watched, collect, want, wants

from composer.engines.scripted import ScriptedEngine
from composer.errors import EngineError
from composer.pool.hosts import Hosts
from composer.pool.ledger import Ledger
from composer.pool.pool import Pool
from composer.pool.queues import HostQueue, Job
from composer.types import AdapterFile, Caps, Draft, Failure, Mix, Request, Stream
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
        machine = Machine(
            caps=Caps(slots=2, adapters="live", adapter_slots=1, mixed_adapters=True, contrast=True), opening=1
        )
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


def test_the_adapter_that_fewest_wait_for_goes_first() -> None:
    gone: list[str] = []

    class Telling(Watched):
        async def detach(self, name: str) -> None:
            gone.append(name)
            await super().detach(name)

    class Live(Machine):
        def engine(self, name: str) -> ScriptedEngine:
            self.engines.append(Telling(self))
            return self.engines[-1]

    async def day() -> Live:
        caps = Caps(slots=1, adapters="live", adapter_slots=2, mixed_adapters=True)
        machine = Live(caps=caps, opening=1, delay=1)
        pool = Pool(machine, Memory(), memory=250)
        await collect(pool, [*wants("a.x", 1), *wants("a.y", 1)])  # both are there
        urgent = [replace(request, priority=9) for request in wants("a.z", 1)]

        await collect(pool, [*wants("a.x", 6)[1:], *urgent])

        await pool.close()
        return machine

    machine = simulate(day())

    assert gone[0] == "a.y", "more wait for a.x"
    assert machine.loads == ["a"]


def test_an_adapter_that_an_engine_refuses_fails_its_own_requests_and_no_others() -> None:
    class Choosy(Watched):
        async def attach(self, adapter: AdapterFile) -> None:
            if adapter.name == "a.bad":
                raise EngineError("no")
            await super().attach(adapter)

    class Live(Machine):
        def engine(self, name: str) -> ScriptedEngine:
            self.engines.append(Choosy(self))
            return self.engines[-1]

    def answer(request: Request) -> str | Failure:
        return Failure("refused", "it changes nothing") if request.streams[0].adapter == "a.bad" else "fine"

    async def day() -> dict[str, Draft]:
        caps = Caps(slots=2, adapters="live", adapter_slots=2, mixed_adapters=True)
        pool = Pool(Live(answer, caps=caps, opening=1, delay=1), Memory(), memory=250)
        await collect(pool, wants("a.x", 1))
        found = await collect(pool, [*wants("a.bad", 2), *wants("a.x", 3)[1:], *wants("a.y", 2)])
        await pool.close()
        return found

    found = simulate(day())

    assert {draft.error.kind for draft in found.values() if draft.error} == {"refused"}
    assert sum(draft.ok for draft in found.values()) == 4
