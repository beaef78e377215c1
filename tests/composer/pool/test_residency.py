"""Memory: what has to go, and what can never fit."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from composer.errors import MemoryBudgetError
from composer.pool.locality import by_next_use, loads, lru
from composer.pool.residency import Gdsf, Held, to_evict
from composer.registry.memory import available_memory, refuse_what_cannot_fit

MIB = 2**20
TRACES = st.lists(st.sampled_from("abcde"), max_size=14)
HELD = st.dictionaries(
    st.sampled_from("abcdef"), st.builds(Held, st.integers(0, 50), st.floats(0, 9), st.floats(0, 9)), max_size=6
)


def equal(*names: str) -> dict[str, Held]:
    return {name: Held(100 * MIB, priority=place) for place, name in enumerate(names)}


def test_nothing_goes_while_everything_fits() -> None:
    assert to_evict(equal("a", "b"), 100 * MIB, 300 * MIB) == []
    assert to_evict(equal("a", "b"), 100 * MIB, None) == []


def test_of_hosts_that_nothing_is_known_to_need_the_least_priority_goes_first() -> None:
    assert to_evict(equal("old", "new"), 100 * MIB, 250 * MIB) == ["old"]


def test_as_many_go_as_the_newcomer_needs() -> None:
    assert to_evict(equal("a", "b"), 250 * MIB, 250 * MIB) == ["a", "b"]


def test_what_has_no_known_use_goes_before_what_has_one() -> None:
    assert to_evict(equal("needed", "idle"), 100 * MIB, 200 * MIB, upcoming=["needed"]) == ["idle"]


def test_the_furthest_next_use_goes_first() -> None:
    assert to_evict(equal("b", "a"), 100 * MIB, 200 * MIB, upcoming=["a", "b"]) == ["b"]


def test_a_dear_load_is_kept_longer_than_its_next_use_says() -> None:
    held = {"dear": Held(100, cost=90), "cheap": Held(100, cost=1)}

    assert to_evict(held, 100, 200, upcoming=["cheap", "dear"]) == ["cheap"]


def test_who_is_at_work_stays() -> None:
    assert to_evict(equal("a", "b"), 100 * MIB, 200 * MIB, pinned=["a"]) == ["b"]
    assert to_evict(equal("a", "b"), 200 * MIB, 200 * MIB, pinned=["a"]) is None


def test_nobody_goes_whose_bytes_are_not_needed() -> None:
    held = {"small": Held(10, priority=0), "large": Held(90, priority=1)}

    assert to_evict(held, 80, 100) == ["large"]


@given(HELD, st.integers(0, 100), st.integers(0, 150), st.lists(st.sampled_from("abcdef"), max_size=5))
def test_what_stays_fits_and_no_more_goes_than_must(
    held: dict[str, Held], opening: int, limit: int, upcoming: list[str]
) -> None:
    gone = to_evict(held, opening, limit, upcoming=upcoming)

    if gone is None:
        assert opening > limit
        return
    left = sum(host.memory for name, host in held.items() if name not in gone)
    assert left + opening <= limit
    assert all(left + held[name].memory + opening > limit for name in gone), "each of them had to go"


@lru_cache
def fewest_loads(trace: tuple[str, ...], resident: frozenset[str], room: int) -> int:
    """By trying everything."""
    if not trace:
        return 0
    name, rest = trace[0], trace[1:]
    if name in resident:
        return fewest_loads(rest, resident, room)
    if len(resident) < room:
        return 1 + fewest_loads(rest, resident | {name}, room)
    return 1 + min(fewest_loads(rest, resident - {gone} | {name}, room) for gone in resident)


@given(TRACES, st.integers(1, 4))
def test_with_equal_sizes_and_costs_no_choice_costs_fewer_loads(trace: Sequence[str], room: int) -> None:
    ours = loads(trace, room, by_next_use(trace))

    assert ours == fewest_loads(tuple(trace), frozenset(), room)
    assert ours <= loads(trace, room, lru)


def test_gdsf_keeps_what_is_used_often_is_dear_and_is_small() -> None:
    gdsf = Gdsf()

    often = [gdsf.used("often", 100, 1) for _ in range(3)][-1]

    assert often > gdsf.used("rare", 100, 1)
    assert gdsf.used("dear", 100, 9) > gdsf.used("cheap", 100, 1)
    assert gdsf.used("small", 10, 1) > gdsf.used("large", 100, 1)


def test_gdsf_forgets_an_old_popularity() -> None:
    gdsf = Gdsf()
    popular = [gdsf.used("popular", 1, 1) for _ in range(5)][-1]

    turns = 0
    while (newest := gdsf.used(f"newer {turns}", 1, 1)) <= popular:
        gdsf.gone(Held(1, priority=newest))
        turns += 1

    assert turns == 5


def test_what_is_resident_counts_as_room_where_there_is_no_budget() -> None:
    free = available_memory()
    assert free is not None

    refuse_what_cannot_fit("large", 2 * free, None, "experts.yaml:7", held=3 * free)
    with pytest.raises(MemoryBudgetError):
        refuse_what_cannot_fit("large", 2 * free, None, "experts.yaml:7")
    with pytest.raises(MemoryBudgetError, match="the memory budget allows 1 MiB"):
        refuse_what_cannot_fit("large", 2 * MIB, MIB, "experts.yaml:7", held=3 * MIB)


def test_what_cannot_fit_is_refused_by_name_with_remedies() -> None:
    with pytest.raises(MemoryBudgetError) as caught:
        refuse_what_cannot_fit("large", 2048 * MIB, 1024 * MIB, "experts.yaml:7 (models.large)")

    text = str(caught.value)
    assert "'large' needs about 2,048 MiB, the memory budget allows 1,024 MiB" in text
    assert "experts.yaml:7" in text
    assert all(remedy in text for remedy in ("`context`", "quantisation", "--memory"))


def test_what_the_machine_cannot_hold_is_refused_too() -> None:
    with pytest.raises(MemoryBudgetError, match="the machine has free"):
        refuse_what_cannot_fit("huge", 2**60, None, "experts.yaml:7")
