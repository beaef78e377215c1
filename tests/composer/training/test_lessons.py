"""Rows to learn from: read like any labelled file, and parted so that nothing held back was learnt."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from training_kit import row

from composer.errors import InputError
from composer.training.lessons import asked, parted, read_lessons, strays, target_of


def write(folder: Path, rows: list[dict[str, Any] | str]) -> Path:
    place = folder / "rows.jsonl"
    place.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in rows))
    return place


def rows(n: int) -> list[dict[str, Any] | str]:
    return [{"question": f"Plural of word{number}?", "answer": f"word{number}s"} for number in range(n)]


def test_ids_may_be_missing_and_a_fifth_is_held_back(tmp_path: Path) -> None:
    found = read_lessons(write(tmp_path, rows(50)), holdout=None, seed=0)

    assert (len(found.train), len(found.held), found.errors) == (40, 10, ())
    assert {one.question.id for one in (*found.train, *found.held)} == {str(line) for line in range(1, 51)}


def test_the_same_seed_parts_alike_and_another_one_differs(tmp_path: Path) -> None:
    place = write(tmp_path, rows(60))

    first, again, other = (read_lessons(place, holdout=12, seed=seed) for seed in (3, 3, 4))

    assert first == again and first.held != other.held
    assert [one.question.line for one in first.held] == sorted(one.question.line for one in first.held)


def test_rows_that_ask_the_same_in_the_same_words_stay_together() -> None:
    twins = [row(number, f"What is {number // 3}?{'!' * (number % 3)}") for number in range(90)]

    for seed in range(20):
        train, held = parted(twins, 10, seed)

        assert len(held) in (9, 10) and len(train) + len(held) == 90
        assert not {one.question.text.rstrip("!") for one in train} & {one.question.text.rstrip("!") for one in held}


def test_a_bad_line_costs_itself_and_says_why(tmp_path: Path) -> None:
    bad: list[dict[str, Any] | str] = [
        "{",
        {"question": "Without an answer?"},
        {"question": "A target of no text?", "answer": "1", "target": 5},
        {"question": "A number?", "answer": "none", "kind": "number"},
        {"question": "A program?", "kind": "code", "tests": ["assert f() == 1"]},
    ]
    found = read_lessons(write(tmp_path, [*rows(20), *bad]), holdout=None, seed=0)

    assert [(error.line, error.reason.split(":")[0]) for error in found.errors] == [
        (21, "not JSON"),
        (22, "`answer` is missing"),
        (23, "`target` must be text"),
        (24, "`answer` cannot be read as a number"),
        (25, "a program is graded by running it, which training does not do"),
    ]
    assert len(found.train) + len(found.held) == 20


@pytest.mark.parametrize(
    ("made", "holdout", "words"),
    [
        (rows(9), None, "9 rows can be used, expected at least 10"),
        (["{", *rows(3)], None, "the first bad one, line 1: not JSON"),
        (rows(20), 11, "of 20 rows 11 would be held back and 9 be learnt from"),
        ([{"question": "Same?", "answer": "a"}] * 20, 4, "of 20 rows 0 would be held back"),
    ],
)
def test_too_few_rows_say_how_many_there_are(tmp_path: Path, made: Any, holdout: int | None, words: str) -> None:
    with pytest.raises(InputError) as caught:
        read_lessons(write(tmp_path, made), holdout=holdout, seed=0)

    assert words in caught.value.what and "rows.jsonl" in str(caught.value.where) and caught.value.remedy


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_lessons(tmp_path / "none.jsonl", holdout=None, seed=0)


def test_the_target_is_the_answer_unless_the_row_has_one() -> None:
    assert target_of(row(1, answer="mice")) == "mice"
    assert target_of(row(1, answer="colour|color")) == "colour"
    assert target_of(row(1, answer="mice", target="Answer: mice")) == "Answer: mice"


def test_targets_that_would_be_graded_wrong_are_told() -> None:
    assert strays([row(1, answer="mice"), row(2, answer="mice", target="mouses"), row(3, target="1.")]) == [2]


def test_choices_are_learnt_as_they_are_asked(tmp_path: Path) -> None:
    made = [{"question": f"Pick {n}", "choices": ["a dog", f"{n}"], "answer": "B"} for n in range(10)]
    found = read_lessons(write(tmp_path, made), holdout=2, seed=0)

    assert asked(found.held[0]).splitlines()[1:] == ["A) a dog", f"B) {found.held[0].question.choices[1]}"]
    assert target_of(found.held[0]) == "B"
