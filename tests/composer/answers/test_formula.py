"""Reading formulas, and writing them in one form."""

from __future__ import annotations

import doctest

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from composer.answers import formula as module
from composer.answers import number
from composer.answers.formula import LONGEST, canonical, formula, labelled

CALM = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a busy machine is no failure


def test_the_examples_in_the_docstrings_hold() -> None:
    assert doctest.testmod(module).failed == 0
    assert doctest.testmod(number).failed == 0


@pytest.mark.parametrize(
    ("text", "form"),
    [
        (r"so \boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{1}, no, \boxed{2}.", "2"),
        (r"\boxed{\{1, 2\}} and that is all, 7", r"\{1,2\}"),
        (r"\boxed{x = \frac{\sqrt{3}}{2}}", r"\frac{\sqrt{3}}{2}"),
        (r"\boxed{} but the answer is 5", "5"),
        (r"cut off at \boxed{12", "12"),
        ("The final answer is $\\frac{1}{2}$. I hope it is correct.", r"\frac{1}{2}"),
        ("The answer is:\n\n$$x = 5$$\nbecause of 7.", "5"),
        ("The answer is $x=2$ and $x=3$, of 4.", "x=2,x=3"),
        (r"**Answer:** \(2\pi\)", r"2\pi"),
        ("The answer is 5 apples because 2+3.", "5"),
        ("Answer: 42 kg, which is 3 more", "42"),
        ("The answer is 3/4 of it.", r"\frac{3}{4}"),
        ("The answer is 12 + 30 = 42.", "42"),
        ("The answer is 2x + 3.", "2x+3"),
        ("The answer is no solution.", "no solution"),
        ("#### 72", "72"),
        ("x^2 + 1", "x^2+1"),
        ("Evelyn.", "evelyn"),
        (r"Hence \[ x = 3. \]", "3"),
        ("So $2+3=5$, and he has 5.\nThen he has 12 in all.", "12"),
        ("It costs $5 and then $7.", "7"),
        ("We get 3/4", r"\frac{3}{4}"),
    ],
)
def test_the_concluded_formula_of_a_draft_is_read(text: str, form: str) -> None:
    assert formula(text) == form


@pytest.mark.parametrize("text", ["", "I am not sure.", "...", r"\boxed{}", "$", "It depends."])
def test_a_draft_without_a_formula_has_none(text: str) -> None:
    assert formula(text) is None


@pytest.mark.parametrize(
    ("form", "variants"),
    [
        (r"\frac{1}{2}", [r"\dfrac{1}{2}", r"\tfrac12", r"\frac 1 2", "1/2", r"\frac1{2}", "½", r"$\frac{1}{2}$."]),
        (r"-\frac{1}{2}", [r"\frac{-1}{2}", r"-\dfrac12", "-1/2", "−1/2"]),
        (r"(\frac{1}{2},3)", [r"\left( \dfrac{1}{2},\, 3 \right)", r"\bigl(\frac12, 3\bigr)"]),
        ("1000", ["1,000", r"1{,}000", r"1\,000", r"\$1000", "$1,000.00", "1000 km", r"1000\text{ km}", "x = 1000"]),
        ("0.5", [".5", "0.50", r"0.5\mathrm{ cm}^2", "0.5 square metres"]),
        ("90", [r"90^\circ", r"90^{\circ}", "90°", "90 degrees"]),
        ("50%", [r"50\%", "50 %"]),
        (r"2\sqrt{3}", [r"2 \sqrt3", "2√3", "2 sqrt(3)", r"2\sqrt{3}\text{ units}"]),
        (r"2\pi r", ["2π r", r"2 \pi r", "2 pi r"]),
        (r"x\le3", [r"x \leq 3", "x ≤ 3"]),
        ("5,6", [r"5 \text{ or } 6", "5 and 6", "5, 6"]),
        ("no solution", [r"\text{No solution}", "No solution."]),
        ("(B)", [r"\text{(B)}", r"\textbf{(B)}"]),
        ("x^2", ["x^{2}", "x**2", "x²"]),
        ("5i", [r"5\mathrm{i}"]),
        ("5!", ["5!"]),
        ("y=2x+3", ["y = 2x + 3"]),
        ("42", ["a = 6 \\cdot 7 = 42", "40 + 2 = 42"]),
    ],
)
def test_what_only_looks_different_has_one_form(form: str, variants: list[str]) -> None:
    assert canonical(form) == form
    assert {variant: canonical(variant) for variant in variants} == dict.fromkeys(variants, form)


@CALM
@given(st.integers(-(10**12), 10**12))
def test_a_plain_number_is_written_as_numbers_are(value: int) -> None:
    assert canonical(f"{value:,}") == formula(f"It is \\boxed{{{value}}}.") == str(value)


@pytest.mark.parametrize(
    ("gold", "form"),
    [("$x^2$", "x^2"), (r"We see that \boxed{7} holds", "7"), ("3 + 4 = 7\n#### 7", "7"), ("two words", "two words")],
)
def test_a_label_is_a_formula_or_a_worked_solution(gold: str, form: str) -> None:
    assert labelled(gold) == form


@CALM
@given(st.text(r"0123456789,.-+=$% \{}()[]^_abxfracsqrttextboxedleft/*" + "\n", max_size=200))
def test_no_text_makes_it_raise_and_forms_are_short(text: str) -> None:
    for read in (formula, canonical, labelled):
        form = read(text)
        assert form is None or 0 < len(form) <= 3 * LONGEST
