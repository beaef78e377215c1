"""Whether two formulas are equal: a library decides, in a child process that is killed when it takes too long."""

from __future__ import annotations

import atexit
import json
import os
import re
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from composer.answers.formula import is_word
from composer.answers.number import whole_number
from composer.errors import ConfigError

TIMEOUT = 2.0
"""Seconds of wall time for one comparison."""

MEMORY = 1 << 30
"""Bytes of address space of the child; it needs a third of them."""

_START = 60.0  # seconds until the library is imported; 0.7 here
_CHILD = Path(__file__).with_name("equal_child.py")
# What LaTeX is made of. Nothing the library does with these characters runs them; others are not even shown to it.
_LATEX = re.compile(r"(?!.*__)[A-Za-z0-9 \\{}()\[\]^_+\-*/=<>|.,;:!&%'~]{1,500}")


@dataclass(frozen=True, slots=True)
class Comparison:
    """Whether two formulas are equal; `why` says what kept us from finding out, "" where nothing did."""

    equal: bool
    why: str = ""


class Algebra:
    """The child process, started when first asked. One comparison runs at a time; any thread may ask.

    `timeouts` counts the comparisons that took too long. `close` ends the child; the next comparison starts another.
    """

    def __init__(self, timeout: float = TIMEOUT, memory: int = MEMORY) -> None:
        self.timeout, self.memory = timeout, memory
        self.timeouts = 0
        self._process: subprocess.Popen[str] | None = None
        self._owner = 0
        self._lock = threading.Lock()

    def compare(self, a: str, b: str) -> Comparison:
        """Raises ConfigError where the library is not installed; no text makes it raise, hang or take the memory."""
        check_installed()
        task = json.dumps({"a": a, "b": b}) + "\n"
        with self._lock:
            for _ in range(2):  # a child that somebody else killed says nothing about the formulas
                process = self._running()
                began = time.monotonic()
                if reply := _ask(process, task, self.timeout):
                    return Comparison(**json.loads(reply))
                self._end()
                if time.monotonic() - began >= self.timeout:
                    self.timeouts += 1
                    return Comparison(False, f"took longer than {self.timeout:g} s")
        return Comparison(False, "ended the process that compares")

    def close(self) -> None:
        """End the child, if there is one."""
        with self._lock:
            self._end()

    def _running(self) -> subprocess.Popen[str]:
        if self._process is not None and self._owner == os.getpid():  # a fork must not share its parent's pipes
            return self._process
        for _ in range(2):  # one that somebody else killed while it started says nothing about the library
            process = self._started()
            if _ask(process, "", _START):
                return process
            self._end()
        raise ConfigError(
            "the process that compares formulas did not start",
            where="kind `math`",
            remedy=f"see what this prints: python {_CHILD} {self.memory} {self.timeout + 1}",
        )

    def _started(self) -> subprocess.Popen[str]:
        self._process = process = subprocess.Popen(
            # What -I does, and a fixed hash seed: what sympy makes of a formula can depend on the order of sets.
            [sys.executable, "-P", "-s", "-B", str(_CHILD), str(self.memory), str(self.timeout + 1)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            encoding="utf-8",
            env=bare_environment() | {"PYTHONHASHSEED": "0"},
        )
        self._owner = os.getpid()
        atexit.register(self.close)
        return process

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None and self._owner == os.getpid():
            process.kill()
            process.communicate()


def _ask(process: subprocess.Popen[str], task: str, timeout: float) -> str:
    """The child's next line; "" where it is dead, or was killed because its time was over."""
    assert process.stdin is not None and process.stdout is not None
    clock = threading.Timer(timeout, process.kill)
    clock.start()
    try:
        process.stdin.write(task)
        process.stdin.flush()
        return process.stdout.readline()
    except BrokenPipeError:
        return ""
    finally:
        clock.cancel()


_ALGEBRA = Algebra()


def compare(a: str, b: str) -> Comparison:
    r"""Whether two canonical formulas are equal. Numbers are equal to 1e-9, relatively; words are equal as texts.

    The rest is asked of math-verify, in a child without secrets, with limits of time and memory. What takes too long,
    or is no formula, is not equal, and says why.

    >>> compare(r"2\sqrt{2}", r"\sqrt{8}")
    Comparison(equal=True, why='')
    """
    if a == b:
        return Comparison(True)
    x, y = whole_number(a), whole_number(b)
    if x is not None and y is not None:
        return Comparison(close(x, y))
    if is_word(a) or is_word(b):
        return Comparison(False)
    return _decided(min(a, b), max(a, b))


@lru_cache(maxsize=20_000)
def _decided(a: str, b: str) -> Comparison:
    for text in (a, b):
        if not _LATEX.fullmatch(text):
            return Comparison(False, f"not read as a formula: {text[:80]}")
    return _ALGEBRA.compare(a, b)


def timeouts() -> int:
    """How many comparisons of this process took too long, and count as not equal."""
    return _ALGEBRA.timeouts


def close(a: str, b: str) -> bool:
    """Whether two canonical numbers are equal to 1e-9, relative to the second."""
    x, y = Decimal(a), Decimal(b)
    return x == y or abs(x - y) <= Decimal("1e-9") * abs(y)


def check_installed(where: str = "kind `math`") -> None:
    """Raise ConfigError where formulas cannot be compared, before anything is spent on questions about them."""
    if find_spec("math_verify") is None:
        raise ConfigError(
            "comparing formulas needs the package math-verify, which is not installed",
            where=where,
            remedy="pip install 'composition-of-experts[math]'",
        )


def bare_environment() -> dict[str, str]:
    """What a Python needs to start and nothing else: no keys, no proxies."""
    kept = ("PATH", "LD_LIBRARY_PATH", "SYSTEMROOT")
    return {name: os.environ[name] for name in kept if name in os.environ}
