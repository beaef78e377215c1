"""Reading programs out of drafts."""

from __future__ import annotations

import doctest
import warnings

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from composer.answers import program as module
from composer.answers.program import program, syntax_error

CALM = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a busy machine is no failure
CODE = "def f(x):\n    return x + 1"


def test_the_examples_in_the_docstrings_hold() -> None:
    assert doctest.testmod(module).failed == 0


@pytest.mark.parametrize(
    "text",
    [
        f"```python\n{CODE}\n```",
        f"Here you are:\n\n```py\n{CODE}\n```\nIt adds one.",
        f"```\n{CODE}\n```",
        f"~~~python\n{CODE}\n~~~",
        f"First try:\n```python\ndef f(x): return x\n```\nBetter:\n```python\n{CODE}\n```",
        f"```python\n{CODE}\n```\nUse it:\n```python\nprint(f(1))\n```",
        f"```python\n{CODE}\n```\nOutput:\n```\n2\n```",
        f"```python\n{CODE}\n",
        f"1. So:\n   ```python\n   {CODE.replace(chr(10), chr(10) + '   ')}\n   ```",
        f"```python\r\n{CODE}\r\n```".replace("\n    ", "\r\n    "),
        CODE,
        f"\n\n{CODE}\n",
    ],
)
def test_the_program_is_read_whatever_stands_around_it(text: str) -> None:
    assert program(text) == CODE


@pytest.mark.parametrize("text", ["", "sorry", "I cannot.", "42", "x", "a, b", "```python\n```", "def f(:"])
def test_a_text_without_a_program_has_none(text: str) -> None:
    assert program(text) is None


def test_a_strange_escape_in_a_program_is_no_warning_of_ours() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert program("x = '\\d'") == "x = '\\d'"


def test_why_a_text_is_not_python_is_said_with_its_line() -> None:
    assert syntax_error("x = 1") is None
    assert syntax_error("x = 1\ny = (") == "'(' was never closed on line 2"
    assert syntax_error("x = '\0'") is not None


@pytest.mark.parametrize(
    "piece", ["(", "-", "not ", "[", "lambda:", "a.", "if 1:\n ", "f'{", "```\n", "~~~", "\\\n", '"""']
)
def test_a_deeply_nested_text_is_no_program_and_no_crash(piece: str) -> None:
    program((piece * 20_000)[:20_000])
    program((piece * 20_000)[:19_999] + "1")


@CALM
@given(st.text("`~ \n\tpython:def()=1'\"#\\", max_size=200))
def test_no_text_makes_it_raise(text: str) -> None:
    code = program(text)

    assert code is None or code.strip()
