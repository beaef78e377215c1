"""Whose turn it is: the cheapest per request, urgent work first, and nobody waits for ever."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from composer.pool.order import Turns, Waiting, eligible, first_of, order_of

QUEUES = st.lists(
    st.builds(
        Waiting,
        name=st.uuids().map(str),
        queued=st.integers(1, 50),
        oldest=st.floats(0, 100),
        priority=st.integers(0, 2),
        deadline=st.one_of(st.just(math.inf), st.floats(0, 200)),
        load=st.floats(0, 20),
        pace=st.floats(0, 2),
    ),
    min_size=1,
    max_size=6,
    unique_by=lambda queue: queue.name,
)


def order(*waiting: Waiting, now: float = 0.0) -> list[str]:
    return order_of(waiting, now, patience=30, lead=5)


def test_what_is_open_goes_first_then_the_hottest() -> None:
    assert order(
        Waiting("cool", 1, load=2), Waiting("hot", 9, load=2), Waiting("warm", 4, load=2), Waiting("open", 1)
    ) == ["open", "hot", "warm", "cool"]


def test_among_equals_the_first_needed_goes_first() -> None:
    assert order(Waiting("b", 3, load=1), Waiting("a", 3, load=1)) == ["b", "a"]


def test_a_cheap_load_may_go_before_a_hot_host() -> None:
    assert order(Waiting("large", 9, load=90), Waiting("small", 2, load=1)) == ["small", "large"]


def test_slow_work_lets_quick_work_pass() -> None:
    assert order(Waiting("slow", 9, load=2, pace=5), Waiting("quick", 9, load=2, pace=0.1)) == ["quick", "slow"]


def test_a_deadline_that_is_near_jumps_the_queue_and_a_far_one_does_not() -> None:
    hot, late = Waiting("hot", 99), Waiting("late", 1, deadline=20, load=2)

    assert order(hot, late, now=10)[0] == "hot"
    assert order(hot, late, now=16)[0] == "late"


def test_higher_priority_goes_first() -> None:
    assert order(Waiting("hot", 99), Waiting("urgent", 1, priority=1, load=9)) == ["urgent", "hot"]


def test_the_old_are_not_overtaken_by_what_came_long_after_them() -> None:
    assert order(Waiting("hot", 99, oldest=31), Waiting("old", 1, load=9))[0] == "old"
    assert order(Waiting("hot", 99, oldest=29), Waiting("old", 1, load=9))[0] == "hot"


@given(QUEUES)
def test_the_order_is_smiths_where_nothing_is_urgent_or_old(queues: list[Waiting]) -> None:
    plain = [replace(queue, oldest=0.0, priority=0, deadline=math.inf) for queue in queues]
    by_name = {queue.name: queue for queue in plain}

    def mean_wait(names: tuple[str, ...]) -> float:
        clock = total = 0.0
        for name in names:
            queue = by_name[name]
            clock += queue.load + queue.pace * queue.queued
            total += clock * queue.queued
        return total

    ours = mean_wait(tuple(order(*plain)))

    assert ours <= min(map(mean_wait, itertools.permutations(by_name))) + 1e-6


@given(QUEUES, st.floats(0, 300))
def test_every_queue_has_exactly_one_place(queues: list[Waiting], now: float) -> None:
    assert sorted(order(*queues, now=now)) == sorted(queue.name for queue in queues)


@given(QUEUES, st.floats(0, 300))
def test_in_an_ordinary_turn_nobody_is_overtaken_by_more_than_the_patience(queues: list[Waiting], now: float) -> None:
    chosen = first_of(eligible(queues, now, patience=30, lead=5, urgent=False))

    assert chosen.oldest <= min(queue.oldest for queue in queues) + 30


def test_who_has_waited_long_behind_an_older_heap_gets_a_turn_before_it_is_done() -> None:
    heap, late = Waiting("heap", 99_999), Waiting("late", 1, oldest=3600, load=9)

    assert order(heap, late, now=3620)[0] == "heap"
    assert order(heap, late, now=3631)[0] == "late"


def test_no_queue_starves_while_hotter_ones_are_refilled_for_ever() -> None:
    turns = Turns(patience=30, lead=5)
    arrived = {"a": 0.0, "b": 0.0, "cold": 0.0}
    served: list[str] = []
    for now in range(0, 200, 5):
        waiting = [
            Waiting(name, 1 if name == "cold" else 50, oldest, load=5 * (name == "cold"))
            for name, oldest in arrived.items()
        ]
        name = turns.choose(waiting, now)
        served.append(name)
        arrived[name] = now  # what it serves is replaced by new work at once

    assert "cold" in served[:10], "within the patience and one turn of each other queue"


def test_a_stream_of_urgent_work_takes_every_second_turn_at_most() -> None:
    turns = Turns(patience=30, lead=5)
    calm, urgent = Waiting("calm", 5), Waiting("urgent", 5, priority=1)

    served = [turns.choose([calm, urgent], now) for now in range(6)]

    assert served == ["urgent", "calm"] * 3


def test_a_turn_is_kept_until_something_urgent_comes() -> None:
    turns = Turns(patience=30, lead=5)
    mine, other = Waiting("mine", 2), Waiting("other", 99)
    turns.choose([mine], 0)

    assert turns.keeps(mine, [other], 1)
    assert not turns.keeps(mine, [replace(other, priority=1)], 1)
    assert not turns.keeps(mine, [replace(other, deadline=5)], 1)
    assert turns.keeps(replace(mine, deadline=4), [replace(other, deadline=5)], 1)


def test_a_turn_ends_where_all_that_is_left_came_long_after_what_waits() -> None:
    turns = Turns(patience=30, lead=5)
    turns.choose([Waiting("mine", 2)], 0)

    assert turns.keeps(Waiting("mine", 2, oldest=25), [Waiting("other", 1)], 40)
    assert not turns.keeps(Waiting("mine", 2, oldest=35), [Waiting("other", 1)], 40)


def test_an_ordinary_turn_after_an_urgent_one_lasts_as_long_before_it_is_cut() -> None:
    turns = Turns(patience=30, lead=5)
    calm, urgent = Waiting("calm", 5), Waiting("urgent", 5, priority=1)
    turns.choose([calm, urgent], 0)
    turns.choose([calm, urgent], 10)

    assert turns.keeps(calm, [urgent], 19)
    assert not turns.keeps(calm, [urgent], 21)
