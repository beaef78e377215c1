"""Intervals, paired differences and tests, and the calibration split."""

from __future__ import annotations

import numpy as np
import pytest

from routers.errors import RouterError
from routers.stats import bootstrap_interval, calibration_split, holm, paired_difference, paired_test


def test_the_interval_covers_the_true_mean_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    samples = (rng.random((200, 120)) < 0.7).astype(float)

    covered = [low <= 0.7 <= high for low, high in (bootstrap_interval(row, resamples=400) for row in samples)]

    assert 0.9 <= np.mean(covered) <= 0.99


def test_an_interval_is_the_same_for_the_same_seed_and_wider_at_a_higher_level() -> None:
    values = np.random.default_rng(1).random(50)

    narrow, wide = bootstrap_interval(values, level=0.5), bootstrap_interval(values, level=0.99)

    assert bootstrap_interval(values) == bootstrap_interval(values)
    assert wide[0] < narrow[0] < values.mean() < narrow[1] < wide[1]


def test_equal_values_have_an_interval_of_no_width() -> None:
    assert bootstrap_interval([0.25] * 7) == (0.25, 0.25)


def test_many_questions_are_resampled_in_parts_of_bounded_size() -> None:
    values = np.random.default_rng(2).random(100_000)

    low, high = bootstrap_interval(values, resamples=100)

    assert low < values.mean() < high
    assert high - low < 0.01


def test_pairing_sees_a_difference_that_separate_intervals_hide() -> None:
    hard = np.random.default_rng(3).random(200) < 0.5
    a, b = hard.astype(float), (hard & (np.arange(200) % 10 > 0)).astype(float)

    mean, low, high = paired_difference(a, b)

    assert low > 0
    assert mean == pytest.approx((a - b).mean())
    assert low <= mean <= high
    assert bootstrap_interval(b)[1] > bootstrap_interval(a)[0]


@pytest.mark.parametrize(("a", "b"), [([1.0], [1.0, 0.0]), ([], [])])
def test_values_that_do_not_pair_are_refused(a: list[float], b: list[float]) -> None:
    with pytest.raises(RouterError):
        paired_difference(a, b)


def test_a_fifth_is_cut_out_whatever_the_order_of_rows() -> None:
    ids = [f"q{place}" for place in range(100)]

    chosen = {name for name, own in zip(ids, calibration_split(ids), strict=True) if own}
    turned = {name for name, own in zip(ids[::-1], calibration_split(ids[::-1]), strict=True) if own}

    assert len(chosen) == 20
    assert chosen == turned
    assert chosen != {name for name, own in zip(ids, calibration_split(ids, seed=1), strict=True) if own}


def test_near_duplicates_stay_on_one_side_even_through_a_chain() -> None:
    angles = np.concatenate([np.arange(4) * 0.25, np.arange(16) * 2 + 20])  # neighbours of the first four: cosine 0.969
    plane = np.stack([np.cos(angles[:4]), np.sin(angles[:4])], axis=1)
    vectors = np.zeros((20, 18), dtype=np.float32)
    vectors[:4, :2] = plane
    vectors[4:, 2:] = np.eye(16)
    ids = [f"q{place}" for place in range(20)]

    cuts = [calibration_split(ids, vectors, share=0.3, seed=seed) for seed in range(20)]

    assert all(len(set(cut[:4].tolist())) == 1 for cut in cuts)
    assert {bool(cut[0]) for cut in cuts} == {True, False}
    assert {int(cut.sum()) for cut in cuts} == {6}


def test_a_group_larger_than_the_share_stays_in_the_profile() -> None:
    vectors = np.ones((10, 1), dtype=np.float32)

    assert not calibration_split([str(place) for place in range(10)], vectors).any()


def test_ids_that_repeat_are_refused() -> None:
    with pytest.raises(RouterError, match="repeat"):
        calibration_split(["a", "a"])


def test_the_chance_of_any_wrong_gate_is_bounded_however_many_there_are() -> None:
    rng, gates, wrong, alone = np.random.default_rng(0), 12, 0, 0
    for _ in range(200):
        values = rng.choice([-1.0, 0.0, 1.0], (gates, 40), p=[0.2, 0.6, 0.2])
        wrong += bool((holm([paired_test(own, np.zeros(40)) for own in values]) <= 0.05).any())
        alone += any(paired_difference(own, np.zeros(40), resamples=200)[1] > 0 for own in values)

    assert wrong / 200 <= 0.05
    assert alone / 200 > 0.2, "what intervals that know nothing of each other let through"


def test_differences_of_several_sizes_are_tested_by_draws() -> None:
    rng = np.random.default_rng(0)
    nothing = rng.normal(size=60)

    assert paired_test(nothing, -nothing[::-1]) > 0.05
    assert paired_test(nothing + 2, np.zeros(60)) < 0.001
    assert paired_test([0.5, 0.5], [0.5, 0.5]) == 1.0
    with pytest.raises(RouterError, match="same questions"):
        paired_test([1.0], [1.0, 0.0])
