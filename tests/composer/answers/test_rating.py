"""Ratings: how a ridge makes a score of them, and how pairs are counted."""

from __future__ import annotations

import numpy as np
import pytest

from composer.answers.capabilities import CAPABILITIES, LEAST, MOST
from composer.answers.rating import Pair, Scorer, fit_ridge, pair_accuracy
from composer.types import Kind

OWN = {
    "number": ("Is it short?", "Is it whole?", "Is it right?"),
    "list": ("Is it whole?", "Is it in order?", "Is it short?"),
}


def pairs(count: int, *, category: str = "number", seed: int = 0, start: int = 0) -> list[Pair]:
    """Right drafts are rated higher on the third question, lower on the first, and the second is noise."""
    rng = np.random.default_rng(seed)

    def rated(low: int, high: int) -> tuple[int, ...]:
        return (int(rng.integers(1, 6 - high)), int(rng.integers(1, 6)), int(rng.integers(low, high + 2)))

    return [Pair(start + n, category, rated(3, 3), rated(1, 2)) for n in range(count)]


def test_the_ridge_learns_which_question_tells_right_from_wrong() -> None:
    learnt, held = fit_ridge(pairs(200), OWN), pairs(200, seed=1)
    first, noise, third = learnt.weights["number"]

    assert third > 0.2 and abs(noise) < 0.1 and first < third
    ridge, plain = (np.mean(list(pair_accuracy(held, scorer).values())) for scorer in (learnt, None))
    assert ridge > plain + 0.1


def test_a_category_of_few_pairs_stays_near_what_all_share() -> None:
    many = pairs(300)
    few = [Pair(300, "list", (5, 3, 3), (1, 3, 3))]
    weights = fit_ridge([*many, *few], OWN).weights

    assert np.std(weights["list"]) < np.std(weights["number"])
    assert sum(weights["list"]) == pytest.approx(sum(weights["number"]), abs=1e-4), "the weight of the mean is shared"


def test_a_question_with_many_pairs_counts_once() -> None:
    one = Pair(0, "number", (5, 3, 3), (1, 3, 3))
    other = [Pair(1 + n, "number", (3, 3, 5), (3, 3, 1)) for n in range(3)]
    alone, often = (fit_ridge([*[one] * count, *other], OWN).weights["number"] for count in (1, 50))

    assert alone == pytest.approx(often, abs=0.1)


def test_a_rating_that_could_not_be_read_is_the_mean_of_the_others() -> None:
    scorer = Scorer(OWN, {"number": (1.0, 2.0, 4.0)})

    assert scorer.score("number", (3, 3, 3)) == 21
    assert scorer.score("number", (2, None, 4)) == scorer.score("number", (2, 3, 4)) == 24
    assert scorer.score("number", (None, None, None)) is None


def test_pairs_are_counted_by_question_and_ties_are_half() -> None:
    own = [
        Pair(7, "number", (4, 4, 4), (1, 1, 1)),
        Pair(7, "number", (4, 4, 4), (5, 5, 5)),
        Pair(8, "number", (2, 2, 2), (2, 2, 2)),
    ]

    assert pair_accuracy(own, None) == {7: 0.5, 8: 0.5}
    assert pair_accuracy([Pair(1, "number", (None,) * 3, (1, 1, 1))], None) == {1: 0.5}


def test_a_ridge_fits_only_the_questions_it_was_fitted_on() -> None:
    scorer = fit_ridge(pairs(20), OWN)

    assert scorer.fits("number", OWN["number"])
    assert not scorer.fits("number", (*OWN["number"][:2], "Is it wrong?")) and not scorer.fits("list", OWN["list"])


def test_nothing_is_learnt_from_no_pairs() -> None:
    with pytest.raises(ValueError, match="no pairs"):
        fit_ridge([], OWN)


def test_every_kind_of_answer_has_three_to_five_questions() -> None:
    from typing import get_args

    assert set(get_args(Kind)) == set(CAPABILITIES)
    assert all(LEAST <= len(set(own)) == len(own) <= MOST for own in CAPABILITIES.values())
