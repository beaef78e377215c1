"""execute: run the programs that experts wrote, and have those that call a tool go on."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from composer.settings.strategy import TOOL
from composer.stages.kit import Kit, Stage, Together, kind_of
from composer.state import Beside, State, Update

if TYPE_CHECKING:
    from composer.stages.running import Written


def execute(kit: Kit) -> Stage:
    """What arms with a strategy wrote becomes an answer: of `code` the value of the program, run in the sandbox (PAL; METHODS
    G.1), of `tool` the last text after at most three calls, whose values the expert is told (ToRA). A program that fails gives
    no answer, and its text never becomes one; the trace says why. Earlier turns stand beside the drafts. All rows of a
    batch go together where an arm calls a tool: their programs one after the other beside the event loop, their next turns in one
    pass over the hosts. A row whose
    turns were cut by a budget is withheld. Questions that ask for a program (kind `code`) are answered by it, and it is not run
    here. It comes between `generate` and `verify`."""

    async def stage(state: State) -> Update:
        places = _places(kit, state)
        return await _executed(kit, state, places) if places else {}

    arms = [kit.registry.strategy(arm.name) for arm in kit.registry.arms()]
    return Together(stage) if any(one is not None and one.use == TOOL for one in arms) else stage


def _places(kit: Kit, state: State) -> dict[tuple[int, int], Written]:
    """The drafts that nobody has worked on, by row and place in the row."""
    from composer.stages.running import Written  # noqa: PLC0415 - asyncio: `coe route` makes this stage and never runs it

    found = {}
    for row, (query, replies) in enumerate(zip(state.queries, state.replies, strict=True)):
        kind = kind_of(kit, state, row)
        for place, reply in enumerate(replies):
            spec = None if reply.worked is not None or kind == "code" else kit.registry.strategy(reply.arm)
            if spec is not None:
                found[row, place] = Written(query, reply.arm, spec, reply.draft, kind, reply.sample)
    return found


async def _executed(kit: Kit, state: State, places: dict[tuple[int, int], Written]) -> Update:
    from composer.stages.asking import asking  # noqa: PLC0415 as above
    from composer.stages.running import run_all  # noqa: PLC0415 as above

    cut: set[str] = set()
    ask = asking(kit.pool(), budget=kit.budget(), emit=kit.emit, cut=cut)
    attempts = await run_all(kit.registry, ask, kit.sandbox, list(places.values()))
    replies, beside = [list(own) for own in state.replies], list(state.beside)
    for (row, place), attempt in zip(places, attempts, strict=True):
        reply = replies[row][place]
        replies[row][place] = replace(reply, draft=attempt.draft, worked=attempt.worked)
        beside[row] += tuple(Beside(reply.arm, "tool", draft) for draft in attempt.earlier)
    gone = [query.id in cut for query in state.queries]
    return {
        "replies": tuple(map(tuple, replies)),
        "beside": tuple(beside),
        "withheld": tuple(held or own for held, own in zip(state.withheld, gone, strict=True)),
        "open": tuple(still and not own for still, own in zip(state.open, gone, strict=True)),
    }
