"""Asking on the way to an answer: requests whose drafts are no answers, under the run's budget and on its ledger."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import aclosing

from composer.stages.kit import Kit
from composer.trace import Drafted
from composer.types import Delta, Draft, Request


async def ask(kit: Kit, requests: Sequence[Request]) -> dict[str, Draft]:
    """The drafts of these requests by id. What the budget does not allow, or cuts, is left out."""
    budget, found, refused = kit.budget(), dict[str, Draft](), set[str]()
    by_id = {request.id: request for request in requests}
    if not by_id:
        return found

    def wanted(request: Request) -> bool:
        if budget.admits(request):
            return True
        refused.add(request.id)
        return False

    async def collect() -> None:
        async with aclosing(kit.pool().submit(list(by_id.values()), wanted)) as pieces:  # type: ignore[type-var]
            async for name, piece in pieces:
                if isinstance(piece, Delta) or name in refused:
                    continue
                request = by_id[name]
                budget.landed(request, piece)
                kit.emit(Drafted.of(request.parent or "", request.arm, piece, request.sample, request.role))
                found[name] = piece

    work, cut = asyncio.create_task(collect()), asyncio.create_task(budget.over())
    try:
        await asyncio.wait({work, cut}, return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            await work
    finally:
        work.cancel()
        cut.cancel()
        await asyncio.gather(work, cut, return_exceptions=True)
        for name in by_id.keys() & budget.flying.keys():
            request = budget.flying.pop(name)
            cancelled = Draft("", "", "cancelled")
            kit.emit(Drafted.of(request.parent or "", request.arm, cancelled, request.sample, request.role))
    return found
