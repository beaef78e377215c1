"""How much may still be spent: the one place that is asked before a request is sent, and that says when to stop."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from composer.errors import InputError
from composer.types import Draft, Request

Why = Literal["max-calls", "max-tokens", "max-seconds", "deadline", "interrupted", "terminated", "hung-up"]
SIGNALS: frozenset[Why] = frozenset({"interrupted", "terminated", "hung-up"})
GRACE = 10.0  # seconds that calls in flight may go on after a first Ctrl-C
_TURN_TOKENS = 32  # what a chat template may add to one message
_MOST_SECONDS = 10 * 365 * 86400.0


@dataclass(frozen=True, slots=True)
class Limits:
    """The most that may be spent; None: no bound. `seconds` count from when the budget is made, `deadline` is in seconds
    from then as well (see `seconds_until`); tokens are read and written ones together. Cached drafts are free."""

    calls: int | None = None
    tokens: int | None = None
    seconds: float | None = None
    deadline: float | None = None

    def __post_init__(self) -> None:
        """Raises InputError for a bound that is no positive number."""
        for name in ("calls", "tokens", "seconds"):
            value = getattr(self, name)
            if value is not None and not 0 < value < _MOST_SECONDS * 1e6:
                raise InputError(f"{value} is no budget", where=f"--max-{name}", remedy="write a number above 0")


class Budget:
    """Counts what is sent and what lands. A request is admitted only if the most it can cost still fits, so a bound on
    calls or tokens is never passed. Without limits it admits everything, until `stop`.

    At the end of its time nothing more is sent and what is in flight is cut; at a `stop` it has `grace` seconds to land;
    at the end of its calls or tokens it lands in its own time.
    """

    def __init__(self, limits: Limits | None = None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.limits = limits or Limits()
        self.calls = 0
        self.tokens = 0
        self._refused: Why | None = None  # the reason of the last refusal
        self.needed: int | None = None  # the fewest tokens that a call refused for its tokens may cost
        self.flying: dict[str, Request] = {}  # admitted and not landed, by id
        self._reserved = 0
        self._clock = clock
        self._began = clock()
        self._stopped: tuple[Why, float] | None = None  # the reason, and when what is in flight is cut
        self._wakes: set[Callable[[], None]] = set()

    def admits(self, request: Request) -> bool:
        """Whether it may be sent now; then its most probable cost is set aside until it has landed."""
        if request.id in self.flying:
            return True
        refused = self._refusal(request)
        if refused is not None:
            self._refused = refused
            if refused == "max-tokens":
                self.needed = min(most_tokens(request), self.needed or most_tokens(request))
            return False
        self.calls += 1
        self._reserved += most_tokens(request)
        self.flying[request.id] = request
        return True

    def has_room(self, request: Request) -> bool:
        """Whether `admits` would say yes."""
        return self._refusal(request) is None

    def landed(self, request: Request, draft: Draft) -> None:
        """Enter what it cost in the end. One that was never admitted came from the store, or was somebody else's."""
        if self.flying.pop(request.id, None) is None:
            return
        self._reserved -= most_tokens(request)
        if draft.cached:
            self.calls -= 1  # somebody else wanted the same and paid for it
        else:
            self.tokens += draft.usage.tokens_in + draft.usage.tokens_out

    def stop(self, why: Why, grace: float = GRACE) -> None:
        """Send nothing more, and cut what is in flight after `grace` seconds. Safe in a signal handler. The first reason
        stays, and the earliest end."""
        first, end = self._stopped or (why, float("inf"))
        self._stopped = first, min(end, self._clock() + grace)
        for wake in list(self._wakes):
            wake()

    @property
    def stopped(self) -> Why | None:
        """Why somebody wants an end, if somebody does."""
        return self._stopped[0] if self._stopped else None

    @property
    def ended(self) -> Why | None:
        """Why nothing at all may be sent any more."""
        limits, spent = self.limits, self._clock() - self._began
        if self._stopped is not None:
            return self._stopped[0]
        if limits.deadline is not None and spent >= limits.deadline:
            return "deadline"
        if limits.seconds is not None and spent >= limits.seconds:
            return "max-seconds"
        return None

    @property
    def why(self) -> Why | None:
        """Why something was not sent, or was cut, if anything was."""
        return self.ended or self._refused

    @property
    def told(self) -> str:
        """`why` for people; a budget that holds no call at all is said to be too small."""
        small = self.needed is not None and self.limits.tokens is not None and self.needed > self.limits.tokens
        return f"{self.why} (one call may cost {self.needed} tokens)" if small else str(self.why)

    def left(self) -> float | None:
        """Seconds until what is in flight is cut (None: never); 0 or less: now."""
        ends = [self._stopped[1]] if self._stopped else []
        ends += [self._began + span for span in (self.limits.seconds, self.limits.deadline) if span is not None]
        return min(ends) - self._clock() if ends else None

    async def over(self) -> None:
        """Return when what is in flight is to be cut."""
        import asyncio  # noqa: PLC0415 - `coe route` makes the stages and never waits

        loop, rung = asyncio.get_running_loop(), asyncio.Event()

        def wake() -> None:
            loop.call_soon_threadsafe(rung.set)

        self._wakes.add(wake)
        try:
            while (left := self.left()) is None or left > 0:
                rung.clear()
                try:
                    async with asyncio.timeout(left):
                        await rung.wait()
                except TimeoutError:
                    pass
        finally:
            self._wakes.discard(wake)

    def _refusal(self, request: Request) -> Why | None:
        limits, ended = self.limits, self.ended
        if ended is not None:
            return ended
        if limits.calls is not None and self.calls >= limits.calls:
            return "max-calls"
        if limits.tokens is not None and self.tokens + self._reserved + most_tokens(request) > limits.tokens:
            return "max-tokens"
        return None


