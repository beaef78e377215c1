"""Work that may be done at once, and work that nothing else may be beside."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Apart:
    """Use from one event loop. Whoever wants to be alone waits for those before it; those after it wait for it."""

    def __init__(self) -> None:
        self._door = asyncio.Lock()  # it is fair: nobody who wants to be alone waits for ever
        self._inside = 0
        self._empty = asyncio.Event()
        self._empty.set()

    @asynccontextmanager
    async def enter(self, *, alone: bool) -> AsyncIterator[None]:
        """Be inside, with others or `alone`."""
        async with self._door:
            if alone:
                await self._empty.wait()
                yield
                return
            self._inside += 1
            self._empty.clear()
        try:
            yield
        finally:
            self._inside -= 1
            if not self._inside:
                self._empty.set()
