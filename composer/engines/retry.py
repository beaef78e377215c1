"""The one loop that asks again: attempts, a budget over all requests, what the server asks for, and a breaker."""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import TypeVar

RETRIES = 3
SHARE, RESERVE = 0.1, 10.0  # retries per request in the long run; what a quiet client may use at once
_FIRST_PAUSE, _LONGEST_PAUSE = 0.25, 8.0  # seconds between two attempts, doubled each time
LONGEST_WISH = 60.0  # seconds: a server that wants to be left alone for longer is taken at its word, and not waited for
_TRIPS = 5  # failures in a row
_CLOSED_FIRST, _CLOSED_LONGEST = 0.5, 15.0  # seconds without a call, doubled as long as probes fail

T = TypeVar("T")


class Unusable(Exception):
    """There is a reply, or could have been, and it does not count; `kind` is that of the Failure.

    `again`: another attempt may fare better. `down`: the server, not this request, is what fails. `wish`: the seconds
    after which it asks to be called again. `attempts` were made.
    """

    def __init__(
        self, kind: str, message: str, *, again: bool = False, down: bool = False, wish: float | None = None
    ) -> None:
        self.kind, self.again, self.down, self.wish = kind, again, down, wish
        self.attempts = 1
        super().__init__(message)

    def after(self, attempts: int, reason: str = "") -> Unusable:
        """The same as the end of a request's attempts: one that a probe met is raised by all who waited for it."""
        told = f"{self}; {reason}" if reason else str(self)
        last = Unusable(self.kind, told, again=self.again, down=self.down, wish=self.wish)
        last.attempts = attempts
        return last


@dataclass(slots=True)
class Budget:
    """At most a tenth of the requests may be repeated, whatever happens, after a small reserve. The probes of a breaker
    are not counted here, nor whoever waited for one: they come one at a time, or to a server that is there again."""

    share: float = SHARE
    most: float = RESERVE
    left: float = RESERVE

    def earn(self) -> None:
        """A request begins."""
        self.left = min(self.most, self.left + self.share)

    def spend(self) -> bool:
        """Whether one more retry may be made."""
        if self.left < 1:
            return False
        self.left -= 1
        return True


@dataclass(slots=True)
class Breaker:
    """Keeps calls from a server that is down, and never answers in its place.

    After several failures in a row nothing is sent for a while; then one request is the probe, and the others wait for
    what it finds. Whoever has less time than that probes halfway: nobody fails without an attempt of its own time.
    """

    failures: int = 0
    _until: float = 0.0  # nothing is sent before
    _pause: float = _CLOSED_FIRST
    _probe: asyncio.Future[Unusable | None] | None = field(default=None, repr=False)

    @property
    def open(self) -> bool:
        """Whether the server counts as down."""
        return self.failures >= _TRIPS

    @property
    def calm(self) -> bool:
        """Whether nobody has to wait."""
        return not self.failures and not self._until

    async def enter(self, ends: float) -> bool:
        """Returns when a call may be made; True for the probe. Raises what the probe met while this waited for it."""
        while True:
            if self._probe is not None:
                found = await asyncio.shield(self._probe)
                if found is not None:
                    raise found
                continue
            now, until = time.monotonic(), self._until
            if now < until:
                await asyncio.sleep(min(until - now, (ends - now) / 2))
                if self._probe is not None or self._until != until:
                    continue  # something was found out meanwhile
            if self.open:
                self._probe = asyncio.get_running_loop().create_future()
            return self.open

    def leave(self, probing: bool, why: Unusable | None) -> None:
        """A call has ended, with this failure if any. Must follow every `enter`."""
        now = time.monotonic()
        if why is not None and why.wish is not None and why.wish <= LONGEST_WISH:
            self._until = max(self._until, now + why.wish)
        if why is None or not why.down:
            self.failures, self._pause = 0, _CLOSED_FIRST
            if why is None:
                self._until = 0.0
        else:
            self.failures += 1
            if probing or self.failures == _TRIPS:
                self._until = max(self._until, now + _jittered(self._pause))
                self._pause = min(_CLOSED_LONGEST, 2 * self._pause)
        if probing and self._probe is not None:
            probe, self._probe = self._probe, None
            probe.set_result(why if why is not None and why.down else None)

    def give_up(self, probing: bool) -> None:
        """A call was cancelled: it found out nothing."""
        if probing and self._probe is not None:
            probe, self._probe = self._probe, None
            probe.set_result(None)


