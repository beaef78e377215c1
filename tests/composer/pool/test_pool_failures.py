"""A pool when something goes wrong: hosts die or do not start, engines, stores and callers raise."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest
from scripted_hosts import Machine, Memory, collect, pool_of, want, wants

from composer.errors import EngineError, StoreError
from composer.pool.pool import Pool
from composer.types import Caps, Draft, Failure, Request

# Deaths


async def test_a_killed_host_costs_its_requests_in_flight_and_is_opened_again() -> None:
    kills = iter([False] * 5 + [True, True])
    machine = Machine(lambda _: Failure("host_died", "gone") if next(kills, False) else "fine", delay=0.002)
    pool = pool_of(machine)

    found = await collect(pool, [*wants("a", 12), *wants("b", 4)])
    await pool.close()

    assert all(draft.ok for draft in found.values())
    assert machine.loads.count("a") == 2 and len(machine.served) == 18


async def test_a_host_that_always_dies_fails_its_own_requests_after_one_more_opening() -> None:
    machine = Machine(lambda r: Failure("host_died", "gone") if r.arm == "a" else "fine")
    pool = pool_of(machine, memory=100)

    found = await collect(pool, [*wants("a", 12), *wants("b", 4)])
    await pool.close()

    kinds = {name: draft.error.kind if draft.error else "" for name, draft in found.items()}
    assert {kinds[f"a {i:03}"] for i in range(12)} == {"host_died"}
    assert {kinds[f"b {i:03}"] for i in range(4)} == {""}
    assert Counter(machine.loads) == {"a": 2, "b": 1}


async def test_a_request_that_kills_its_host_twice_fails_and_the_others_are_served() -> None:
    machine = Machine(
        lambda r: Failure("host_died", "gone") if r.id in ("a 003", "a 009") else "fine", caps=Caps(slots=1)
    )
    pool = pool_of(machine)

    found = await collect(pool, wants("a", 12))
    await pool.close()

    assert sorted(name for name, draft in found.items() if not draft.ok) == ["a 003", "a 009"]


# What goes wrong elsewhere


async def test_what_a_callers_predicate_raises_reaches_that_caller_alone() -> None:
    def broken(request: Request) -> bool:
        raise ZeroDivisionError

    pool = pool_of(Machine(delay=0.002))
    other = asyncio.create_task(collect(pool, wants("a", 5)))

    with pytest.raises(ZeroDivisionError):
        await collect(pool, wants("b", 3), still_wanted=broken)

    assert len(await other) == 5
    await pool.close()


async def test_what_the_store_cannot_keep_is_not_given_out() -> None:
    class Full(Memory):
        async def put(self, draft: Draft, request: Request) -> None:
            raise StoreError("the disk is full")

    pool = Pool(Machine(), Full(), memory=250)

    with pytest.raises(StoreError):
        await collect(pool, wants("a", 3))
    await pool.close()


async def test_an_engine_that_raises_costs_the_request_and_nothing_hangs() -> None:
    def answer(request: Request) -> str:
        if request.id == "a 001":
            raise ValueError("a bug of the engine")
        return "fine"

    pool = pool_of(Machine(answer))
    other = asyncio.create_task(collect(pool, [want("other", "a")]))

    with pytest.raises(ValueError, match="a bug of the engine"):
        await collect(pool, wants("a", 3))

    assert (await other)["other"].ok
    await pool.close()


async def test_a_host_that_does_not_start_says_so_to_everybody_who_waits_for_it() -> None:
    class Broken(Machine):
        def engine(self, name: str) -> object:  # type: ignore[override]
            raise EngineError("no such library")

    pool = pool_of(Broken())

    found = await asyncio.gather(collect(pool, wants("a", 2)), collect(pool, wants("a", 3)))

    assert {draft.error.kind for drafts in found for draft in drafts.values() if draft.error} == {"host_failed"}
    await pool.close()


async def test_a_prompt_that_is_too_long_is_told_with_the_row_that_says_so() -> None:
    pool = pool_of(Machine(lambda r: Failure("too_long" if r.arm == "a" else "refused", "no room")))

    found = await collect(pool, [*wants("a", 1), *wants("b", 1)])
    await pool.close()

    told = {name: draft.error.message if draft.error else "" for name, draft in found.items()}
    first, row = told["a 000"].splitlines()
    assert (first, told["b 000"]) == ("no room", "no room"), "the first line is all that callers of a server are told"
    assert "raise `context` at experts.yaml:1 (models.a)" in row
