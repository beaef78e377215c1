"""Programs that models wrote, run where they can do nothing: an interface, and pydantic-monty behind it.

Monty interprets a part of Python in a process of its own that has no files, no network, no environment and no clock to wait on,
with limits of time, memory and depth. Off by default: only a strategy that the registry names runs programs at all.
"""

from __future__ import annotations

import json
import math
import os
import threading
import time
from dataclasses import dataclass, replace
from importlib.util import find_spec
from types import TracebackType
from typing import Any, Protocol, Self, cast

from composer.errors import ConfigError, EngineError
from composer.settings.strategy import Limits

SECONDS, MEMORY, DEPTH = Limits().seconds, Limits().memory, 200
_MISSING = "programs are run by the package pydantic-monty, which is not installed"
_INSTALL = "pip install 'composition-of-experts[sandbox]'"
_NESTED = 16
_STARVED = 0.1
"""Share of its time that a program computes at least, unless the machine is too busy to run it."""
LONGEST = 2_000
"""Characters of what a program gives or prints that are kept."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a program: its value as text (None: it has none that is a number, a text, or a list of them), what it printed,
    `why` it ended early ("": it did not), and its value as JSON (`data`, None: it has none that JSON knows). `broken`: what runs
    programs failed, so that `why` says nothing of this one."""

    value: str | None
    printed: str
    why: str = ""
    data: str | None = None
    broken: bool = False


class Sandbox(Protocol):
    """Runs programs, one after the other, none of which knows of another."""

    def run(self, program: str) -> Outcome:
        """What comes of it. Raises nothing."""
        ...


