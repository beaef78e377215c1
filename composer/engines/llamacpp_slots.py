"""Which slot of a llama.cpp server answers which prompt: each is lent to one stream at a time, and keeps what it has read.

The server could choose by itself. Between two steps of a contrasted draft its slots look idle, though, and the server gave
them to whoever comes next: a draft lost its place, and all that was read, after every token.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

_ALIKE = 0.1  # of a prompt: so much has to be known to a slot for it to be chosen for that, as in llama.cpp

Held = tuple[str | None, str]
"""What a slot is needed for: the adapter, and the prompt as text."""


class Slots:
    """The slots 0 to n - 1 of one server. Use from one event loop."""

    def __init__(self, n: int) -> None:
        self.n = n
        self._free = set(range(n))
        self._last: list[Held] = [(None, "")] * n  # what each was lent for last
        self._used = [0] * n  # and when
        self._turns = 0
        self._turn = asyncio.Lock()
        self._freed = asyncio.Event()

    @asynccontextmanager
    async def lent(self, wants: Sequence[Held]) -> AsyncIterator[list[int]]:
        """A slot for each, all at once, in order of arrival: who waits for several is not overtaken by who needs one.
        There must be so many."""
        assert len(wants) <= self.n, "nobody would ever be served"
        async with self._turn:
            while len(self._free) < len(wants):
                self._freed.clear()
                await self._freed.wait()
            places = [self._take(want) for want in wants]
        try:
            yield places
        finally:
            self._free.update(places)
            self._freed.set()

    def _take(self, want: Held) -> int:
        """The free one that has read most of the prompt, with the same adapter; else the one that was idle longest."""
        adapter, text = want
        known = {slot: _alike(text, self._last[slot][1]) for slot in self._free if self._last[slot][0] == adapter}
        best = max(known, key=lambda slot: (known[slot], -self._used[slot]), default=None)
        if best is None or known[best] <= _ALIKE * len(text):
            best = min(self._free, key=lambda slot: self._used[slot])
        self._free.remove(best)
        self._turns += 1
        self._last[best], self._used[best] = want, self._turns
        return best


def _alike(one: str, two: str) -> int:
    """How many characters they begin with in common.

    >>> _alike("abcd", "abxd")
    2
    """
    least, most = 0, min(len(one), len(two))
    while least < most:
        middle = (least + most + 1) // 2
        least, most = (middle, most) if one[:middle] == two[:middle] else (least, middle - 1)
    return least
