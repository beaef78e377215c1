"""Deadlines of callers who wait for the same draft, and of those who wait for a turn; on a simulated clock."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

import pytest
from scripted_hosts import Machine, Memory, collect, want

from composer.engines.scripted import ScriptedEngine
from composer.pool.pool import Pool
from composer.types import Caps, Delta, Draft, Failure, Request
from evals.faults.clock import simulate


class Punctual(ScriptedEngine):
    """Writes a word per second where somebody reads along, else all at the end; keeps the deadline it is given."""

    def __init__(self, asked: list[Request]) -> None:
        super().__init__(lambda _: "", caps=Caps(slots=1))
        self.asked = asked

    async def generate(self, requests: Sequence[Request]) -> AsyncIterator[tuple[str, Delta | Draft]]:
        [request] = requests
        self.asked.append(request)
        try:
            async with asyncio.timeout_at(request.deadline):
                for at, word in enumerate(("1", "2", "3", "4")):
                    if request.deltas:
                        yield request.id, Delta(word, at)
                    await asyncio.sleep(1)
        except TimeoutError:
            yield request.id, Draft("", "", "error", error=Failure("timeout", "too late"))
        else:
            yield request.id, Draft("", "1234", "stop")


class Clockwork(Machine):
    """Hosts that are punctual, and what they were asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[Request] = []

    def engine(self, name: str) -> ScriptedEngine:  # type: ignore[override]
        return Punctual(self.asked)


def test_the_deadline_of_a_caller_that_has_gone_is_nobodys() -> None:
    async def day() -> dict[str, Draft]:
        machine = Clockwork()
        pool = Pool(machine, Memory(), memory=250)
        busy = asyncio.create_task(collect(pool, [want("0", "a")]))
        await asyncio.sleep(0.5)
        gone = asyncio.create_task(collect(pool, [want("same", "a", deadline=asyncio.get_running_loop().time() + 5)]))
        await asyncio.sleep(1)
        stays = asyncio.create_task(collect(pool, [want("same", "a")]))
        await asyncio.sleep(1)

        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)

        found = await stays
        await busy
        await pool.close()
        assert machine.asked[-1].deadline is None
        return found

    assert simulate(day())["same"].ok


@pytest.mark.parametrize("joins", [0.5, 6.5], ids=["while it waits", "while it is written"])
def test_who_reads_along_hears_every_piece_of_a_draft_that_another_waits_for(joins: float) -> None:
    async def day() -> list[Delta]:
        pool = Pool(Clockwork(), Memory(), memory=250)
        busy = asyncio.create_task(collect(pool, [want("0", "a")]))
        first = asyncio.create_task(collect(pool, [want("same", "a", deltas=joins > 1)]))
        await asyncio.sleep(joins)

        heard = [piece async for _, piece in pool.submit([want("same", "a", deltas=True)]) if isinstance(piece, Delta)]

        await asyncio.gather(busy, first)
        await pool.close()
        return heard

    heard = simulate(day())

    assert "".join(piece.text for piece in heard) == "1234"
    assert [piece.at for piece in heard] == [sum(len(other.text) for other in heard[:i]) for i in range(len(heard))]


def test_who_waits_hears_at_its_deadline_that_it_is_late_wherever_its_draft_is() -> None:
    class Deaf(ScriptedEngine):
        async def generate(self, requests: Sequence[Request]) -> AsyncIterator[tuple[str, Delta | Draft]]:
            await asyncio.sleep(3600)
            yield requests[0].id, Draft("", "", "stop")

    class Slow(Machine):
        def engine(self, name: str) -> ScriptedEngine:  # type: ignore[override]
            return Deaf(lambda _: "", caps=Caps(slots=1)) if name == "deaf" else super().engine(name)  # type: ignore[return-value]

    class Sleepy(Memory):
        async def get(self, keys: Sequence[str]) -> dict[str, Draft]:
            await asyncio.sleep(0 if len(keys) < 2 else 60)
            return await super().get(keys)

    async def day() -> dict[str, float]:
        loop, told = asyncio.get_running_loop(), dict[str, float]()
        pool = Pool(Slow(opening=60, sizes={"deaf": 0}), Sleepy(), memory=250)

        async def late(what: str, requests: list[Request]) -> None:
            began = loop.time()
            found = await collect(pool, requests)
            told[what] = loop.time() - began
            assert {draft.error.kind for draft in found.values() if draft.error} == {"timeout"}

        deadline = loop.time() + 10
        await asyncio.gather(
            late("while its host opens", [want("1", "a", deadline=deadline)]),
            late("while another host has its turn", [want("2", "b", deadline=deadline)]),
            late("while an engine forgets the time", [want("3", "deaf", deadline=deadline)]),
            late("while the store is asked", [want("4", "c", deadline=deadline), want("5", "c", deadline=deadline)]),
        )
        await pool.close()
        assert asyncio.all_tasks() == {asyncio.current_task()}
        return told

    told = simulate(day())

    assert len(told) == 4 and all(10 <= seconds < 10.25 for seconds in told.values()), told


def test_who_has_more_time_is_asked_for_again_when_the_first_ones_time_is_over() -> None:
    async def day() -> tuple[Draft, Draft]:
        now, machine = asyncio.get_running_loop().time(), Clockwork()
        pool = Pool(machine, Memory(), memory=250)
        hasty = asyncio.create_task(collect(pool, [want("same", "a", deadline=now + 2.5)]))
        await asyncio.sleep(1)

        patient = await collect(pool, [want("same", "a", deadline=now + 60)])

        await pool.close()
        assert [request.deadline for request in machine.asked] == [now + 2.5, now + 60]
        return (await hasty)["same"], patient["same"]

    hasty, patient = simulate(day())

    assert hasty.error is not None and hasty.error.kind == "timeout"
    assert patient.ok


def test_who_wants_the_same_twice_and_goes_after_one_was_late_leaves_nothing_behind() -> None:
    async def day() -> list[tuple[str, str]]:
        machine = Machine(opening=10)
        pool = Pool(machine, Memory(), memory=250)
        soon = asyncio.get_running_loop().time() + 1
        same = want("same", "a")
        stream = pool.submit([replace(same, id="1", deadline=soon), replace(same, id="2")])

        name, late = await anext(stream)
        await stream.aclose()  # type: ignore[attr-defined]

        assert name == "1" and isinstance(late, Draft) and late.error is not None
        await asyncio.sleep(60)
        await pool.close()
        return machine.served

    assert simulate(day()) == [], "nobody wants the other one any more"
