"""The pool: store first, one flight per key, each host opened once, nothing lost."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
from scripted_hosts import MIB, Resolver, Sized, ask, collect

from composer.engines.base import Engine
from composer.errors import EngineError, MemoryBudgetError
from composer.pool.pool import Pool
from composer.registry.memory import available_memory
from composer.store import DraftStore
from composer.types import Draft, Failure, Host, Request


@pytest.fixture
async def store(tmp_path: Path) -> DraftStore:
    return DraftStore.open(tmp_path / "drafts.sqlite")


async def test_every_request_gets_one_draft_with_its_key(store: DraftStore) -> None:
    async with store:
        pool = Pool(Resolver(), store)

        found = await collect(pool, [ask("1", "sums", "a"), ask("2", "base", "b")])
        await pool.close()

    assert {name: draft.text for name, draft in found.items()} == {"1": "a!", "2": "b!"}
    assert all(len(draft.key) == 64 and not draft.cached for draft in found.values())


async def test_each_host_is_opened_once_however_many_want_it(store: DraftStore) -> None:
    resolver = Resolver()
    async with store:
        pool = Pool(resolver, store)

        await collect(pool, [ask(str(i), ("sums", "law", "sorts", "base")[i % 4], str(i)) for i in range(40)])
        await pool.close()

    assert resolver.opened == [("small", ("sorts", "sums")), ("large", ())]
    assert pool.ledger.loads == 2


async def test_what_is_in_the_store_opens_no_host(store: DraftStore) -> None:
    async with store:
        first = Pool(Resolver(), store)
        before = await collect(first, [ask("1", "sums", "a")])
        await first.close()
        resolver = Resolver()
        pool = Pool(resolver, store)

        after = await collect(pool, [ask("x", "sums", "a")])

    assert (after["x"].text, after["x"].cached, after["x"].key) == ("a!", True, before["1"].key)
    assert resolver.engines == []
    assert (pool.ledger.cached, pool.ledger.loads, pool.ledger.tokens_out) == (1, 0, 0)


async def test_equal_requests_are_asked_once(store: DraftStore) -> None:
    resolver = Resolver()
    async with store:
        pool = Pool(resolver, store)

        found = await collect(pool, [ask("1", "sums", "a"), ask("2", "sums", "a")])
        await pool.close()

    assert [len(batch) for batch in resolver.batches()] == [1]
    assert sorted(draft.cached for draft in found.values()) == [False, True]


@pytest.mark.parametrize("together", [True, False])
async def test_a_reply_that_ends_at_its_bound_is_whole_for_those_alone_who_mean_it_to(
    store: DraftStore, together: bool
) -> None:
    plain = ask("1", "sums", "a")
    bounded = replace(plain, id="2", bounded=True)
    resolver = Resolver(lambda _: Draft("", "A, be", "length"))
    async with store:
        pool = Pool(resolver, store)
        rounds = [[bounded, plain], [bounded, plain]] if together else [[plain], [bounded], [plain], [bounded]]
        found = [draft for own in rounds for draft in (await collect(pool, own)).items()]
        await pool.close()

    assert {(name, draft.stop, draft.ok) for name, draft in found} == {("1", "length", False), ("2", "bound", True)}
    assert len({draft.key for _, draft in found}) == 1
    assert [draft.cached for name, draft in found if name == "2"] == [False, True]
    assert sum(map(len, resolver.batches())) == (1 if together else 3)
    assert pool.ledger.failed == 2


async def test_two_callers_share_one_flight(store: DraftStore) -> None:
    resolver = Resolver()
    async with store:
        pool = Pool(resolver, store)

        one, two = await asyncio.gather(
            collect(pool, [ask("1", "sums", "a")]), collect(pool, [ask("2", "sums", "a"), ask("3", "sums", "b")])
        )
        await pool.close()

    assert (one["1"].text, two["2"].text, two["3"].text) == ("a!", "a!", "b!")
    assert sum(len(batch) for batch in resolver.batches()) == 2


async def test_the_memory_budget_bounds_what_is_resident(store: DraftStore) -> None:
    resolver = Resolver()
    async with store:
        pool = Pool(resolver, store, memory=250 * MIB)

        await collect(pool, [ask(expert, expert, "a") for expert in ("base", "law", "tax")])

        assert [engine.closes for engine in resolver.engines] == [1, 0, 0]
        await pool.close()
    assert all(engine.closes == 1 for engine in resolver.engines)


async def test_what_can_never_fit_is_refused_before_anything_opens(store: DraftStore) -> None:
    resolver = Resolver()
    async with store:
        pool = Pool(resolver, store, memory=50 * MIB)

        with pytest.raises(MemoryBudgetError, match="'large' needs about 100 MiB"):
            await collect(pool, [ask("1", "law", "a")])

    assert resolver.opened == []


async def test_what_proves_too_large_once_it_is_here_is_refused_before_anything_opens(store: DraftStore) -> None:
    resolver = Sized({"small": 100, "large": 300}, here=False)
    async with store:
        pool = Pool(resolver, store, memory=250 * MIB)

        with pytest.raises(MemoryBudgetError, match="'large' needs about 300 MiB"):
            await collect(pool, [ask("1", "sums", "a"), ask("2", "law", "a")])

    assert resolver.engines == []


async def test_a_host_that_runs_larger_than_estimated_costs_another_its_place(store: DraftStore) -> None:
    resolver = Sized({"small": 100, "large": 100}, measured={"large": 200})
    async with store:
        pool = Pool(resolver, store, memory=250 * MIB)

        await collect(pool, [ask("1", "base", "a")])
        await collect(pool, [ask("2", "law", "a")])

        assert [engine.closes for engine in resolver.engines] == [1, 0]
        await pool.close()


async def test_adapters_that_do_not_fit_together_take_turns(store: DraftStore) -> None:
    resolver = Sized({"small": 100})
    async with store:
        pool = Pool(resolver, store, memory=115 * MIB)

        for name in ("sums", "sorts"):
            await collect(pool, [ask(name, name, "a")])
        await pool.close()

    assert [[adapter.name for adapter in engine.opens[0].adapters] for engine in resolver.engines] == [
        ["sums"],
        ["sorts"],
    ]


async def test_without_a_budget_a_host_that_is_open_needs_no_room_again(store: DraftStore) -> None:
    free = available_memory()
    assert free is not None
    resolver = Sized({"small": 1})
    async with store:
        pool = Pool(resolver, store)
        await collect(pool, [ask("1", "sums", "a")])

        resolver.sizes["small"] = 2 * free // MIB  # as if what is open had left less than its size
        found = await collect(pool, [ask("2", "sums", "b")])

        assert (found["2"].text, pool.ledger.loads) == ("b!", 1)
        await pool.close()


async def test_without_a_budget_what_other_hosts_hold_is_room(store: DraftStore) -> None:
    free = available_memory()
    assert free is not None
    resolver = Sized({"small": 1, "large": 2 * free // MIB}, measured={"small": 3 * free // MIB})
    async with store:
        pool = Pool(resolver, store)
        await collect(pool, [ask("1", "sums", "a")])

        found = await collect(pool, [ask("2", "law", "b")])

        assert found["2"].text == "b!"
        assert [engine.closes for engine in resolver.engines] == [1, 0]
        await pool.close()


async def test_a_host_that_dies_is_opened_once_more(store: DraftStore) -> None:
    deaths = iter([True])

    def answer(request: Request) -> str | Failure:
        return Failure("host_died", "gone") if next(deaths, False) else "fine"

    resolver = Resolver(answer)
    async with store:
        pool = Pool(resolver, store)

        found = await collect(pool, [ask("1", "sums", "a"), ask("2", "sums", "b")])
        await pool.close()

    assert {draft.text for draft in found.values()} == {"fine"}
    assert pool.ledger.loads == 2


async def test_a_host_that_dies_twice_gives_failed_drafts_that_are_not_kept(store: DraftStore) -> None:
    resolver = Resolver(lambda _: Failure("host_died", "gone"))
    async with store:
        pool = Pool(resolver, store)

        found = await collect(pool, [ask("1", "sums", "a")])
        await pool.close()

        assert found["1"].error is not None and found["1"].error.kind == "host_died"
        assert await store.get([found["1"].key]) == {}
    assert pool.ledger.failed == 1


async def test_a_host_that_does_not_start_costs_no_other_host(store: DraftStore) -> None:
    class Broken(Resolver):
        def engine(self, name: str) -> Engine:
            engine = super().engine(name)
            if name == "large":

                async def refuse(_: Host) -> None:
                    raise EngineError("it does not start")

                engine.open = refuse  # type: ignore[method-assign,assignment]
            return engine

    async with store:
        pool = Pool(Broken(), store)

        found = await collect(pool, [ask("1", "law", "a"), ask("2", "sums", "b")])
        await pool.close()

    assert found["1"].error is not None and "does not start" in found["1"].error.message
    assert found["2"].text == "b!"


async def test_a_draft_that_nobody_wants_any_more_is_withdrawn(store: DraftStore) -> None:
    resolver = Resolver()
    async with store:
        pool = Pool(resolver, store)

        found = await collect(
            pool, [ask("1", "sums", "a"), ask("2", "sums", "b")], still_wanted=lambda request: request.id != "2"
        )
        await pool.close()

    assert found["2"].stop == "cancelled"
    assert resolver.batches() == [("a",)]
    assert pool.ledger.cancelled == 1


async def test_a_host_is_reopened_with_the_adapters_a_later_plan_needs(store: DraftStore) -> None:
    resolver = Resolver()
    async with store:
        pool = Pool(resolver, store)

        await collect(pool, [ask("1", "sums", "a")])
        await collect(pool, [ask("2", "sorts", "a")])
        await collect(pool, [ask("3", "sums", "b")])
        await pool.close()

    assert [len(engine.opens[0].adapters) for engine in resolver.engines] == [1, 2]
    assert pool.ledger.loads == 2


async def test_closing_the_iterator_early_stops_the_work(store: DraftStore) -> None:
    resolver = Resolver()
    async with store:
        pool = Pool(resolver, store)
        requests = [ask(str(i), "sums", str(i)) for i in range(50)]

        async for _ in (stream := pool.submit(requests)):
            break
        await stream.aclose()
        again = await collect(pool, requests)
        await pool.close()

    assert len(again) == 50


async def test_what_no_engine_can_score_is_refused_by_its_name_and_opens_nothing(store: DraftStore) -> None:
    resolver = Resolver()
    async with store:
        pool = Pool(resolver, store)

        found = await collect(pool, [Request("s", ask("1", "sums", "a").streams, target="b"), ask("2", "base", "c")])
        await pool.close()

    assert found["2"].ok and found["s"].error is not None and found["s"].error.kind == "unsupported"
    assert "the engine of 'small' (ScriptedEngine) scores no given text" in found["s"].error.message
    assert ("small", ("sums",)) not in resolver.opened