class Monty:
    """pydantic-monty; open as a context manager, it keeps its process for the next program. Raises ConfigError where it is not
    installed, and EngineError where its process cannot be started."""

    def __init__(self, *, seconds: float = SECONDS, memory: int = MEMORY) -> None:
        try:
            import pydantic_monty  # noqa: PLC0415 an extra
        except ImportError as why:
            raise ConfigError(_MISSING, remedy=_INSTALL) from why
        self._monty: Any = pydantic_monty
        self._one = threading.Lock()
        self._seconds = seconds
        self._limits = {
            "max_feed_duration_secs": seconds,
            "max_turn_duration_secs": seconds,
            "max_memory": memory,
            "max_recursion_depth": DEPTH,
            "max_suspensions": 1,
            "max_total_sleep_secs": 0.0,
        }
        self._closed = False
        try:
            self._pool: Any = pydantic_monty.Monty()
        except OSError as why:  # it looks for its interpreter beside this Python, and on the PATH
            raise _broken(why) from why

    def __enter__(self) -> Self:
        try:
            self._pool.__enter__()
        except RuntimeError as why:
            raise _broken(why) from why
        return self

    def __exit__(self, kind: type[BaseException] | None, why: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End its process, when the program under way has ended; that takes as long as its limits allow."""
        with self._one:
            self._closed = True
            self._pool.__exit__(None, None, None)

    def run(self, program: str) -> Outcome:
        """See `Sandbox`. One program runs at a time, from whatever threads: others beside it would cost it its time.

        What may be the machine's fault (the process died, it could not be had, the time was up) is tried once more in a fresh
        process. A program that breaks its process twice, where another one runs, or twice computes until the time is up has failed;
        the rest is `broken`."""
        with self._one:
            if self._closed:
                return Outcome(None, "", "what runs programs is closed", broken=True)
            first = self._try(program)
            if not first.doubtful:
                return first.outcome
            try:
                return self._again(program)
            except (OSError, RuntimeError) as why:  # no process is to be had
                return Outcome(None, "", _told(why), broken=True)

    def _again(self, program: str) -> Outcome:
        self._renew()
        computed = _computed()
        found = self._try(program)
        if not found.doubtful:
            return found.outcome
        self._renew()  # only of a process that has ended is known what it computed
        if found.timed:  # a process that waits for a processor has used none: no program has anything else to wait for
            broken = _computed() - computed + found.heard < _STARVED * self._seconds
            why = "the machine was too busy to run it" if broken else found.outcome.why
        else:
            broken = not found.fed or self._try("1 + 1").outcome.value != "2"
            why = found.outcome.why if broken else f"it breaks what runs it: {found.outcome.why}"
        return replace(found.outcome, why=why, broken=broken)

    def _renew(self) -> None:
        """A fresh process. Raises RuntimeError where there is none to be had."""
        self._pool.__exit__(None, None, None)
        self._pool.__enter__()

    def _try(self, program: str) -> _Tried:
        printed, fed, began, hearing = _Printed(), False, time.monotonic(), time.thread_time()
        try:
            with self._pool.checkout(limits=self._limits) as session:
                fed = True
                value = session.feed_run(program, print_callback=printed)
        except Exception as why:  # whatever a program does, and whatever becomes of its process
            timed = time.monotonic() - began >= self._seconds
            own = fed and isinstance(why, self._monty.MontyError) and not isinstance(why, self._monty.MontyCrashedError)
            raised = cast("Any", why).exception() if own else None
            late = timed and isinstance(raised, TimeoutError)  # one that it raises itself comes earlier
            outcome = Outcome(None, printed.text, _told(why))
            return _Tried(outcome, not own or late, fed, timed, time.thread_time() - hearing)
        return _Tried(Outcome(_text(value), printed.text, data=_data(value)))


@dataclass(frozen=True, slots=True)
class _Tried:
    """An `outcome`, and whether that may not be the program's (`doubtful`): whether it was reached at all (`fed`), whether its time
    was up, and the seconds of the processor that were spent on hearing what it prints."""

    outcome: Outcome
    doubtful: bool = False
    fed: bool = True
    timed: bool = False
    heard: float = 0.0


def _computed() -> float:
    """Seconds of the processor that all our processes took which have ended; infinite where the system does not count them."""
    spent = os.times()
    return spent.children_user + spent.children_system if os.name == "posix" else math.inf


def _told(why: Exception) -> str:
    return f"{type(why).__name__}: {why}"[:300]


class _Printed:
    """Keeps the beginning of what is printed."""

    def __init__(self) -> None:
        self.text = ""

    def __call__(self, _stream: str, text: str) -> None:
        self.text = (self.text + text)[:LONGEST]


def _text(value: object) -> str | None:
    """A value as an answer: numbers and texts as they are, lists with commas. Of the digits of a fraction those that mean
    something.

    >>> _text([1, 2.5, "a"]), _text(True), _text({"a": 1}), _text(0.1 + 0.2)
    ('1, 2.5, a', None, None, '0.3')
    """
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, float):
        return f"{value:.15g}"
    if isinstance(value, int | str):
        try:
            return str(value)[:LONGEST]
        except ValueError:  # more digits than Python writes
            return None
    if isinstance(value, list | tuple):
        parts = [_text(one) if not isinstance(one, list | tuple) else None for one in value]
        return ", ".join(part for part in parts if part is not None)[:LONGEST] if None not in parts else None
    return None


def _data(value: object) -> str | None:
    """A value as JSON; None for one that JSON does not know, or that is too large for an answer: what a program gives may
    hold the same list a thousand times in a thousand lists.

    >>> _data({"a": [1, "b"]}), _data({1, 2}), _data([[[0] * 50] * 50] * 50)
    ('{"a": [1, "b"]}', None, None)
    """
    left, many = [(value, 0)], 0
    while left:
        one, deep = left.pop()
        many += 1
        if (
            many > LONGEST
            or deep > _NESTED
            or not isinstance(one, bool | int | float | str | list | tuple | dict | None)
        ):
            return None
        if isinstance(one, list | tuple | dict):
            if len(one) > LONGEST:
                return None
            left += [(inner, deep + 1) for inner in (one.values() if isinstance(one, dict) else one)]
    try:
        text = json.dumps(value, allow_nan=False, ensure_ascii=False)
    except (TypeError, ValueError):  # keys of another kind; no number; more digits than Python writes
        return None
    return text if len(text) <= LONGEST else None


def _broken(why: Exception) -> EngineError:
    return EngineError(f"what runs programs is not whole: {why}", remedy=f"{_INSTALL} --force-reinstall")


def check_sandbox(where: str) -> None:
    """Raise ConfigError where programs cannot be run, before anything is loaded for who writes them."""
    if find_spec("pydantic_monty") is None:
        raise ConfigError(_MISSING, where=where, remedy=_INSTALL)
