"""Measures of knowing when one does not know."""

from __future__ import annotations

import doctest

import numpy as np
import pytest

from composer.answers import signals
from composer.answers.ballots import Table
from composer.answers.signals import Sureness, aurc, aurc_difference, caught, risk_coverage, selective
from routers.coverage import Signals


def lying(mixed: Table | None = None, away: Table | None = None) -> Signals:
    """Signals of which nothing else is known."""
    n = len(next(each for each in (mixed, away) if each is not None))
    nothing, no = np.full(n, np.nan), np.zeros(n, dtype=bool)
    return Signals(nothing, nothing if away is None else away, nothing, nothing if mixed is None else mixed, no, no)


def test_the_examples_in_the_docstrings_hold() -> None:
    assert doctest.testmod(signals).failed == 0


def test_a_border_makes_the_same_confidence_worth_less() -> None:
    rng = np.random.default_rng(0)
    sure = rng.uniform(0.3, 0.95, 4000)
    border = rng.random(4000)
    right = (rng.random(4000) < np.clip(sure - 0.4 * border, 0, 1)).astype(float)

    found = Sureness().fit(sure, lying(mixed=border), right)

    core, edge = found.probable(np.array([0.8, 0.8]), lying(mixed=np.array([0.0, 1.0])))
    assert core == pytest.approx(0.8, abs=0.08)
    assert edge == pytest.approx(0.4, abs=0.08)


def test_without_mistakes_confidence_stays_as_it_is() -> None:
    sure = np.array([0.2, 0.9])

    found = Sureness().fit(sure, None, np.ones(2))

    assert found.probable(sure, None) == pytest.approx(sure)


def test_distance_never_speaks_for_an_answer() -> None:
    rng = np.random.default_rng(0)
    sure, away = rng.uniform(0.1, 0.9, 4000), rng.random(4000)
    right = (rng.random(4000) < np.clip(sure + 0.2 * (away - 0.5), 0, 1)).astype(float)

    found = Sureness().fit(sure, lying(away=away), right)

    near, far = found.probable(np.array([0.8, 0.8]), lying(away=np.array([0.0, 5.0])))
    assert near == far == pytest.approx(0.8, abs=0.08)


def test_a_term_that_does_not_earn_its_place_is_left_out() -> None:
    rng = np.random.default_rng(0)
    sure = rng.uniform(0.1, 0.9, 500)
    right = (rng.random(500) < sure).astype(float)

    found = Sureness().fit(sure, lying(mixed=rng.random(500), away=rng.random(500)), right)

    assert found.weights_[2:].tolist() == [0, 0]
    assert found.probable(np.array([0.3, 0.7]), None) == pytest.approx([0.3, 0.7], abs=0.08)


def test_signals_nobody_measured_count_as_usual() -> None:
    rng = np.random.default_rng(0)
    sure, border = rng.uniform(0.3, 0.95, 2000), rng.random(2000)
    right = (rng.random(2000) < np.clip(sure - 0.4 * border, 0, 1)).astype(float)
    found = Sureness().fit(sure, lying(mixed=border), right)

    unknown, usual = found.probable(np.array([0.7, 0.7]), lying(mixed=np.array([np.nan, border.mean()])))

    assert unknown == pytest.approx(usual)
    assert found.probable(np.array([0.7]), None)[0] == pytest.approx(usual)


def test_knowing_more_has_a_smaller_area_under_risk_and_coverage() -> None:
    right = np.array([1, 1, 0, 1, 0, 0] * 50)
    knows = right + np.linspace(0, 0.1, 300)
    guesses = np.random.default_rng(0).random(300)

    gap, low, high = aurc_difference((knows, right), (guesses, right))

    assert gap == pytest.approx(aurc(knows, right) - aurc(guesses, right))
    assert low < gap < high < 0
    assert risk_coverage(knows, right)[-1] == pytest.approx(0.5)
    assert selective(knows, right) == 1


def test_nothing_to_measure_is_no_number() -> None:
    assert np.isnan(aurc([], [])) and np.isnan(selective([], [])) and np.isnan(caught([0.5], [1]))


def test_confidence_that_is_only_noise_leaves_the_share_right() -> None:
    rng = np.random.default_rng(0)
    sure = rng.uniform(0.1, 0.9, 400)
    right = (rng.random(400) < 1 - sure).astype(float)

    found = Sureness().fit(sure, None, right).probable(np.array([0.1, 0.9]), None)

    assert found[0] == found[1] == pytest.approx(right.mean(), abs=0.01)
