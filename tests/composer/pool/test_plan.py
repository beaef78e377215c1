"""The plan: who is opened when, and which prompt follows which."""

from __future__ import annotations

from dataclasses import replace

import pytest
from scripted_hosts import Machine as Registry
from scripted_hosts import Memory, collect, want, wants

from composer.errors import MemoryBudgetError
from composer.pool.plan import Batch, Lane, Machine, Plan, forecast, make_plan
from composer.pool.pool import Pool
from composer.pool.speeds import HostSpeed, Speeds
from composer.types import Mix, Request, Sampling, Stream

HOSTS = {"base": "small", "sums": "small", "sorts": "small", "law": "large"}


def request(name: str, expert: str, prompt: str, priority: int = 0) -> Request:
    adapter = expert if expert in ("sums", "sorts") else None
    return Request(name, (Stream(expert, prompt, adapter),), priority=priority)


def test_requests_are_grouped_by_host_and_adapter() -> None:
    requests = [
        request("1", "sums", "x"),
        request("2", "law", "x"),
        request("3", "base", "x"),
        request("4", "sums", "y"),
    ]

    plan = make_plan(requests, HOSTS.__getitem__)

    assert [batch.host for batch in plan.batches] == ["small", "large"]
    assert [[r.id for r in lane.requests] for lane in plan.batches[0].lanes] == [["1", "4"], ["3"]]
    assert plan.batches[0].adapters == ("sums",)


def test_what_is_open_already_goes_first() -> None:
    requests = [request("1", "base", "x"), request("2", "law", "x")]

    plan = make_plan(requests, HOSTS.__getitem__, resident=["large"])

    assert [batch.host for batch in plan.batches] == ["large", "small"]


def test_prompts_with_a_common_beginning_stand_side_by_side() -> None:
    prompts = ["Sort: b", "Add: 1", "Sort: a", "Add: 2"]

    plan = make_plan([request(text, "base", text) for text in prompts], HOSTS.__getitem__)

    assert [r.id for r in plan.batches[0].requests] == ["Add: 1", "Add: 2", "Sort: a", "Sort: b"]


def test_urgent_requests_of_a_lane_come_first() -> None:
    requests = [request("a", "base", "a"), request("z", "base", "z", priority=1)]

    plan = make_plan(requests, HOSTS.__getitem__)

    assert [r.id for r in plan.batches[0].requests] == ["z", "a"]


def test_equal_input_gives_an_equal_plan() -> None:
    requests = [request(str(i), ("base", "sums", "law")[i % 3], str(i)) for i in range(30)]

    assert make_plan(requests, HOSTS.__getitem__) == make_plan(list(requests), HOSTS.__getitem__)


def test_the_hottest_of_equal_hosts_goes_first() -> None:
    requests = [request("1", "law", "x"), request("2", "base", "x"), request("3", "base", "y")]

    assert [batch.host for batch in make_plan(requests, HOSTS.__getitem__).batches] == ["small", "large"]


# Forecasts

FAST = HostSpeed(prefill=100, decode_one=10, decode=40, slots=4, load=2.0, memory=100)


def machine(limit: int | None, **resident: int) -> Machine:
    return Machine(lambda host, _: 100, lambda host: host, resident, limit)


def some(host: str, n: int) -> list[Request]:
    return [
        Request(f"{host}{i}", (Stream(host, "x" * 40),), Sampling(max_tokens=20), arm=f"{host} arm") for i in range(n)
    ]


def test_writing_together_is_between_alone_and_all_slots() -> None:
    assert [FAST.decode_rate(calls) for calls in (1, 2, 4, 9)] == [10, 20, 40, 40]


