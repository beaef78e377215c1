"""Asking on the way to an answer: requests whose drafts are no answers, under the run's budget and on its ledger."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from composer.budget import Budget
from composer.trace import Drafted, Event, nothing
from composer.types import Draft, Request

if TYPE_CHECKING:
    from composer.pool.pool import Pool

Ask = Callable[[Sequence[Request]], Awaitable[Mapping[str, Draft]]]
"""The drafts of requests, by their ids; one that was not allowed, or was cut, is `cancelled`."""


def asking(
    pool: Pool, *, budget: Budget | None = None, emit: Callable[[Event], None] = nothing, cut: set[str] | None = None
) -> Ask:
    """Asks through the pool what `budget` allows. Into `cut` go the ids of the queries of which something was not allowed, or
    cut short: what is made of the rest is not what an uninterrupted run would make of it."""
    return _Asking(pool, budget or Budget(), emit, set() if cut is None else cut)


@dataclass(frozen=True, slots=True)
class _Asking:
    """An `Ask`."""

    pool: Pool
    budget: Budget
    emit: Callable[[Event], None]
    cut: set[str]

    async def __call__(self, requests: Sequence[Request]) -> Mapping[str, Draft]:
        drafts: dict[str, Draft] = {}
        work = asyncio.create_task(self._collect(requests, drafts))
        over = asyncio.create_task(self.budget.over())
        try:
            await asyncio.wait({work, over}, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                await work
        finally:
            work.cancel()
            over.cancel()
            await asyncio.gather(work, over, return_exceptions=True)
        for request in requests:
            if request.id not in drafts:
                drafts[request.id] = Draft("", "", "cancelled")
                if self.budget.flying.pop(request.id, None) is not None:
                    self._tell(request, drafts[request.id])
        self.cut.update(request.parent or "" for request in requests if drafts[request.id].stop == "cancelled")
        return drafts

    async def _collect(self, requests: Sequence[Request], drafts: dict[str, Draft]) -> None:
        asked = {request.id: request for request in requests}
        while asked:
            refused: dict[str, Request] = {}

            def wanted(request: Request, refused: dict[str, Request] = refused) -> bool:
                if self.budget.admits(request):
                    return True
                refused[request.id] = request
                return False

            async with aclosing(self.pool.submit(list(asked.values()), wanted)) as pieces:  # type: ignore[type-var]
                async for name, piece in pieces:
                    if isinstance(piece, Draft) and name not in refused:
                        drafts[name] = piece
                        self.budget.landed(asked[name], piece)
                        self._tell(asked[name], piece)
            # What was set aside for calls that are cheaper in the end is there for others.
            asked = {name: request for name, request in refused.items() if self.budget.has_room(request)}

    def _tell(self, request: Request, draft: Draft) -> None:
        place = int(request.id.rsplit(":", 1)[1])  # of a probe its number: all have sample 0
        self.emit(Drafted.of(request.parent or "", request.arm, draft, place, request.role))
