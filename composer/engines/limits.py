"""How long a call may take: in all, until its first token, and between two events; one timer watches all three."""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass
from typing import Self

FIRST, IDLE, LONGEST_CALL = 120.0, 60.0, 600.0  # seconds; a request's own deadline may be sooner
_GRACE = 0.05  # seconds in which what has come already is read, before anybody is called silent


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds: until the first token, between two events after it, and for the whole call with all its attempts.

    The first holds for loading a model and for reading a long prompt, so it is generous; comments that only keep a
    connection open are no events.
    """

    first: float = FIRST
    idle: float = IDLE
    longest: float = LONGEST_CALL


class Watch:
    """Ends what runs inside it with TimeoutError at the deadline (by the loop's clock), or when nothing is heard.

    A program that was busy elsewhere has read nothing, which is not the server's silence: before a limit fires, what has
    come meanwhile is read. `reason` says afterwards which one it was.
    """

    __slots__ = ("_ends", "_first", "_heard", "_idle", "_limit", "_loop", "_since", "_suspect", "_timer", "reason")

    def __init__(self, limits: Limits, ends: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._first, self._idle, self._ends = limits.first, limits.idle, ends
        self._since = self._loop.time()
        self._heard = self._suspect = False
        self._limit = asyncio.timeout(None)
        self._timer: asyncio.TimerHandle | None = None
        self.reason = ""

    async def __aenter__(self) -> Self:
        await self._limit.__aenter__()
        self._arm(self._due())
        return self

    async def __aexit__(self, kind: type[BaseException] | None, why: BaseException | None, trace: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
        await self._limit.__aexit__(kind, why, trace)  # type: ignore[arg-type]

    def heard(self) -> None:
        """A token, or anything after the first one, has come."""
        self._since = self._loop.time()
        self._suspect = False
        if not self._heard:  # from here on it is the other limit, which may be over sooner
            self._heard = True
            if self._timer is not None:
                self._timer.cancel()
            self._arm(self._due())

    @property
    def late(self) -> bool:
        """Whether the server was silent, rather than the time of the call over."""
        return bool(self.reason) and self._loop.time() < self._ends

    def _due(self) -> float:
        return min(self._ends, self._since + (self._idle if self._heard else self._first))

    def _arm(self, when: float) -> None:
        if when < math.inf:
            self._timer = self._loop.call_at(when, self._look)

    def _look(self) -> None:
        now = self._loop.time()
        if now >= self._ends:
            self.reason = "in its time"
        elif now < (due := self._due()):
            return self._arm(due)
        elif not self._suspect:
            self._suspect = True
            return self._arm(min(now + _GRACE, self._ends))
        elif self._heard:
            self.reason = f"within {self._idle:g} s of the last piece"
        else:
            self.reason = f"within {self._first:g} s, not even a first token"
        self._limit.reschedule(now)
        return None
