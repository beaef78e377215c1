"""The scheduler: hosts take turns, the memory budget holds, and what can run side by side does."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scripted_hosts import Machine, collect, pool_of, want, wants

from composer.errors import MemoryBudgetError
from composer.types import Caps, Draft, Request

# Turns


async def test_a_file_costs_one_load_per_host_however_little_room_there_is() -> None:
    machine = Machine()
    pool = pool_of(machine, memory=100)

    await collect(pool, [want(f"{i} {host}", host) for i in range(20) for host in "abcde"])
    await pool.close()

    assert Counter(machine.loads) == Counter("abcde")


async def test_no_request_starves_while_another_host_is_kept_busy() -> None:
    machine = Machine(delay=0.002, sizes={"cold": 100})
    pool = pool_of(machine, memory=100, patience=0.05)
    stop = asyncio.Event()

    async def hot(name: int) -> None:
        count = 0
        while not stop.is_set():
            await collect(pool, [want(f"{name} {count}", "hot")])
            count += 1

    busy = [asyncio.create_task(hot(name)) for name in range(8)]
    await asyncio.sleep(0.02)

    async with asyncio.timeout(2):
        await collect(pool, [want("please", "cold")])

    stop.set()
    await asyncio.gather(*busy)
    await pool.close()
    assert len(machine.loads) >= 2


async def test_a_single_question_waits_for_the_patience_and_not_for_a_whole_file() -> None:
    machine = Machine(delay=0.005)
    pool = pool_of(machine, memory=100, patience=0.1)
    file = asyncio.create_task(collect(pool, wants("a", 400)))
    await asyncio.sleep(0.15)

    began = time.monotonic()
    await collect(pool, [want("single", "b")])

    assert time.monotonic() - began < 0.5 and not file.done()
    file.cancel()
    await asyncio.gather(file, return_exceptions=True)
    await pool.close()


async def test_no_host_is_opened_for_what_comes_too_late() -> None:
    machine = Machine()
    pool = pool_of(machine)

    found = await collect(pool, [want("late", "a", deadline=time.monotonic() - 1)])
    await pool.close()

    assert found["late"].error is not None and found["late"].error.kind == "timeout"
    assert machine.loads == []


async def test_a_near_deadline_cuts_another_hosts_turn() -> None:
    machine = Machine(delay=0.01)
    pool = pool_of(machine, memory=100)
    long = asyncio.create_task(collect(pool, wants("a", 60)))
    await asyncio.sleep(0.03)

    found = await collect(pool, [want("now", "b", deadline=time.monotonic() + 1)])

    assert found["now"].ok and not long.done()
    await long
    await pool.close()


async def test_what_takes_no_memory_here_needs_no_turn() -> None:
    machine = Machine(delay=0.01, sizes={"remote": 0, "far": 0})
    pool = pool_of(machine, memory=100)
    local = asyncio.create_task(collect(pool, wants("a", 40)))
    await asyncio.sleep(0.02)

    await collect(pool, [*wants("remote", 3), *wants("far", 3)])

    assert not local.done()
    await local
    await pool.close()


async def test_early_stopping_never_adds_loads() -> None:
    async def loads(wanted: Callable[[set[str]], Callable[[Request], bool]]) -> list[str]:
        machine = Machine(delay=0.001, opening=0.002)
        pool = pool_of(machine, memory=200)
        landed: set[str] = set()
        requests = [want(f"{question} {host}", host) for question in range(10) for host in "abcd"]
        async for name, piece in pool.submit(requests, wanted(landed)):
            if isinstance(piece, Draft) and piece.ok:
                landed.add(name.split()[0])
        await pool.close()
        return machine.loads

    everything = await loads(lambda _: lambda _: True)
    until_first = await loads(lambda landed: lambda request: request.id.split()[0] not in landed)

    assert sorted(everything) == list("abcd")
    assert len(until_first) <= 2, "the first host's answers settle every question; one more may be opened ahead"


async def test_a_host_of_which_nothing_is_wanted_any_more_is_not_opened() -> None:
    machine = Machine()
    pool = pool_of(machine)

    found = await collect(pool, [*wants("a", 3), *wants("b", 3)], still_wanted=lambda r: r.arm == "a")
    await pool.close()

    assert machine.loads == ["a"]
    assert [found[f"b 00{i}"].stop for i in range(3)] == ["cancelled"] * 3


# Memory


async def test_the_next_host_is_opened_while_one_computes() -> None:
    machine = Machine(delay=0.01, opening=0.02)
    pool = pool_of(machine, memory=200)

    await collect(pool, [*wants("a", 8), *wants("b", 4)])

    assert pool.ledger.ahead == 1
    assert machine.served.index(("b", "b 000")) == 8
    await pool.close()


async def test_nothing_is_opened_ahead_where_it_does_not_fit() -> None:
    machine = Machine(delay=0.005, opening=0.01)
    pool = pool_of(machine, memory=150)

    await collect(pool, [*wants("a", 8), *wants("b", 4)])
    await pool.close()

    assert (pool.ledger.ahead, machine.most) == (0, 100)


async def test_a_wrong_guess_delays_nobody() -> None:
    machine = Machine(delay=0.05, opening=0.01)
    pool = pool_of(machine, memory=200)
    first = asyncio.create_task(collect(pool, wants("a", 12)))
    await asyncio.sleep(0.05)
    machine.opening = 5.0
    guess = asyncio.create_task(collect(pool, wants("b", 1)))
    while machine.loads != ["a", "b"]:
        await asyncio.sleep(0.001)
    assert pool.status().hosts["a"].running, "it is opened while a computes"
    machine.opening = 0.01

    async with asyncio.timeout(2):
        await collect(pool, [want("now", "c", priority=1)])

    guess.cancel()
    await asyncio.gather(first, guess, return_exceptions=True)
    await pool.close()
    assert machine.most <= 200


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    sizes=st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 100), min_size=6),
    work=st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 2)), min_size=1, max_size=40),
    memory=st.integers(100, 260),
    callers=st.integers(1, 4),
)
async def test_the_budget_holds_and_everybody_is_served(
    sizes: dict[str, int], work: list[tuple[str, int]], memory: int, callers: int
) -> None:
    machine = Machine(sizes=sizes, opening=0.0005)
    pool = pool_of(machine, memory=memory)
    requests = [want(f"{place}", host, priority=priority) for place, (host, priority) in enumerate(work)]

    async with asyncio.timeout(20):
        found = await asyncio.gather(*(collect(pool, requests[caller::callers]) for caller in range(callers)))
    await pool.close()

    assert sum(map(len, found)) == len(requests)
    assert all(draft.ok for drafts in found for draft in drafts.values())
    assert machine.most <= memory
    assert not machine.held and not machine.flying


async def test_what_runs_larger_than_estimated_is_known_from_then_on() -> None:
    machine = Machine(sizes={"a": 100, "b": 100}, real={"b": 180})
    pool = pool_of(machine, memory=250)

    for round in range(2):
        await collect(pool, [want(f"a {round}", "a")])
        await collect(pool, [want(f"b {round}", "b")])

    assert machine.most == 280, "only before anybody could know"
    machine.most = 0
    await collect(pool, [want("a 9", "a")])
    await collect(pool, [want("b 9", "b")])
    assert machine.most <= 250
    await pool.close()


async def test_what_proves_larger_than_the_whole_budget_is_closed_and_refused_by_name() -> None:
    machine = Machine(real={"a": 300})
    pool = pool_of(machine, memory=250)

    found = await collect(pool, [want("1", "a"), want("2", "b")])

    assert found["1"].error is not None and "'a' needs about" in found["1"].error.message
    assert all(word in found["1"].error.message for word in ("`context`", "quantisation", "--memory"))
    assert found["2"].ok and machine.served == [("b", "2")]
    with pytest.raises(MemoryBudgetError):
        await collect(pool, [want("3", "a")])
    await pool.close()


# More than one


async def test_another_copy_is_opened_only_where_its_load_is_less_than_the_time_it_saves() -> None:
    async def loads(n: int, opening: float) -> list[str]:
        machine = Machine(delay=0.01, opening=opening, copies=2)
        pool = pool_of(machine, at_once=2)
        await collect(pool, wants("a", 4))  # now it is known how fast it is
        await collect(pool, [want(f"more {i}", "a") for i in range(n)])
        await pool.close()
        return machine.loads

    assert await loads(40, opening=0.001) == ["a", "a"]
    assert await loads(2, opening=0.5) == ["a"]


async def test_two_hosts_compute_at_once_on_a_machine_that_can() -> None:
    machine = Machine(delay=0.01, caps=Caps(slots=2))
    pool = pool_of(machine, at_once=2)

    await collect(pool, [*wants("a", 6), *wants("b", 6)])
    await pool.close()

    assert machine.at_once == 4


async def test_adapters_are_attached_to_an_engine_that_takes_them_while_it_runs() -> None:
    machine = Machine(caps=Caps(slots=2, adapters="live", adapter_slots=2, mixed_adapters=True))
    pool = pool_of(machine)

    for name in ("x", "y", "z", "x"):
        found = await collect(pool, [want(f"{name} {len(machine.served)}", f"a.{name}")])
        assert all(draft.ok for draft in found.values())
    await pool.close()

    assert machine.loads == ["a"]
