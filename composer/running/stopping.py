"""Ctrl-C, SIGTERM and SIGHUP: the first one lets calls in flight land, the second one ends everything at once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import TYPE_CHECKING

from composer.budget import GRACE, Budget, Why
from composer.exits import HUNG_UP, INTERRUPTED, TERMINATED

if TYPE_CHECKING:
    import asyncio

HARD = 5.0  # seconds after which a process that does not end by itself is ended; the store and its hosts survive that
EXITS: dict[Why, int] = {"interrupted": INTERRUPTED, "terminated": TERMINATED, "hung-up": HUNG_UP}


class Stopper:
    """What signals do while a run is under way. `why` is the first one that came."""

    def __init__(self, budget: Budget) -> None:
        self.why: Why | None = None
        self._budget = budget
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[object] | None = None
        self._timers: list[threading.Timer] = []
        self._cancelled = False

    @property
    def exit_code(self) -> int | None:
        """What the command ends with; None where no signal came."""
        return EXITS[self.why] if self.why is not None else None

    @contextmanager
    def guarding(self) -> Iterator[None]:
        """In this block, inside a task, stopping at once means cancelling that task."""
        import asyncio  # noqa: PLC0415 - the command installs this before it needs a loop

        self._loop, self._task = asyncio.get_running_loop(), asyncio.current_task()
        try:
            yield
        finally:
            self._loop = self._task = None
            if not self._cancelled:  # else whatever still hangs (a thread that loads, say) is ended as announced
                self.end()

    def signalled(self, why: Why) -> None:
        """Take a signal. Runs between any two lines of the main thread."""
        if self.why is None:
            self.why = why
            self._budget.stop(why)
            if self._task is not None:
                told = f"{why}: waiting up to {GRACE:.0f} s for the calls in flight; once more ends it at once\n"
                with suppress(OSError):  # not by `print`: that may be what the signal has interrupted
                    os.write(2, told.encode())
                self._later(GRACE + HARD, self._at_once)  # if something else than a call takes its time
            return
        self._at_once()
        if self._task is None:
            raise SystemExit(EXITS[self.why])

    def end(self) -> None:
        """Forget what was to happen later."""
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()

    def _at_once(self) -> None:
        assert self.why is not None
        self._cancelled = True
        self._budget.stop(self.why, 0.0)
        loop, task, code = self._loop, self._task, EXITS[self.why]
        if loop is not None and task is not None:
            loop.call_soon_threadsafe(task.cancel)
        # Native code and other threads cannot be interrupted; hosts die with us, and what is stored is whole.
        self._later(HARD, lambda: os._exit(code))

    def _later(self, seconds: float, work: Callable[[], None]) -> None:
        timer = threading.Timer(seconds, work)
        timer.daemon = True
        timer.start()
        self._timers.append(timer)


@contextmanager
def stopping(budget: Budget) -> Iterator[Stopper]:
    """In this block signals stop `budget`. Signals that are ignored (nohup) stay so; other threads are left alone."""
    stopper = Stopper(budget)
    before: dict[int, signal._HANDLER] = {}

    def handler(why: Why) -> Callable[[int, FrameType | None], None]:
        return lambda _number, _frame: stopper.signalled(why)

    if threading.current_thread() is threading.main_thread():
        for name, why in (("SIGINT", "interrupted"), ("SIGTERM", "terminated"), ("SIGHUP", "hung-up")):
            number = getattr(signal, name, None)  # Windows has no SIGHUP
            if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
                before[number] = signal.signal(number, handler(why))  # type: ignore[arg-type]
    try:
        yield stopper
    finally:
        stopper.end()
        for number, old in before.items():
            signal.signal(number, old)
