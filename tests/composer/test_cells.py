"""Cells of other people's tables."""

from __future__ import annotations

import doctest
from pathlib import Path

import numpy as np
import pytest
from test_recorded import OUTCOMES, QUESTIONS, write

from composer import cells
from composer.cells import marks, options, whole
from composer.errors import InputError
from composer.learning.grid import Grid
from composer.recorded import read_folder


def test_the_examples_in_the_docstrings_hold() -> None:
    assert doctest.testmod(cells).failed == 0


@pytest.mark.parametrize(
    ("told", "found"),
    [
        (["red", "green"], ("red", "green")),
        ('["red", "green"]', ("red", "green")),
        ("['red', 'green']", ("red", "green")),
        ("\"['red', 'green']\"", ("red", "green")),
        ("\"{'text': ['red', 'green'], 'label': ['A', 'B']}\"", ("red", "green")),
        ("red\ngreen", ("red", "green")),
        ("only one", ()),
        (None, ()),
        (["assert f(1)", "assert f(2)"], ()),
    ],
)
def test_options_are_read_however_they_are_written(told: object, found: tuple[str, ...]) -> None:
    assert options(told) == found


@pytest.mark.parametrize("value", ["many", float("nan"), -1, float("inf")])
def test_what_is_no_number_is_told_with_its_row(value: object) -> None:
    with pytest.raises(InputError, match=r"file, row 1: `resp_chars` is"):
        whole([3, value], "file", "resp_chars")


def test_marks_may_be_true_and_false() -> None:
    assert marks([True, False, 0.5], "file", "score") == [1.0, 0.0, 0.5]


def test_two_benchmarks_may_count_their_questions_alike(tmp_path: Path) -> None:
    questions = {**QUESTIONS, "question_id": [1, 2, 1]}
    outcomes = {**OUTCOMES, "question_id": [1, 2, 1, 2, 1, 9], "benchmark": ["sums"] * 4 + ["words", "sums"]}

    record = read_folder(write(tmp_path, questions, outcomes))

    assert record.ids == ("sums:1", "sums:2", "words:1")
    assert record.of(["words"]).outcomes.arms[0].name == "c"


def test_ids_that_do_not_match_are_told_with_both(tmp_path: Path) -> None:
    outcomes = {**OUTCOMES, "question_id": ["1.0"] * 6}

    with pytest.raises(InputError, match=r"\(1.0 …\) is one of set_questions.parquet \(q1 …\)"):
        read_folder(write(tmp_path, QUESTIONS, outcomes))


def test_a_category_may_be_a_number_even_zero(tmp_path: Path) -> None:
    record = read_folder(write(tmp_path, {**QUESTIONS, "category": [0, 1, None]}, OUTCOMES))

    assert record.category == ("0", "1", "")


def test_samples_may_be_counted_from_one_and_what_nobody_ran_has_its_arms_mean_cost(tmp_path: Path) -> None:
    outcomes = {**OUTCOMES, "sample": [1] * 6}

    grid = Grid.of(read_folder(write(tmp_path, QUESTIONS, outcomes)))

    assert grid.right[0].tolist() == [1, 1, 0]
    assert grid.cost[2, 0] == pytest.approx(40)  # a's mean of 30 and 50
    assert not np.isnan(grid.cost).any()
