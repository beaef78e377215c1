"""Running programs that models wrote: what is right, what is wrong, and what gets out."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from composer.answers import trial
from composer.answers.program import Verdict
from composer.answers.trial import OUTPUT, Trial, run_tests

ADD = "def add(a, b):\n    return a + b"
# What a function gives, changed: every test that looks at it must fail.
SPOILT = """
def _spoilt(value):
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return value + 1
    if isinstance(value, str):
        return value + "?"
    return 1 if value is None else None
_right = {0}
def {0}(*given):
    return _spoilt(_right(*given))
"""
_HERE = Path(__file__).resolve()
_PLACES = (
    [Path(os.environ["COE_DATA"])]
    if "COE_DATA" in os.environ
    else [parent / "shared" / "data" for parent in _HERE.parents[3:6]]
)
_FILES = [place / "benchmarks" / "HumanEval.jsonl.gz" for place in _PLACES]
HUMAN_EVAL = next((file for file in _FILES if file.exists()), None)

needs_data = pytest.mark.skipif(HUMAN_EVAL is None, reason="no HumanEval: set COE_DATA to the recorded data's folder")


def tried(program: str, *tests: str, timeout: float = 10.0) -> Trial:
    return run_tests(program, tests or ["pass"], execute=True, timeout=timeout)


def human_eval(step: int) -> Iterator[tuple[str, str, str]]:
    """(program, the same spoilt, test) of every `step`th problem."""
    assert HUMAN_EVAL is not None
    with gzip.open(HUMAN_EVAL, "rt", encoding="utf-8") as file:
        rows: list[dict[str, Any]] = [json.loads(line) for line in file]
    for row in rows[::step]:
        program = row["prompt"] + row["canonical_solution"]
        test = f"{row['test']}\ncheck({row['entry_point']})"
        yield program, program + SPOILT.format(row["entry_point"]), test


@pytest.fixture(params=["walls", "no walls"])
def walls(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> bool:
    """With all that this system allows, and as on one that allows nothing."""
    if request.param == "no walls":
        child = tmp_path / "child.py"
        text = trial._CHILD.read_text()
        assert 'sys.platform == "linux"' in text
        child.write_text(text.replace('sys.platform == "linux"', "False"))
        monkeypatch.setattr(trial, "_CHILD", child)
    return bool(request.param == "walls")


def test_nothing_is_run_unless_the_caller_allows_it(tmp_path: Path) -> None:
    result = run_tests(f"open({str(tmp_path / 'ran')!r}, 'w')", ["pass", "pass"])

    assert result.verdicts == ("refused", "refused")
    assert "`execute`" in result.why
    assert list(tmp_path.iterdir()) == []


def test_every_test_has_its_own_verdict(walls: bool) -> None:
    result = tried(
        ADD, "assert add(1, 2) == 3", "assert add(1, 2) == 4", "add(1)", "assert add(", "assert add('a', 'b') == 'ab'"
    )

    assert result.verdicts == ("passed", "failed", "failed", "failed", "passed")
    assert "SyntaxError" in result.output


def test_every_test_has_a_program_of_its_own() -> None:
    assert tried("seen = []", "seen.append(1); assert seen == [1]", "assert seen == []").verdicts == (
        "passed",
        "passed",
    )


@pytest.mark.parametrize(
    "program",
    [
        "from __future__ import annotations\nfrom dataclasses import dataclass\n@dataclass\nclass A:\n    x: int",
        "import asyncio\nasync def f():\n    return 1\nassert asyncio.run(f()) == 1",
        "with open('mine.txt', 'w') as file:\n    file.write('a')\nassert open('mine.txt').read() == 'a'",
        "import tempfile\nwith tempfile.TemporaryFile() as file:\n    file.write(b'a')",
        "if __name__ == '__main__':\n    input()",
        "import sys\nsys.setrecursionlimit(5000)\nprint('é')",
        "import numpy\nassert numpy.zeros(3).sum() == 0",
    ],
)
def test_what_programs_usually_do_is_allowed(program: str, walls: bool) -> None:
    result = tried(program)

    assert result.verdicts == ("passed",), result.output


@pytest.mark.parametrize(
    "program",
    [
        "raise SystemExit(0)",
        "import os; os._exit(0)",
        "import sys; sys.exit()",
        "import os; os.abort()",
        "x = [0] * 10**10",
        "def f(): return f()\nf()",
        "print('x' * 10**8)",
        "input()",
        "(" * 100_000,
        "x = '\0'",
        "x = '\ud800'",
    ],
)
def test_a_program_that_ends_itself_or_never_begins_passes_nothing(program: str, walls: bool) -> None:
    assert tried(program).verdicts == ("failed",)


@pytest.mark.parametrize(
    "program",
    [
        "import os; os.system('true')",
        "import subprocess; subprocess.run(['true'])",
        "import os; os.fork()",
        "import os; os.kill(os.getppid(), 9)",
        "import socket; socket.create_connection(('127.0.0.1', 9))",
        "import urllib.request; urllib.request.urlopen('http://127.0.0.1:9')",
        "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'a', ('127.0.0.1', 9))",
    ],
)
def test_a_program_that_reaches_out_is_told_that_it_may_not(program: str, walls: bool) -> None:
    result = tried(program)

    assert result.verdicts == ("failed",)
    assert "is not allowed to a program that is tried" in result.output


def test_an_endless_program_is_killed_and_its_tests_have_timed_out(walls: bool) -> None:
    began = time.monotonic()

    result = tried("def f():\n    while True: pass", "assert 1", "f()", "assert 1", timeout=1.0)

    assert result.verdicts == ("passed", "timed out", "timed out")
    assert time.monotonic() - began < 5


def test_a_program_sees_no_secret_and_an_empty_folder(monkeypatch: pytest.MonkeyPatch, walls: bool) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-canary")

    result = tried("import os\nprint(dict(os.environ), os.listdir(), os.getcwd() == os.environ['HOME'])", "assert 0")

    assert "canary" not in result.output
    assert "[] True" in result.output


def test_only_the_end_of_what_is_printed_is_kept() -> None:
    result = tried("print('é' * 100_000, 'end')", "assert 0")

    assert len(result.output) <= OUTPUT
    assert "end" in result.output


def test_nothing_is_left_of_a_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    tried("import os\nos.mkdir('a')\nopen('a/b', 'w').close()\nos.chmod('a', 0)")

    assert list(tmp_path.iterdir()) == []


WALLS = tried("").walls


def test_no_wall_is_claimed_that_does_not_stand(walls: bool) -> None:
    assert tried("").walls == (WALLS if walls else ())


@pytest.mark.skipif("files" not in WALLS, reason="this kernel has no Landlock")
@pytest.mark.parametrize(
    "program",
    [
        "open({0!r} + '/new', 'w')",
        "open({0!r} + '/old', 'a')",
        "import os; os.remove({0!r} + '/old')",
        "import shutil; shutil.rmtree({0!r})",
        "import os; os.rename({0!r} + '/old', 'mine')",
        "import os; os.symlink('a', {0!r} + '/new')",
        "import ctypes; assert ctypes.CDLL(None).system(b'echo a > ' + {0!r}.encode() + b'/new') == 0",
    ],
)
def test_files_elsewhere_stay_as_they_are(program: str, tmp_path: Path) -> None:
    (tmp_path / "old").write_text("old")

    result = tried(program.format(str(tmp_path)))

    assert result.verdicts == ("failed",)
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("old", "old")]


@pytest.mark.skipif("files" not in WALLS, reason="this kernel has no Landlock")
def test_keys_in_the_environment_of_others_are_out_of_reach() -> None:
    result = tried(f"print(open('/proc/{os.getpid()}/environ').read())")

    assert result.verdicts == ("failed",)
    assert "PermissionError" in result.output


@pytest.mark.skipif("namespaces" not in WALLS, reason="this system allows no namespaces")
def test_there_is_no_network_even_below_python() -> None:
    listener = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import socket; s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1], flush=True); s.accept(); print('met')",
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert listener.stdout is not None
    port = int(listener.stdout.readline())
    program = (
        "import ctypes, struct\nc = ctypes.CDLL(None)\ns = c.socket(2, 1, 0)\n"
        f"address = struct.pack('=H', 2) + struct.pack('>H', {port}) + bytes([127, 0, 0, 1]) + bytes(8)\n"
        "assert c.connect(s, address, 16) == 0"
    )

    assert tried(program).verdicts == ("failed",)

    listener.kill()
    assert listener.communicate()[0] == ""


@pytest.mark.skipif("namespaces" not in WALLS, reason="this system allows no namespaces")
def test_no_process_outlives_the_test_that_started_it(tmp_path: Path) -> None:
    program = (
        "import ctypes, time\nc = ctypes.CDLL(None)\n"
        "if c.fork() == 0:\n    c.setsid()\n    c.prctl(15, b'coe-leftover')\n    while True: time.sleep(0.1)\n"
    )

    result = tried(program, "time.sleep(0.3)")

    names = [path.read_text().strip() for path in Path("/proc").glob("[0-9]*/comm") if path.exists()]
    assert result.verdicts == ("passed",)
    assert "coe-leftover" not in names


def test_no_child_outlives_its_parent() -> None:
    code = (
        "from composer.answers.trial import run_tests\n"
        "program = 'import ctypes; ctypes.CDLL(None).prctl(15, b\"coe-orphan\")\\nwhile True: pass'\n"
        "run_tests(program, ['pass'], execute=True, timeout=60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code])

    def running() -> bool:
        return any(path.read_text().strip() == "coe-orphan" for path in Path("/proc").glob("[0-9]*/comm"))

    _until(running)
    parent.send_signal(signal.SIGKILL)
    parent.wait()

    _until(lambda: not running())


def _until(condition: Any) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def _check(step: int) -> None:
    right: list[tuple[Verdict, ...]] = []
    wrong: list[tuple[Verdict, ...]] = []
    for program, spoilt, test in human_eval(step):
        right.append(tried(program, test).verdicts)
        wrong.append(tried(spoilt, test).verdicts)

    assert set(right) == {("passed",)}
    assert set(wrong) == {("failed",)}


@needs_data
def test_the_solutions_of_some_known_problems_pass_and_spoilt_ones_fail() -> None:
    _check(step=16)


@needs_data
@pytest.mark.slow
def test_the_solutions_of_all_known_problems_pass_and_spoilt_ones_fail() -> None:
    _check(step=1)