def test_a_forecast_counts_calls_loads_memory_and_tokens() -> None:
    plan = make_plan([*some("a", 4), *some("b", 2)], str)

    found = forecast(plan, machine(250), stored={"a arm": 3})

    assert (found.calls, found.stored) == ({"a arm": 4, "b arm": 2}, {"a arm": 3})
    assert (found.loads, found.floor, found.peak) == (2, 2, 200)
    assert (found.tokens_in, found.tokens_out, found.bound) == (60, 120, True)
    assert found.seconds is None, "nobody has measured"


def test_a_load_beside_a_computing_host_costs_only_what_is_longer() -> None:
    plan = make_plan([*some("a", 4), *some("b", 4)], str)
    speeds = Speeds(1.0, 1.0, {"a": FAST, "b": FAST})
    work = 40 / 100 + 80 / 40

    beside = forecast(plan, machine(200), speeds=speeds)
    in_turn = forecast(plan, machine(150), speeds=speeds)

    assert beside.seconds == pytest.approx(2.0 + work + max(0.0, 2.0 - work) + work)
    assert in_turn.seconds == pytest.approx(2 * (2.0 + work))
    assert (beside.peak, in_turn.peak) == (200, 100)


def test_two_hosts_at_work_at_once_take_half_as_long_where_both_have_room() -> None:
    plan = make_plan([*some("a", 4), *some("b", 4), *some("c", 4), *some("d", 4)], str)
    speeds = Speeds(1.0, 1.0, dict.fromkeys("abcd", FAST))
    work = 40 / 100 + 80 / 40

    def seconds(limit: int, at_once: int) -> float | None:
        return forecast(plan, replace(machine(limit), at_once=at_once), speeds=speeds).seconds

    # two open at first, the third while they work; whoever is opened ahead is one, so the fourth opens in its own turn
    assert seconds(400, 2) == pytest.approx(2.0 + work + 2.0 + work)
    assert seconds(300, 1) == pytest.approx(2.0 + 4 * work)
    assert seconds(200, 2) == pytest.approx(2 * (2.0 + work))  # nobody can be opened ahead
    assert seconds(100, 2) == seconds(100, 1) == pytest.approx(4 * (2.0 + work))


def test_work_in_another_order_opens_again_what_had_to_go_and_ahead_is_a_choice() -> None:
    plan = Plan(tuple(Batch(host, (Lane(None, tuple(some(host, 1))),)) for host in "abab"))
    speeds = Speeds(1.0, 1.0, dict.fromkeys("ab", FAST))
    work = 10 / 100 + 20 / 10

    one = forecast(plan, machine(100), speeds=speeds)
    beside, later = (forecast(plan, replace(machine(200), ahead=ahead), speeds=speeds) for ahead in (True, False))

    assert (one.loads, one.seconds) == (4, pytest.approx(4 * (2.0 + work)))
    assert (beside.loads, beside.seconds) == (2, pytest.approx(2.0 + 4 * work))
    assert (later.loads, later.seconds) == (2, pytest.approx(4.0 + 4 * work))


def test_what_is_open_costs_no_load() -> None:
    found = forecast(make_plan(some("a", 4), str, ["a"]), machine(200, a=100), speeds=Speeds(1.0, 1.0, {"a": FAST}))

    assert (found.loads, found.floor, found.steps[0].load_seconds) == (0, 0, 0.0)


def test_answers_are_as_long_as_they_were() -> None:
    found = forecast(make_plan(some("a", 4), str), machine(None), typical={"a arm": 5.0})

    assert (found.tokens_out, found.bound) == (20, False)


def pairs(weak: str, base: str | None, n: int = 4) -> list[Request]:
    """Requests of two streams: that of `a` against that of `weak`, on `base` where that is another one."""
    streams = Stream("a", "x" * 40, weight=1.5), Stream(weak, "y" * 80, weight=-0.5, base=base)
    return [Request(f"p{i}", streams, Sampling(max_tokens=20), arm="a~c", mix=Mix("logit", 0.1)) for i in range(n)]


