"""Deadlines of callers who wait for the same draft, and of those who wait for a turn; on a simulated clock."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

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
