"""Scoring answers."""

from __future__ import annotations

import doctest
from typing import get_args

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from composer.answers import grade as module
from composer.answers.extract import extract
from composer.answers.grade import canonical_gold, grade
from composer.answers.program import Verdict
from composer.errors import InputError
from composer.types import Kind

CALM = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a busy machine is no failure
KINDS: tuple[Kind, ...] = get_args(Kind)


def score(text: str, gold: str, kind: Kind, choices: tuple[str, ...] = ()) -> float:
    return grade(extract(text, kind, choices), gold, kind, choices, text=text)


def test_the_examples_in_the_docstrings_hold() -> None:
    assert doctest.testmod(module).failed == 0


@pytest.mark.parametrize("kind", KINDS)
def test_no_answer_is_never_right(kind: Kind) -> None:
    assert grade(None, "5", kind, text="5") == 0.0


@pytest.mark.parametrize(
    ("text", "gold"), [("= 1,234.0", "1234"), ("0.3333333333", "0.33333333333"), ("5 kg", "5.0 kg")]
)
def test_numbers_are_equal_by_value(text: str, gold: str) -> None:
    assert score(text, gold, "number") == 1.0


@pytest.mark.parametrize(("text", "gold"), [("1234", "1235"), ("-5", "5"), ("0.000001", "0"), ("3.14", "3.14159")])
def test_other_numbers_are_wrong(text: str, gold: str) -> None:
    assert score(text, gold, "number") == 0.0


@pytest.mark.parametrize("gold", ["B", "b", "green", "Green."])
def test_a_choice_is_labelled_by_letter_or_text(gold: str) -> None:
    assert score("The answer is (B)", gold, "choice", ("red", "green")) == 1.0
    assert score("The answer is (A)", gold, "choice", ("red", "green")) == 0.0


def test_a_choice_that_is_labelled_with_no_choice_is_wrong_for_everybody() -> None:
    assert canonical_gold("blue", "choice", ("red", "green")) is None
    assert score("A", "blue", "choice", ("red", "green")) == 0.0


def test_lists_sets_and_json_are_compared_in_canonical_form() -> None:
    assert score("Sorted: ant, Bee and cow", "ant, bee, cow", "list") == 1.0
    assert score("bee, ant, cow", "ant, bee, cow", "list") == 0.0
    assert score("bee, ant", "ant, bee, ant", "set") == 1.0
    assert score('```json\n{"b": 2.0, "a": "x"}\n```', '{"a": "x", "b": 2}', "json") == 1.0
    assert score('{"a": "x"}', '{"a": "x", "b": 2}', "json") == 0.0


@pytest.mark.parametrize(
    "text",
    [
        "Paris",
        "paris.",
        "The capital of France is Paris.",
        "What is the capital of France?\nIt is **Paris**, on the Seine.",
        "Good question. It is Paris.",
    ],
)
def test_a_text_is_right_in_a_full_sentence(text: str) -> None:
    assert score(text, "Paris", "text") == 1.0


@pytest.mark.parametrize(
    "text",
    [
        "London",
        "Parisian",
        "It is hard to say. There are many cities. One is Paris.",
        "Well, " * 40 + "Paris",
    ],
)
def test_a_text_that_gets_there_late_or_not_at_all_is_wrong(text: str) -> None:
    assert score(text, "Paris", "text") == 0.0


@pytest.mark.parametrize(
    ("text", "gold"),
    [
        ("It was written by J. K. Rowling.", "J.K. Rowling"),
        ("It is ice-cream", "ice cream"),
        ("São Paulo", "Sao Paulo"),
        ("The colour is grey.", "gray|grey"),
        ("About 1,000 of them", "1000"),
        ("The moon", "the Moon"),
        ("I like C++ best", "C++"),
    ],
)
def test_spelling_that_does_not_matter_is_forgiven(text: str, gold: str) -> None:
    assert score(text, gold, "text") == 1.0


@pytest.mark.parametrize(
    ("text", "gold"),
    [
        (r"Hence \boxed{\frac{2}{4}}.", r"\frac{1}{2}"),
        ("The answer is 0.5", r"$\frac{1}{2}$"),
        (r"so $x = 2\sqrt{2}$", r"The distance is \boxed{\sqrt{8}}."),
        ("The answer is evelyn.", r"\text{Evelyn}"),
    ],
)
def test_formulas_are_right_whatever_form_they_have(text: str, gold: str) -> None:
    assert score(text, gold, "math") == 1.0


@pytest.mark.parametrize(("text", "gold"), [(r"\boxed{2}", r"\frac{1}{2}"), ("no idea at all", "5"), ("5", "$")])
def test_other_formulas_are_wrong(text: str, gold: str) -> None:
    assert score(text, gold, "math") == 0.0


def test_a_program_is_right_when_all_its_tests_passed() -> None:
    assert grade("x = 1", "", "code", verdicts=["passed", "passed"]) == 1.0
    assert grade("x = 1", "x = 1", "code", verdicts=["passed", "failed"]) == 0.0
    assert grade("x = 1", "", "code", verdicts=["passed", "timed out"]) == 0.0
    assert grade(None, "", "code") == 0.0


@pytest.mark.parametrize("verdicts", [[], ["passed", "refused"]])
def test_a_program_whose_tests_were_not_run_has_no_grade(verdicts: list[Verdict]) -> None:
    with pytest.raises(InputError, match="were not run"):
        grade("x = 1", "x = 1", "code", verdicts=verdicts)


def test_an_empty_alternative_matches_nothing() -> None:
    assert score("anything", "Paris|", "text") == 0.0
    assert canonical_gold("|", "text") is None


@pytest.mark.parametrize("kind", KINDS)
@CALM
@given(text=st.text(st.characters(), max_size=60), gold=st.text(st.characters(), max_size=60))
def test_every_score_is_between_0_and_1(kind: Kind, text: str, gold: str) -> None:
    assert 0.0 <= grade(extract(text, kind), gold, kind, text=text, verdicts=["passed"]) <= 1.0


@pytest.mark.parametrize("kind", ["number", "list", "set", "json"])
@CALM
@given(gold=st.text('0123456789,.ab{}[]": ', max_size=30))
def test_a_readable_label_is_right_about_itself(kind: Kind, gold: str) -> None:
    assert score(gold, gold, kind) == float(canonical_gold(gold, kind) is not None)


def test_steps_before_the_answer_line_are_no_answer() -> None:
    draft = "Tuesday + 2 = Thursday\nAnswer: Friday"

    answer = extract(draft, "text")

    assert answer == "friday"
    assert grade(answer, "Friday", "text", text=draft) == 1.0
    assert grade(answer, "Thursday", "text", text=draft) == 0.0