def test_two_streams_of_one_base_compute_every_token_twice() -> None:
    plan = make_plan(pairs("sums", None), lambda expert: "a")

    found = forecast(plan, machine(None), speeds=Speeds(1.0, 1.0, {"a": FAST}))

    assert [step.host for step in found.steps] == ["a"]
    assert (found.tokens_in, found.tokens_out, found.passes) == (120, 80, 160)
    assert found.seconds == pytest.approx(2.0 + 120 / 100 + 160 / 40)


def test_a_host_of_two_bases_takes_the_time_of_both() -> None:
    plan = make_plan(pairs("b", "b"), str)
    slow = replace(FAST, prefill=FAST.prefill / 2, decode=20.0, load=3.0)

    found = forecast(plan, machine(None), speeds=Speeds(1.0, 1.0, {"a": FAST, "b": slow}))
    half = forecast(plan, machine(None), speeds=Speeds(1.0, 1.0, {"a": FAST}))

    assert [step.host for step in found.steps] == ["a&b"]
    assert (found.tokens_in, found.tokens_out, found.passes) == (120, 80, 160)
    assert found.steps[0].load_seconds == 5.0
    assert found.steps[0].work_seconds == pytest.approx(40 / 100 + 80 / 40 + 80 / 50 + 80 / 20)
    assert (half.steps[0].work_seconds, half.seconds) == (None, None), "nobody has measured one of them"


async def test_a_preview_opens_nothing_and_counts_what_the_store_has() -> None:
    registry = Registry()
    pool = Pool(registry, Memory(), memory=150)
    await collect(pool, wants("a", 3))

    found = await pool.preview([*wants("a", 5), *wants("b", 2)])

    assert (found.stored, found.calls) == ({"a": 3}, {"a": 2, "b": 2})
    assert [(step.host, step.opened) for step in found.steps] == [("a", False), ("b", True)]
    assert (found.loads, found.floor, found.peak, registry.loads) == (1, 1, 100, ["a"])
    await pool.close()


async def test_a_preview_foretells_the_order_and_the_loads() -> None:
    registry = Registry(sizes={"large": 1000}, opening=0.002)
    pool = Pool(registry, Memory(), memory=1000)
    requests = [*wants("large", 2), *wants("b", 2), *wants("c", 9)]

    found = await pool.preview(requests)
    await collect(pool, requests)

    assert registry.loads == [step.host for step in found.steps] and len(registry.loads) == found.loads
    assert registry.most == found.peak
    await pool.close()


async def test_what_was_calibrated_decides_before_anything_is_loaded() -> None:
    slow, quick = (HostSpeed(100, 10, 40, 4, load=load, memory=100) for load in (9.0, 1.0))
    registry = Registry(opening=0.001)
    pool = Pool(registry, Memory(), memory=100, speeds=Speeds(0.0, 0.0, {"slow": slow, "quick": quick}))

    await collect(pool, [*wants("slow", 3), *wants("quick", 2)])
    await pool.close()

    assert registry.loads == ["quick", "slow"]


async def test_a_preview_refuses_what_cannot_fit() -> None:
    pool = Pool(Registry(sizes={"a": 300}), Memory(), memory=250)

    with pytest.raises(MemoryBudgetError, match="'a' needs about"):
        await pool.preview([want("1", "a")])


async def test_the_status_tells_what_waits_runs_and_is_done() -> None:
    pool = Pool(Registry(delay=0.01), Memory(), memory=100)
    stream = pool.submit([*wants("a", 6), *wants("b", 3)])
    await anext(stream)

    status = pool.status()

    a, b = status.hosts["a"], status.hosts["b"]
    assert (a.running, a.resident, a.loads, a.done + a.running + a.queued) == (2, 100, 1, 6)
    assert (b.queued, b.running, b.resident) == (3, 0, 0)
    assert (status.loads, status.floor, status.resident, status.memory) == (1, 2, 100, 100)
    assert a.tokens_per_second > 0
    await stream.aclose()  # type: ignore[attr-defined]
    await pool.close()
