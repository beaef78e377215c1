"""Hosts that prove to be other than they were thought; on a simulated clock."""

from __future__ import annotations

import asyncio

from scripted_hosts import Machine, Memory, collect, want, wants

from composer.pool.pool import Pool
from composer.types import Draft
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
