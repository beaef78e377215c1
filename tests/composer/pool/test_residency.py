"""Memory: what has to go, and what can never fit."""

from __future__ import annotations

import pytest

from composer.errors import MemoryBudgetError
from composer.pool.residency import to_evict
from composer.registry.memory import available_memory, refuse_what_cannot_fit

MIB = 2**20


def test_nothing_goes_while_everything_fits() -> None:
    assert to_evict({"a": 100 * MIB, "b": 100 * MIB}, 100 * MIB, budget=300 * MIB) == []


def test_the_longest_unused_host_goes_first() -> None:
    assert to_evict({"old": 100 * MIB, "new": 100 * MIB}, 100 * MIB, budget=250 * MIB) == ["old"]


def test_as_many_go_as_the_newcomer_needs() -> None:
    assert to_evict({"a": 100 * MIB, "b": 100 * MIB}, 250 * MIB, budget=250 * MIB) == ["a", "b"]


def test_without_a_budget_the_machine_is_the_limit() -> None:
    free = available_memory()
    assert free is not None

    assert to_evict({"a": MIB}, 1, budget=None) == []
    assert to_evict({"a": MIB}, 2 * free, budget=None) == ["a"]


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
