"""The drafts of one round: asked for together, given on row by row."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing

from composer.stages.foresight import Foresight
from composer.stages.kit import Kit
from composer.state import Part, Place, Reply, State
from composer.trace import Drafted, Written
from composer.types import Delta, Draft, Request

_PACE = 0.2  # seconds between two parts: what comes after a part costs some ms, however few its rows are


class Drawn:
    """Asks the pool for what the rows of `state` want for `certain`, and for what they may come to want (`ahead`): of that
    nothing is drawn that `sight` no longer wants when its turn comes; the rest is in the store then."""

    def __init__(
        self,
        kit: Kit,
        state: State,
        certain: Mapping[Place, Request],
        ahead: Mapping[Place, Request],
        sight: Foresight | None,
    ) -> None:
        self._kit, self._state, self._sight = kit, state, sight
        self._budget = kit.budget()
        # What has landed is taken out of these: a large file's requests are most of its memory.
        self._asked = {request.id: (place, request) for place, request in (*certain.items(), *ahead.items())}
        self._ahead = {request.id for request in ahead.values()}
        self._withdrawn: set[str] = set()
        self._refused: dict[str, Request] = {}
        self._drafts: dict[Place, Draft] = {}
        self._places: dict[int, list[Place]] = {row: [] for row in range(len(state.queries))}  # of rows not given on
        for place in certain:
            self._places[place.row].append(place)
        self._left = Counter(place.row for place in certain)
        self._ready = [row for row, places in self._places.items() if not places]
        self._bell = asyncio.Event()
        if self._ready:
            self._bell.set()

    async def rows(self) -> AsyncGenerator[Part]:
        """The rows whose drafts have all landed, as many as there are by then; last those that the budget did not allow,
        or that it cut: they are `withheld`."""
        work, cut = asyncio.create_task(self._collect()), asyncio.create_task(self._budget.over())
        for task in (work, cut):
            task.add_done_callback(lambda _: self._bell.set())
        try:
            while not (work.done() or cut.done()):
                await self._bell.wait()
                self._bell.clear()
                if self._ready:
                    rows, self._ready = sorted(self._ready), []
                    yield self._part(rows)
                    await asyncio.wait({work, cut}, timeout=_PACE, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                await work
        finally:
            work.cancel()
            cut.cancel()
            await asyncio.gather(work, cut, return_exceptions=True)
            for name in [name for name in self._budget.flying if name in self._asked]:
                request = self._budget.flying.pop(name)
                cancelled = Draft("", "", "cancelled")
                self._kit.emit(Drafted.of(request.parent or "", request.arm, cancelled, request.sample))
        if self._places:
            yield self._part(sorted(self._places))

    def _part(self, rows: Sequence[int]) -> Part:
        """These rows with their replies, in plan order."""
        replies, withheld, still = [], [], []
        for row in rows:
            places = self._places.pop(row)
            found = [self._drafts.pop(place, None) for place in places]
            replies.append(
                (
                    *self._state.replies[row],
                    *(
                        Reply(place.arm, draft or Draft("", "", "cancelled"), place.sample)
                        for place, draft in zip(places, found, strict=True)
                    ),
                )
            )
            cut = None in found  # the row is left for the next start
            withheld.append(cut or self._state.withheld[row])
            still.append(self._state.open[row] and not cut)
        update = {"replies": tuple(replies), "withheld": tuple(withheld), "open": tuple(still)}
        return tuple(rows), self._state.part(rows).apply(update)

    async def _collect(self) -> None:
        asked = [request for _, request in self._asked.values()]
        while asked:
            self._refused = {}
            async with aclosing(self._kit.pool().submit(asked, self._wanted)) as pieces:  # type: ignore[type-var]
                asked = []
                async for name, piece in pieces:
                    self._hear(name, piece)
            # What was set aside for calls that are cheaper in the end is there for others.
            asked = [request for request in self._refused.values() if self._budget.has_room(request)]

    def _wanted(self, request: Request) -> bool:
        name = request.id
        if self._sight is not None and name in self._ahead and not self._sight.wants(self._asked[name][0]):
            self._withdrawn.add(name)
            return False
        if self._budget.admits(request):
            return True
        self._refused[name] = request
        return False

    def _hear(self, name: str, piece: Delta | Draft) -> None:
        place, request = self._asked[name]
        query = request.parent or ""
        if isinstance(piece, Delta):
            self._kit.emit(Written(query, request.arm, piece.text, piece.at))
            return
        if name in self._refused or name in self._withdrawn:
            return
        del self._asked[name]
        self._budget.landed(request, piece)
        if self._sight is not None:
            self._sight.land(place, piece)
        self._kit.emit(Drafted.of(query, request.arm, piece, request.sample))
        if name in self._ahead:
            return
        self._drafts[place] = piece
        self._left[place.row] -= 1
        if not self._left[place.row]:
            self._ready.append(place.row)
            self._bell.set()
