"""One caller of the pool: what it waits for, and what it has not read yet."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from composer.types import Delta, Draft, Request

if TYPE_CHECKING:
    from composer.pool.queues import Job

Item = tuple[str, Delta | Draft]
Want = tuple["Job", Request]


class Submission:
    """`jobs` are those it waits for, `fresh` those of them that nobody has looked up or queued yet, `ending` what is
    still being cancelled after it has gone."""

    def __init__(self, requests: int, still_wanted: Callable[[Request], bool]) -> None:
        self.still_wanted = still_wanted
        self.jobs: dict[Job, None] = {}  # in order, as all that things are done by: the same schedule goes the same way
        self.fresh: dict[Job, None] = {}
        self.ending: list[asyncio.Task[None]] = []
        self._left = requests
        self._due: dict[float, list[Want]] = {}  # what has to be told by when
        self._timers: list[asyncio.TimerHandle] = []
        self._items: deque[Item | BaseException] = deque()  # an asyncio.Queue takes three times as long per piece
        self._waiter: asyncio.Future[None] | None = None

    def hear(self, request: Request, piece: Delta | Draft) -> None:
        """A piece for one of its requests."""
        self._put((request.id, piece))

    def by(self, deadline: float, overdue: Callable[[Submission, Sequence[Want]], None]) -> list[Want]:
        """What has to be told by the deadline: what is put there is handed to `overdue` when it is over."""
        due = self._due.get(deadline)
        if due is None:
            due = self._due[deadline] = []
            timer = asyncio.get_running_loop().call_at(deadline, overdue, self, due)
            self._timers.append(timer)
        return due

    def after(self, seconds: float, work: Callable[[], None]) -> None:
        """Do `work` then, unless nobody reads any more."""
        self._timers.append(asyncio.get_running_loop().call_later(seconds, work))

    def silence(self) -> None:
        """Nobody reads any more."""
        for timer in self._timers:
            timer.cancel()

    def claim(self, job: Job) -> bool:
        """Whether the job was fresh, and its to bring; it is not any more."""
        if job not in self.fresh:
            return False
        del self.fresh[job]
        return True

    def fail(self, why: BaseException) -> None:
        """Nothing more will come, because of `why`."""
        self._put(why)

    async def next(self) -> Item | None:
        """The next piece; None after the last draft. Raises what `fail` was told."""
        if not self._left:
            return None
        while not self._items:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        item = self._items.popleft()
        if isinstance(item, BaseException):
            raise item
        self._left -= isinstance(item[1], Draft)
        return item

    def _put(self, item: Item | BaseException) -> None:
        self._items.append(item)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
