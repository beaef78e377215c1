"""Measures of knowing when one does not know."""

from __future__ import annotations

import doctest

import numpy as np
import pytest

from composer.answers import signals
from composer.answers.signals import Sureness, aurc, aurc_difference, caught, risk_coverage, selective


def test_the_examples_in_the_docstrings_hold() -> None:
    assert doctest.testmod(signals).failed == 0


def test_a_border_makes_the_same_confidence_worth_less() -> None:
    rng = np.random.default_rng(0)
    sure = rng.uniform(0.3, 0.95, 4000)
    border = rng.random(4000)
    right = (rng.random(4000) < np.clip(sure - 0.4 * border, 0, 1)).astype(float)
    nowhere = np.zeros(4000)

    found = Sureness().fit(sure, border, nowhere, right)

    core, edge = found.probable(np.array([0.8, 0.8]), np.array([0.0, 1.0]), np.zeros(2))
    assert core == pytest.approx(0.8, abs=0.08)
    assert edge == pytest.approx(0.4, abs=0.08)


def test_without_mistakes_confidence_stays_as_it_is() -> None:
    sure = np.array([0.2, 0.9])

    found = Sureness().fit(sure, np.zeros(2), np.zeros(2), np.ones(2))

    assert found.probable(sure, np.zeros(2), np.zeros(2)) == pytest.approx(sure)


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
