"""One caller of the pool: what it waits for, and what it has not read yet."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from composer.types import Delta, Draft, Request

if TYPE_CHECKING:
    from composer.pool.queues import Job

Item = tuple[str, Delta | Draft]


class Submission:
    """`jobs` are those it waits for, `fresh` those of them that nobody has looked up or queued yet, `ending` what is
    still being cancelled after it has gone."""

    def __init__(self, requests: int, still_wanted: Callable[[Request], bool]) -> None:
        self.still_wanted = still_wanted
        self.jobs: set[Job] = set()
        self.fresh: list[Job] = []
        self.ending: list[asyncio.Task[None]] = []
        self._left = requests
        self._items: asyncio.Queue[Item | BaseException] = asyncio.Queue()

    def hear(self, request: Request, piece: Delta | Draft) -> None:
        """A piece for one of its requests."""
        self._items.put_nowait((request.id, piece))

    def fail(self, why: BaseException) -> None:
        """Nothing more will come, because of `why`."""
        self._items.put_nowait(why)

    async def next(self) -> Item | None:
        """The next piece; None after the last draft. Raises what `fail` was told."""
        if not self._left:
            return None
        item = await self._items.get()
        if isinstance(item, BaseException):
            raise item
        self._left -= isinstance(item[1], Draft)
        return item
