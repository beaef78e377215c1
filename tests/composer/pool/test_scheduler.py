"""The scheduler: callers meet in the queues, hosts take turns, and the budget holds."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scripted_hosts import Machine, Memory, collect, want, wants

from composer.engines.scripted import ScriptedEngine
from composer.errors import EngineError, MemoryBudgetError, StoreError
from composer.pool.pool import Pool
from composer.types import Caps, Delta, Draft, Failure, Request


def pool_of(machine: Machine, *, memory: int | None = 250, **options: float) -> Pool:
    return Pool(machine, Memory(), memory=memory, **options)  # type: ignore[arg-type]


# Callers meet


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
