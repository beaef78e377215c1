"""Cacheability of recorded traffic, against the golden values of METHODS J.4."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from composer.pool.locality import Uses, advise, lru_curve, sch, srp, uses_of


def drifting() -> Uses:
    """8 hosts, 256 requests; each uses two neighbours, which move on every 32 requests."""
    uses = np.zeros((256, 8), dtype=np.bool_)
    for step in range(256):
        uses[step, [step // 32 % 8, (step // 32 + 1) % 8]] = True
    return uses


def random_pairs(seed: int) -> Uses:
    rng = np.random.default_rng(seed)
    uses = np.zeros((256, 8), dtype=np.bool_)
    for row in uses:
        row[rng.choice(8, 2, replace=False)] = True
    return uses


def test_srp_of_drifting_traffic_is_as_published() -> None:
    assert srp(drifting(), 4)[0] == pytest.approx(0.986, abs=5e-4)
    assert srp(drifting(), 16)[0] == pytest.approx(0.942, abs=5e-4)


def test_srp_of_random_traffic_is_as_published() -> None:
    found = np.mean([[srp(random_pairs(seed), m)[0] for m in (4, 16)] for seed in range(8)], axis=0)

    assert found == pytest.approx([0.566, 0.452], abs=0.01)


def test_traffic_with_locality_is_worth_a_cache() -> None:
    advice = advise(drifting())

    assert (advice.resident, advice.group) == (3, False)
    assert [window for window, _, _ in advice.srp] == [4, 16, 64, 256]


def test_traffic_without_locality_is_grouped_instead() -> None:
    assert all(advise(random_pairs(seed)).group for seed in range(8))


def test_one_host_needs_room_for_one() -> None:
    uses, names = uses_of([["only"], ["only"], ["only"]])

    advice = advise(uses)

    assert (names, advice.resident, advice.group) == (["only"], 1, False)


@given(st.lists(st.sets(st.sampled_from("abcdef"), min_size=1, max_size=3), min_size=1, max_size=30), st.integers(1, 9))
def test_hit_rates_never_fall_with_more_room_and_end_at_first_uses_alone(sets: list[set[str]], window: int) -> None:
    uses, names = uses_of([sorted(used) for used in sets])
    accesses = sum(map(len, sets))

    for curve in (sch(uses, window), lru_curve(uses)):
        assert np.all(np.diff(curve) >= 0)
        assert curve[-1] == pytest.approx(1 - len(names) / accesses)


def test_a_window_longer_than_the_trace_is_refused() -> None:
    with pytest.raises(ValueError, match="a window of 9 requests over a trace of 3"):
        srp(uses_of([["a"]] * 3)[0], 9)
