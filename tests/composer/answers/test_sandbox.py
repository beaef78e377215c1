"""Sixty programs that mean harm, and what is left of them: no effect outside, within the limits, and the next one runs."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from composer.answers.sandbox import SECONDS, Monty, _computed
from composer.errors import EngineError

FILE = "{file}"
ENDLESS = (
    "while True: pass",
    "while 1:\n    x = [0] * 100",
    "def f():\n    while True:\n        yield 1\nsum(f())",
    "import time\ntime.sleep(3600)",
    "n = 0\nwhile True:\n    try:\n        n += 1\n    except Exception:\n        pass",
    "while True:\n    try:\n        raise ValueError\n    except ValueError:\n        continue",
    "[i for i in range(10**12)]",
    "sum(i * i for i in range(10**11))",
    "x = 3\nwhile True: x = x * x % 1000003",
    "sorted(range(10**9), key=lambda v: -v)",
)
HUGE = (
    "x = [0]\nwhile True: x += x",
    "10 ** 10 ** 8",
    "'x' * 10 ** 10",
    "[[0] * 10 ** 6 for _ in range(10 ** 6)]",
    "d = {}\ni = 0\nwhile True:\n    d[i] = 'x' * 1000\n    i += 1",
    "1 << 10 ** 11",
    "(1).__lshift__(10 ** 11)",
    "bytes(10 ** 11)",
    "bytearray(10 ** 11)",
    "'%1000000000d' % 1",
    "f'{1:1000000000}'",
    "'a'.ljust(10 ** 11)",
    "'a'.replace('a', 'b' * 10 ** 6).replace('b', 'c' * 10 ** 6)",
    "s = 'x'\nfor _ in range(64): s = s + s",
    "list(range(10 ** 10))",
    "set(range(10 ** 10))",
    "int('9' * 10 ** 6) ** 50",
)
DEEP = (
    "def g(n): return g(n + 1)\ng(0)",
    "f = lambda: f()\nf()",
    "x = []\nfor _ in range(10 ** 5): x = [x]\nrepr(x)",
    "x = []\nx.append(x)\nstr(x) * 10 ** 9",
    "(" * 5000 + ")" * 5000,
    "eval('(' * 5000 + ')' * 5000)",
    "class A:\n    def __repr__(self): return repr(self)\nrepr(A())",
)
OUTSIDE = (
    f"open({FILE!r}, 'w').write('x')",
    f"open({FILE!r}, 'a').write('x')",
    f"from pathlib import Path\nPath({FILE!r}).write_text('x')",
    f"import os\nos.mkdir({FILE!r})",
    f"import os\nos.system('touch {FILE}')",
    f"import subprocess\nsubprocess.run(['touch', {FILE!r}])",
    f"__import__('os').system('touch {FILE}')",
    f"eval(\"__import__('os').system('touch {FILE}')\")",
    f"exec(\"import os; os.system('touch {FILE}')\")",
    f"().__class__.__bases__[0].__subclasses__()[0]; open({FILE!r}, 'w')",
    f"[c for c in ().__class__.__base__.__subclasses__() if c.__name__ == 'Popen'][0](['touch', {FILE!r}])",
    f"import importlib\nimportlib.import_module('os').system('touch {FILE}')",
    f"import builtins\nbuiltins.open({FILE!r}, 'w')",
    f"globals()['__builtins__']['open']({FILE!r}, 'w')",
    f"import shutil\nshutil.copy('/etc/passwd', {FILE!r})",
    f"import sqlite3\nsqlite3.connect({FILE!r}).execute('create table t (x)')",
    f"import ctypes\nctypes.CDLL(None).system(b'touch {FILE}')",
    f"import asyncio\nasyncio.run(asyncio.create_subprocess_exec('touch', {FILE!r}))",
    "import socket\nsocket.create_connection(('127.0.0.1', {port}))",
    "import urllib.request\nurllib.request.urlopen('http://127.0.0.1:{port}/')",
    "import http.client\nhttp.client.HTTPConnection('127.0.0.1', {port}).request('GET', '/')",
    "open('/etc/passwd').read()",
    "open('/proc/self/environ').read()",
    "import os\nos.environ['SANDBOX_SECRET']",
    "import os\nos.getenv('SANDBOX_SECRET')",
    "import os\nos.fork()",
    "import os\nos.kill(os.getppid(), 9)",
    "import sys\nsys.exit(7)",
    "raise SystemExit(7)",
    "import signal\nsignal.raise_signal(9)",
)
PROGRAMS = (*ENDLESS, *HUGE, *DEEP, *OUTSIDE)
SECRET = "a7-secret-of-the-host"


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Monty]:
    with Monty(seconds=0.5) as opened:
        yield opened


@pytest.mark.parametrize(
    ("program", "value"),
    [("def f():\n    return 3 * 4\nf()", "12"), ("print(6 * 7)", None), ("[1, 2]", "1, 2"), ("7 / 2", "3.5"), ("x = 1", None)],
)  # fmt: skip
def test_a_program_gives_its_last_value(sandbox: Monty, program: str, value: str | None) -> None:
    outcome = sandbox.run(program)

    assert (outcome.value, outcome.why) == (value, "")
    assert outcome.printed == ("42\n" if "print" in program else "")


def test_programs_know_nothing_of_each_other(sandbox: Monty) -> None:
    sandbox.run("left = 'behind'")

    assert "NameError" in sandbox.run("left").why


def test_there_are_sixty_of_them() -> None:
    assert len(set(PROGRAMS)) >= 60


@pytest.mark.parametrize("program", PROGRAMS, ids=range(len(PROGRAMS)))
def test_a_hostile_program_does_nothing_outside_and_ends(
    sandbox: Monty, program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SANDBOX_SECRET", SECRET)
    monkeypatch.chdir(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0)
        program = program.replace("{file}", str(tmp_path / "made")).replace("{port}", str(server.getsockname()[1]))
        began = time.monotonic()
        outcome = sandbox.run(program)
        took = time.monotonic() - began
        with pytest.raises(BlockingIOError):
            server.accept()

    assert took < 5 * SECONDS, "it was not ended in time"
    assert not outcome.broken, "it is the program that fails, or ends well"
    assert list(tmp_path.iterdir()) == []
    told = f"{outcome.value} {outcome.printed} {outcome.why}"
    assert SECRET not in told and "root:" not in told
    assert os.environ["SANDBOX_SECRET"] == SECRET
    assert sandbox.run("1 + 1").value == "2", "the next program runs"


@pytest.fixture
def fresh() -> Iterator[Monty]:
    OTHERS[:] = children()
    with Monty(seconds=0.5) as opened:
        yield opened


OTHERS: list[int] = []


def children() -> list[int]:
    return [int(one) for task in Path("/proc/self/task").iterdir() for one in (task / "children").read_text().split()]


def worker() -> int:
    """The process that runs the programs of `fresh`; one that has just ended may still be listed beside it."""
    for _ in range(100):
        found = {one for one in set(children()) - set(OTHERS) if alive(one)}
        if len(found) == 1:
            return found.pop()
        time.sleep(0.01)
    raise AssertionError(f"not one process, but {found}")


def alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


class Meddling:
    """A pool whose sessions meddle before they feed a program to their process, and may feed it another one; where there is a `refusal`,
    it has none."""

    def __init__(self, pool: Any, meddle: Callable[[int], str | None], refusal: Exception | None = None) -> None:
        self.pool, self.meddle, self.refusal, self.fed = pool, meddle, refusal, list[str]()

    def __enter__(self) -> Meddling:
        self.pool.__enter__()
        return self

    def __exit__(self, *why: object) -> None:
        self.pool.__exit__(*why)

    @contextmanager
    def checkout(self, **limits: Any) -> Iterator[Meddling]:
        if self.refusal is not None:
            raise self.refusal
        with self.pool.checkout(**limits) as session:
            self.session = session
            yield self

    def feed_run(self, program: str, **more: Any) -> object:
        self.fed.append(program)
        return self.session.feed_run(self.meddle(len(self.fed)) or program, **more)


def meddled(sandbox: Monty, meddle: Callable[[int], str | None], refusal: Exception | None = None) -> Meddling:
    sandbox._pool = Meddling(sandbox._pool, meddle, refusal)
    return sandbox._pool


def kills(*times: int) -> Callable[[int], str | None]:
    return lambda time: os.kill(worker(), signal.SIGKILL) if time in times else None


def test_a_program_whose_process_dies_is_run_once_more(fresh: Monty) -> None:
    pool = meddled(fresh, kills(1))
    outcome = fresh.run("6 * 7")

    assert (outcome.value, outcome.broken, pool.fed) == ("42", False, ["6 * 7"] * 2)


def test_a_program_that_ends_its_process_twice_has_failed_where_another_one_runs(fresh: Monty) -> None:
    meddled(fresh, kills(1, 2))
    outcome = fresh.run("6 * 7")

    assert not outcome.broken and "breaks what runs it: MontyCrashedError" in outcome.why
    assert fresh.run("1 + 1").value == "2"


def test_where_no_program_runs_none_has_failed(fresh: Monty) -> None:
    meddled(fresh, kills(1, 2, 3))
    outcome = fresh.run("6 * 7")

    assert outcome.broken and "MontyCrashedError" in outcome.why
    assert fresh.run("1 + 1").value == "2"


def test_a_program_that_reaches_no_process_has_not_failed(fresh: Monty) -> None:
    pool = meddled(fresh, lambda _: None, TimeoutError("no free worker"))
    outcome = fresh.run("6 * 7")

    assert (outcome.broken, outcome.why, pool.fed) == (True, "TimeoutError: no free worker", [])
    pool.refusal = None
    assert fresh.run("1 + 1").value == "2"


def test_a_process_that_cannot_be_begun_again_is_not_the_programs_fault(
    fresh: Monty, monkeypatch: pytest.MonkeyPatch
) -> None:
    meddled(fresh, kills(1))
    monkeypatch.setattr(Meddling, "__enter__", failing)
    outcome = fresh.run("6 * 7")

    assert outcome.broken and "no processes left" in outcome.why
    monkeypatch.undo()
    assert fresh.run("1 + 1").value == "2"


def failing(_: Meddling) -> Meddling:
    raise RuntimeError("no processes left")


@pytest.mark.parametrize("times", [1, 2])
def test_a_machine_that_does_not_come_to_it_is_not_the_programs_fault(
    fresh: Monty, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    monkeypatch.setattr(
        "composer.answers.sandbox._computed", lambda: 0.0
    )  # what waits for a processor computes nothing
    pool = meddled(fresh, lambda time: "while True: pass" if time <= times else None)
    outcome = fresh.run("6 * 7")

    assert (outcome.value, outcome.broken) == (("42", False) if times == 1 else (None, True))
    assert len(pool.fed) == 2 and ("too busy" in outcome.why) == outcome.broken


def test_of_a_process_that_has_ended_is_known_what_it_computed(fresh: Monty) -> None:
    before = _computed()
    fresh.run("while True: pass")

    assert _computed() - before > 0.05


def test_a_program_cannot_pass_for_one_that_the_machine_did_not_come_to(fresh: Monty) -> None:
    began = time.monotonic()
    outcome = fresh.run("raise TimeoutError('feed time limit exceeded: 500.1ms > 500ms')")

    assert not outcome.broken and "TimeoutError" in outcome.why and time.monotonic() - began < 0.4


def test_what_is_closed_runs_nothing_and_begins_nothing() -> None:
    with Monty() as sandbox:
        pass

    assert sandbox.run("1 + 1").broken
    with pytest.raises(RuntimeError, match="not active"):
        sandbox._pool.checkout().__enter__()


def test_what_is_printed_is_bounded(sandbox: Monty) -> None:
    outcome = sandbox.run("while True: print('x' * 1000)")

    assert len(outcome.printed) <= 2_000 and outcome.why


def test_an_interpreter_that_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MONTY_BIN", str(tmp_path / "monty"))
    with pytest.raises(EngineError, match="not whole") as told:
        Monty().__enter__()
    assert "pip install" in str(told.value)
