"""The two hand-written test sets: questions without a skill, and questions whose words point to the wrong one."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import pytest

import evals.tasks.skills
from composer.answers.extract import extract, holds, words
from composer.answers.grade import grade
from composer.jsonl import Labelled, read_questions

FOLDER = Path(evals.tasks.skills.__path__[0])
KIND = {"arithmetic": "number", "sorting": "list", "extraction": "json", "units": "number"}
FACTORS = {
    ("hours", "minutes"): 60,
    ("minutes", "seconds"): 60,
    ("days", "hours"): 24,
    ("weeks", "days"): 7,
    ("kilometres", "metres"): 1000,
    ("metres", "centimetres"): 100,
    ("centimetres", "millimetres"): 10,
    ("kilograms", "grams"): 1000,
    ("litres", "millilitres"): 1000,
    ("feet", "inches"): 12,
}


def load(name: str) -> tuple[Labelled, ...]:
    read = read_questions(FOLDER / f"{name}.jsonl", labelled=True)
    assert read.errors == ()
    return read.rows


NOSKILL, MISLEADING = load("noskill"), load("misleading")


def of(task: str) -> list[Labelled]:
    return [row for row in MISLEADING if row.task == task]


def name(row: Labelled) -> str:
    return row.question.id


def test_the_sets_have_their_promised_sizes_and_kinds() -> None:
    assert len(NOSKILL) == 50
    assert {(row.task, row.question.kind) for row in NOSKILL} == {("none", "text")}
    assert Counter(row.task for row in MISLEADING) == dict.fromkeys(KIND, 15)
    assert all(row.question.kind == KIND[row.task or ""] for row in MISLEADING)


def test_no_id_and_no_question_comes_twice() -> None:
    rows = NOSKILL + MISLEADING

    assert len({row.question.id for row in rows}) == len(rows)
    assert len({" ".join(words(row.question.text)) for row in rows}) == len(rows)


@pytest.mark.parametrize("row", NOSKILL, ids=name)
def test_repeating_a_question_does_not_answer_it(row: Labelled) -> None:
    text = row.question.text

    assert grade(extract(text, "text"), row.answer, "text", text=text) == 0.0


@pytest.mark.parametrize("row", NOSKILL + MISLEADING, ids=name)
def test_every_label_is_right_about_itself(row: Labelled) -> None:
    kind = row.question.kind
    assert kind is not None

    for said in row.answer.split("|"):
        assert grade(extract(said, kind), row.answer, kind, text=said) == 1.0


@pytest.mark.parametrize("row", of("arithmetic"), ids=name)
def test_sums_and_products_are_right_and_in_range(row: Labelled) -> None:
    a, b = (int(number) for number in re.findall(r"\d+", row.question.text))
    text = row.question.text.lower()
    minus = re.search(r"minus| - |gave away|cut off", text)
    times = re.search(r"each|per|14 of these", text)

    assert int(row.answer) == (a - b if minus else a * b if times else a + b)
    assert max(a, b) <= 99
    assert not times or min(a, b) <= 9


@pytest.mark.parametrize("row", of("sorting"), ids=name)
def test_sorted_lists_are_the_sorted_items_of_the_question(row: Labelled) -> None:
    [listed] = re.findall(r"\w+(?:\"?, \"?\w+){3,}", row.question.text)
    items = re.findall(r"\w+", listed)

    assert row.answer == ", ".join(sorted(items))
    assert 4 <= len(set(items)) == len(items) <= 8


@pytest.mark.parametrize("row", of("units"), ids=name)
def test_conversions_are_right(row: Labelled) -> None:
    [(number, unit)] = re.findall(r"(\d+) ([a-z]+)", row.question.text)
    units = {unit for pair in FACTORS for unit in pair}
    [target] = {word for word in words(row.question.text) if word in units} - {unit}

    assert int(row.answer) == int(number) * FACTORS[unit, target]


@pytest.mark.parametrize("row", of("extraction"), ids=name)
def test_fields_are_named_and_values_stand_in_the_question(row: Labelled) -> None:
    fields = json.loads(row.answer)
    said = words(row.question.text)

    assert 3 <= len(fields) <= 6
    for field, value in fields.items():
        assert field in said
        assert holds(said, words(str(value)))
        assert isinstance(value, int) or not value.isdigit()


@pytest.mark.parametrize("other", ["handwritten", "general_profile"])
def test_no_question_is_known_from_another_set(other: str) -> None:
    known = {" ".join(sorted(words(row.question.text))): row.question.id for row in load(other)}

    for row in NOSKILL + MISLEADING:
        assert " ".join(sorted(words(row.question.text))) not in known
