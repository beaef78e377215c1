"""Equality of formulas, and the process that decides it."""

from __future__ import annotations

import doctest
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from composer.answers import equal as module
from composer.answers.equal import Algebra, Comparison, check_installed, compare
from composer.answers.formula import canonical
from composer.errors import ConfigError

ENDLESS = ("9^{9^{9^9}}", "1")


@pytest.fixture
def algebra() -> Iterator[Algebra]:
    algebra = Algebra(timeout=1.0)
    yield algebra
    algebra.close()


def same(a: str, b: str) -> bool:
    left, right = canonical(a), canonical(b)
    assert left is not None and right is not None
    result = compare(left, right)
    assert compare(right, left) == result
    return result.equal


def gone(pid: int, seconds: float) -> bool:
    """Whether the process ends within that time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        stat = Path(f"/proc/{pid}/stat")
        try:
            if stat.read_text().rsplit(")", 1)[1].split()[0] == "Z":
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.05)
    return False


def test_the_examples_in_the_docstrings_hold() -> None:
    assert doctest.testmod(module).failed == 0


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (r"\frac{1}{2}", "0.5"),
        (r"\sqrt{8}", r"2\sqrt{2}"),
        (r"\frac{\sqrt{3}}{3}", r"\frac{1}{\sqrt{3}}"),
        ("x^2+2x+1", "(x+1)^2"),
        ("2x+3", "3+2x"),
        ("y=2x+3", "2x+3"),
        ("2x-y+3=0", "y=2x+3"),
        (r"\{1, 2\}", r"\{2, 1\}"),
        ("2, 1", r"\{1,2\}"),
        ("x=1, y=2", "y=2, x=1"),
        ("x=2 or x=3", "3, 2"),
        ("1<x<2", "(1,2)"),
        (r"(-\infty, 3]", r"x \le 3"),
        (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{bmatrix}1\\2\end{bmatrix}"),
        (r"50\%", "0.5"),
        (r"50\%", "50"),
        (r"\frac{1}{3}", "0.333333"),
        (r"1\frac{1}{2}", "1.5"),
        (r"\log_2 8", "3"),
        (r"\sin^2 x + \cos^2 x", "1"),
        ("3!", "6"),
        (r"2\pi r", r"2 r \pi"),
        ("1000000.0000001", "1000000.0000002"),
    ],
)
def test_equal_formulas_are_equal_both_ways(a: str, b: str) -> None:
    assert same(a, b)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("1", "2"),
        (r"\frac{1}{3}", "0.33"),
        ("0.0000001", "0.0000002"),
        ("10^{-7}", "0.0000002"),
        ("e^{-40}", "e^{-41}"),
        (r"\pi", "3.14"),
        ("p-q", "q-p"),
        ("x", "y"),
        ("(1,2)", "(2,1)"),
        ("[1,2]", "(1,2)"),
        ("listen", "silent"),
        ("no solution", "0"),
    ],
)
def test_other_formulas_are_not(a: str, b: str) -> None:
    assert not same(a, b)


def test_what_is_no_formula_is_not_equal_and_says_so() -> None:
    assert compare("1+", "2").why == "not read as a formula: 1+"


def test_a_comparison_without_end_is_killed_counted_and_said(algebra: Algebra) -> None:
    algebra.compare("x", "y")  # the child is there
    began = time.monotonic()

    result = algebra.compare(*ENDLESS)

    assert result == Comparison(False, "took longer than 1 s")
    assert algebra.timeouts == 1
    assert time.monotonic() - began < 3
    assert algebra.compare("2x", "x+x") == Comparison(True)


def test_memory_without_end_is_refused(algebra: Algebra) -> None:
    result = algebra.compare(r"\sum_{k=1}^{10^9}k^k", "1")

    assert not result.equal
    assert algebra.compare("2x", "x+x") == Comparison(True)


def test_a_child_killed_from_outside_costs_nothing(algebra: Algebra) -> None:
    algebra.compare("x", "y")
    assert algebra._process is not None
    os.kill(algebra._process.pid, signal.SIGKILL)

    assert algebra.compare("2x", "x+x") == Comparison(True)
    assert algebra.timeouts == 0


def test_threads_may_ask_at_the_same_time(algebra: Algebra) -> None:
    with ThreadPoolExecutor(4) as threads:
        results = list(threads.map(lambda n: algebra.compare(f"{n}x", f"x+{n - 1}x").equal, range(2, 22)))

    assert all(results)


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('touch {0}')",
        r"\text{{__import__('os').system('touch {0}')}}",
        r"\operatorname{{eval}}(open('{0}','w'))",
        r"\boxed{{open('{0}','w')}}",
        "lambda: open('{0}', 'w')",
        'sympify(\'open("{0}","w")\')',
        r"\frac{{open('{0}','w')}}{{1}}",
        "().__class__.__base__.__subclasses__()",
    ],
)
def test_no_text_of_a_model_is_run(text: str, tmp_path: Path, algebra: Algebra) -> None:
    file = tmp_path / "touched"

    for form in (text.format(file), canonical(text.format(file)) or ""):
        compare(form, "1+x")
        algebra.compare(form, "1+x")  # also without our own look at its characters
        assert not file.exists()


def test_text_that_sympy_would_evaluate_is_refused_in_the_child() -> None:
    code = (
        "import sys, sympy; sys.path.insert(0, sys.argv[1]); import equal_child as child\n"
        "child.sympy_parser.eval_expr = child._numeral\n"
        "assert sympy.sympify('12') == 12 and sympy.sympify('0.5') == 0.5\n"
        "try: sympy.sympify('print(1)')\nexcept ValueError: print('refused')"
    )

    done = subprocess.run(
        [sys.executable, "-c", code, str(Path(module.__file__).parent)], capture_output=True, text=True
    )

    assert (done.stdout, done.stderr) == ("refused\n", "")


@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
def test_no_child_outlives_its_parent(busy: bool) -> None:
    code = (
        "from composer.answers.equal import Algebra\nimport threading, time\nalgebra = Algebra(timeout=2)\n"
        "algebra.compare('x', 'y'); print(algebra._process.pid, flush=True)\n"
        + (f"algebra.compare(*{ENDLESS!r})" if busy else "time.sleep(60)")
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    time.sleep(0.2)

    parent.kill()
    parent.communicate()

    assert gone(child, seconds=30)


def test_the_child_has_no_secrets(algebra: Algebra, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-canary")

    algebra.compare("x", "y")

    assert algebra._process is not None
    assert b"canary" not in Path(f"/proc/{algebra._process.pid}/environ").read_bytes()


def test_a_missing_library_is_named_with_the_extra_that_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: None)

    with pytest.raises(ConfigError, match=r"composition-of-experts\[math\]"):
        check_installed()
    with pytest.raises(ConfigError, match="math-verify"):
        Algebra().compare("x", "y")
    assert compare("0.5", "0.50").equal  # numbers and equal texts need no library


def test_a_child_that_is_killed_while_it_starts_is_started_again() -> None:
    algebra = Algebra()

    def strike() -> None:
        while (child := algebra._process) is None:
            time.sleep(0.001)
        child.kill()

    striking = threading.Thread(target=strike)
    striking.start()
    found = algebra.compare("x+1", "1+x")
    striking.join()
    algebra.close()

    assert found == Comparison(True)