def most_tokens(request: Request) -> int:
    """The most tokens a request can cost, read and written: a token is at least one byte of the prompt.

    >>> from composer.types import Sampling, Stream
    >>> most_tokens(Request("1", (Stream("math", "2 + 2"),), Sampling(max_tokens=10)))
    15
    """
    whole = 0
    for stream in request.streams:
        turns = [stream.prompt] if isinstance(stream.prompt, str) else [turn.content for turn in stream.prompt]
        extra = 0 if isinstance(stream.prompt, str) else _TURN_TOKENS * (len(turns) + 1)
        whole += sum(len(turn.encode("utf-8", "replace")) for turn in turns) + extra + request.sampling.max_tokens
    return whole


def seconds_until(deadline: str, now: datetime) -> float:
    """Seconds from `now` to a moment that people write: `07:30` (the next time the clock shows it), or an ISO date and
    time, with or without an offset. Raises InputError for anything else, and for a moment that is over.

    >>> seconds_until("07:30", datetime(2026, 1, 1, 7, 0)), seconds_until("2026-01-01T08:00", datetime(2026, 1, 1, 7, 0))
    (1800.0, 3600.0)
    """
    remedy = "write a time such as 07:30, or a date and time such as 2027-01-31T07:30"
    try:
        if len(deadline) <= 8 and ":" in deadline:
            clock = datetime.strptime(deadline, "%H:%M:%S" if deadline.count(":") == 2 else "%H:%M").time()
            then = datetime.combine(now.date(), clock, now.tzinfo)
            then += timedelta(days=1) if then <= now else timedelta()
        else:
            then = datetime.fromisoformat(deadline)
    except ValueError as why:
        raise InputError(f"{deadline!r} is no moment", where="--deadline", remedy=remedy) from why
    if then.tzinfo is not None and now.tzinfo is None:
        now = now.astimezone()
    left = (then - now).total_seconds()
    if left <= 0:
        raise InputError(f"{deadline} is over", where="--deadline", remedy=remedy)
    return left
