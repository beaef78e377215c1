"""Sixty programs that mean harm, and what is left of them: no effect outside, within the limits, and the next one runs."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from composer.answers.sandbox import SECONDS, Monty
from composer.errors import ConfigError

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
    assert list(tmp_path.iterdir()) == []
    told = f"{outcome.value} {outcome.printed} {outcome.why}"
    assert SECRET not in told and "root:" not in told
    assert os.environ["SANDBOX_SECRET"] == SECRET
    assert sandbox.run("1 + 1").value == "2", "the next program runs"


def test_what_is_printed_is_bounded(sandbox: Monty) -> None:
    outcome = sandbox.run("while True: print('x' * 1000)")

    assert len(outcome.printed) <= 2_000 and outcome.why


def test_without_its_binary_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(**_: object) -> None:
        raise FileNotFoundError("could not locate the `monty` binary")

    monkeypatch.setattr("pydantic_monty.Monty", missing)
    with pytest.raises(ConfigError, match="finds no program `monty`"):
        Monty()
