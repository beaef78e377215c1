"""The drafts of one round: asked for together, given on row by row."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from composer.stages.foresight import Foresight
from composer.stages.kit import Kit
from composer.state import Part, Place, Reply, State, request_id
from composer.trace import Drafted, Written
from composer.types import Delta, Draft, Request

_PACE = 0.2  # seconds between two parts: what comes after a part costs some ms, however few its rows are


class Drawn:
    """Asks the pool for what the rows of `state` want for `certain`, and for what they may come to want (`ahead`): of that
    nothing is drawn that the policy no longer wants when its turn comes; the rest is in the store then."""

    def __init__(
        self, kit: Kit, state: State, certain: Sequence[Request], ahead: Sequence[Request], samples: int
    ) -> None:
        self._kit, self._state, self._samples = kit, state, samples
        self._budget = kit.budget()
        self._sight = Foresight(kit, state, samples) if ahead else None
        # What has landed is taken out of these: a large file's requests are most of its memory.
        self._asked = {request.id: request for request in (*certain, *ahead)}
        self._ahead = {request.id for request in ahead}
        self._row = {query.id: row for row, query in enumerate(state.queries)}
        self._withdrawn: set[str] = set()
        self._refused: dict[str, Request] = {}
        self._drafts: dict[str, Draft] = {}
        self._open = set(range(len(state.queries)))  # rows that are not given on
        self._left = {row: many for row, arms in enumerate(state.wanted) if (many := len(arms) * samples) > 1}
        self._ready = [row for row, arms in enumerate(state.wanted) if not arms]
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
        if self._open:
            yield self._part(sorted(self._open))

    def _part(self, rows: Sequence[int]) -> Part:
        """These rows with their replies, in plan order."""
        self._open.difference_update(rows)
        state, replies, withheld, still = self._state, [], [], []
        for row in rows:
            own, cut = list(state.replies[row]), False
            for place in self._places(row):
                draft = self._drafts.pop(request_id(state.queries[row].id, place.arm, place.sample), None)
                cut = cut or draft is None  # then the row is left for the next start
                own.append(Reply(place.arm, draft or Draft("", "", "cancelled"), place.sample))
            replies.append(tuple(own))
            withheld.append(cut or state.withheld[row])
            still.append(state.open[row] and not cut)
        update = {"replies": tuple(replies), "withheld": tuple(withheld), "open": tuple(still)}
        return tuple(rows), state.part(rows).apply(update)

    def _places(self, row: int) -> list[Place]:
        return [Place(row, arm, sample) for arm in self._state.wanted[row] for sample in range(self._samples)]

    def _place(self, request: Request) -> Place:
        sample = request.sample % self._samples  # what it counts besides are repetitions of the question
        return Place(self._row[request.parent or ""], request.arm, sample)

    async def _collect(self) -> None:
        asked = list(self._asked.values())
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
        if self._sight is not None and name in self._ahead and not self._sight.wants(self._place(request)):
            self._withdrawn.add(name)
            return False
        if self._budget.admits(request):
            return True
        self._refused[name] = request
        return False

    def _hear(self, name: str, piece: Delta | Draft) -> None:
        request = self._asked[name]
        query = request.parent or ""
        if isinstance(piece, Delta):
            self._kit.emit(Written(query, request.arm, piece.text, piece.at))
            return
        if name in self._refused or name in self._withdrawn:
            return
        del self._asked[name]
        self._budget.landed(request, piece)
        if self._sight is not None:
            self._sight.land(self._place(request), piece)
        self._kit.emit(Drafted.of(query, request.arm, piece, request.sample))
        if name in self._ahead:
            return
        self._drafts[name] = piece
        row = self._row[query]
        left = self._left[row] = self._left.get(row, 1) - 1
        if not left:
            del self._left[row]
            self._ready.append(row)
            self._bell.set()
