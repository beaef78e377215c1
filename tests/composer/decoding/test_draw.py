"""Tokens drawn from scores."""

import math
from collections import Counter

import numpy as np
import pytest

from composer.decoding.draw import Draws
from composer.types import Sampling

SCORES = np.log(np.array([0.1, 0.4, 0.3, 0.2]))


def drawn(sampling: Sampling, times: int = 2000, said: tuple[int, ...] = ()) -> Counter[int]:
    draws = Draws(sampling)
    return Counter(draws.next(SCORES, said) for _ in range(times))


def test_greedy_takes_the_first_of_the_best() -> None:
    assert Draws(Sampling()).next(np.array([0.0, 2.0, 2.0])) == 1


def test_the_same_seed_draws_the_same_and_another_does_not() -> None:
    one, two, three = (
        [draws.next(SCORES) for _ in range(50)]
        for draws in (Draws(Sampling(temperature=1, seed=seed)) for seed in (1, 1, 2))
    )
    assert one == two != three


def test_tokens_come_as_often_as_they_are_probable() -> None:
    found = drawn(Sampling(temperature=1, seed=3), 20_000)
    assert [found[token] / 20_000 for token in range(4)] == pytest.approx([0.1, 0.4, 0.3, 0.2], abs=0.015)


@pytest.mark.parametrize(
    ("sampling", "possible"),
    [
        (Sampling(temperature=1, top_k=2), {1, 2}),
        (Sampling(temperature=1, top_p=0.65), {1, 2}),
        (Sampling(temperature=1, min_p=0.5), {1, 2, 3}),
        (Sampling(temperature=0.01), {1}),
        (Sampling(temperature=1), {0, 1, 2, 3}),
    ],
)
def test_what_is_cut_off_never_comes(sampling: Sampling, possible: set[int]) -> None:
    assert set(drawn(sampling)) == possible


def test_what_was_said_is_said_less_readily() -> None:
    assert Draws(Sampling(repetition_penalty=2.0)).next(SCORES, {1}) == 2
    assert Draws(Sampling(repetition_penalty=2.0)).next(np.array([1.0, 1.5, -0.1]), {1}) == 0


def test_what_is_barred_never_comes_and_something_has_to_be_possible() -> None:
    barred = np.array([-math.inf, 0.0, -math.inf])
    assert {Draws(Sampling(temperature=9, seed=seed)).next(barred) for seed in range(50)} == {1}
    with pytest.raises(ValueError, match="no token"):
        Draws(Sampling()).next(np.full(3, -math.inf))
