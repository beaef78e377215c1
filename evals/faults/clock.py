"""An event loop whose clock is simulated: nobody sleeps, whoever waits is there at once, and every run of a seed is the same."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any, TypeVar, TypeVarTuple

BEGIN = 1_000_000.0  # seconds: no time that somebody takes for "never" is near it
_BUSIEST = 200_000  # rounds of the loop within one moment: more is no work, but a circle

Result = TypeVar("Result")
Args = TypeVarTuple("Args")


class Hanging(BaseException):
    """Nothing is ready and no timer runs: whoever waits will wait for ever. Or the loop turns and time does not pass.

    No Exception, so that what is simulated cannot take it for a failure of its own.
    """


class SimulatedLoop(asyncio.SelectorEventLoop):
    """When nothing is ready it is at once the time of the next timer. There is no outside: no sockets, no signals.

    What would go to a thread is done at once by whoever asks, and told `errand()` seconds later; so a `Future` of a
    thread of somebody's own never comes. `complaints` are what a loop would write into the log: tasks that failed and
    whose failure nobody looked at, callbacks that raised.
    """

    def __init__(self, errand: Callable[[], float] = lambda: 0.0) -> None:
        self.errand = errand
        self.complaints: list[str] = []
        self._now = BEGIN
        self._rounds = 0
        super().__init__(_NeverWaits(self))
        self.set_exception_handler(self._complain)

    def time(self) -> float:
        """Simulated seconds."""
        return self._now

    def call_soon_threadsafe(
        self, callback: Callable[[*Args], object], *args: *Args, context: Context | None = None
    ) -> asyncio.Handle:
        """There is one thread, so no other has to be woken."""
        return self.call_soon(callback, *args, context=context)

    def run_in_executor(self, executor: Any, func: Callable[[*Args], Result], *args: *Args) -> asyncio.Future[Result]:
        """The work of a thread, done here; its result comes when an errand is over."""
        future: asyncio.Future[Result] = self.create_future()

        def tell(result: Result | None, why: Exception | None) -> None:
            if future.done():
                return
            if why is not None:
                future.set_exception(why)
            else:
                future.set_result(result)  # type: ignore[arg-type]

        try:
            self.call_later(self.errand(), tell, func(*args), None)
        except Exception as why:
            self.call_later(self.errand(), tell, None, why)
        return future

    def timers(self) -> int:
        """How many timers run that nobody has cancelled."""
        return sum(not timer.cancelled() for timer in self._scheduled)  # type: ignore[attr-defined]

    def pass_by(self, seconds: float | None) -> None:
        """Let time pass: None where nobody knows when anything will happen."""
        if seconds is None:
            raise Hanging("nothing will ever happen")
        self._rounds = 0 if seconds else self._rounds + 1
        if self._rounds > _BUSIEST:
            raise Hanging("the loop turns in a circle")
        self._now += seconds

    def _complain(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self.complaints.append(f"{context['message']}: {context.get('exception')!r}")


class _NeverWaits(selectors.SelectSelector):
    def __init__(self, loop: SimulatedLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self._loop.pass_by(timeout)
        return []


def simulate(work: Coroutine[Any, Any, Result], loop: SimulatedLoop | None = None) -> Result:
    """What `work` returns, in no time. Raises what it raises; Hanging where it, or the end of what it left, would hang."""
    with asyncio.Runner(loop_factory=lambda: loop or SimulatedLoop()) as runner:
        return runner.run(work)