@dataclass(slots=True)
class Persistence:
    """One per server. `retries` is per request, at most; whatever the server says, its time is never passed."""

    retries: int = RETRIES
    budget: Budget = field(default_factory=Budget)
    breaker: Breaker = field(default_factory=Breaker)

    async def run(self, attempt: Callable[[], Awaitable[T]], ends: float) -> T:
        """What `attempt` returns, sooner or later. Raises Unusable with the number of attempts, or TimeoutError."""
        self.budget.earn()
        made = 0
        while True:
            try:
                return await self._one(attempt, ends)
            except Unusable as why:
                made += 1
                problem = why
            pause = _jittered(min(_LONGEST_PAUSE, _FIRST_PAUSE * 2 ** (made - 1)))
            if problem.wish is not None:
                pause = max(pause, problem.wish)
            left = ends - time.monotonic()
            if not problem.again or made > self.retries:
                raise problem.after(made) from problem.__cause__
            if pause > min(left, LONGEST_WISH):
                raise problem.after(made, _no_time(problem, left)) from problem.__cause__
            if not self.breaker.open and not self.budget.spend():
                raise problem.after(made, "a tenth of all requests were asked again of late: no more") from problem
            await asyncio.sleep(pause)

    async def _one(self, attempt: Callable[[], Awaitable[T]], ends: float) -> T:
        if self.retries == 0:
            return await attempt()  # whoever has one attempt makes it
        probing = False
        if not self.breaker.calm:
            async with asyncio.timeout(max(0.0, ends - time.monotonic())):
                probing = await self.breaker.enter(ends)
        try:
            found = await attempt()
        except Unusable as why:
            self.breaker.leave(probing, why)
            raise
        except BaseException:
            self.breaker.give_up(probing)
            raise
        self.breaker.leave(probing, None)
        return found


def wish_of(headers: Mapping[str, str]) -> float | None:
    """The seconds of a Retry-After, from now; None where there is none, or none that can be read.

    >>> wish_of({"retry-after": "1.5"}), wish_of({"retry-after": "soon"})
    (1.5, None)
    >>> day = {"date": "Fri, 27 Nov 2026 10:00:00 GMT", "retry-after": "Fri, 27 Nov 2026 10:00:09 GMT"}
    >>> wish_of(day)
    9.0
    """
    if (thousandths := _number(headers.get("retry-after-ms"))) is not None:
        return thousandths / 1000
    told = headers.get("retry-after")
    if told is None or (seconds := _number(told)) is not None:
        return seconds if told is not None else None
    try:
        # Against the server's own clock where it tells it: ours may be hours off.
        now = parsedate_to_datetime(headers["date"]).timestamp() if "date" in headers else time.time()
        return max(0.0, parsedate_to_datetime(told).timestamp() - now)
    except (ValueError, OverflowError, TypeError):
        return None


def _number(told: str | None) -> float | None:
    try:
        seconds = float(told) if told is not None else math.nan
    except ValueError:
        return None
    return None if math.isnan(seconds) else max(0.0, seconds)


def _jittered(seconds: float) -> float:
    """Between half of it and all: many who failed together do not come back together."""
    return seconds * random.uniform(0.5, 1.0)


def _no_time(why: Unusable, left: float) -> str:
    if why.wish is None:
        return f"no time to ask again: {left:.1f} s are left"
    return f"it asks to be called again in {why.wish:g} s, we wait for {min(left, LONGEST_WISH):.1f} s at most"
