"""generate: one request per wanted arm to the pool; replies stand in plan order, whenever they land."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Annotated, Any

from annotated_types import Ge

from composer.errors import RequestError
from composer.stages.foresight import Foresight, may_want
from composer.stages.kit import Kit, Stage
from composer.state import Query, Reply, State, Update
from composer.trace import Drafted, Planned, Written
from composer.types import Delta, Draft, Message, Prompt, Request


def generate(kit: Kit, *, samples: Annotated[int, Ge(1)] = 1, early: bool = True) -> Stage:
    """Draw `samples` drafts from every wanted arm (more than one needs a temperature above 0 in the registry).

    Where a policy asks one arm after the other and not all hosts fit into memory at once, what it may still want is drawn
    `early`, while its host is open, unless it is known by then that it will not be: no host is opened twice, and some
    drafts are drawn in vain. Without `early` every round of the policy opens what it needs again.
    """

    async def stage(state: State) -> Update:
        places = _places(state.wanted, samples)
        requests = _requests(kit, state, places, samples)
        later = _places(may_want(state), samples) if early else []
        ahead = _requests(kit, state, later, samples)
        if ahead and kit.pool().keeps([*requests.values(), *ahead.values()]):
            ahead = {}  # nothing has to be opened twice: whoever is wanted later is asked later
        if state.round == 1 and len(state.queries) > 1:
            await _tell_plan(kit, [*requests.values(), *ahead.values()])
        drafts = await _drafts(kit, requests, ahead, Foresight(kit, state, samples) if ahead else None)
        replies = [list(row) for row in state.replies]
        withheld, still = list(state.withheld), list(state.open)
        for row, arm, sample in places:
            draft = drafts.get(f"{row}:{arm}:{sample}")
            if draft is None:  # the budget did not allow it: the row is left for the next start
                draft, withheld[row], still[row] = Draft("", "", "cancelled"), True, False
            replies[row].append(Reply(arm, draft, sample))
        return {"replies": tuple(map(tuple, replies)), "withheld": tuple(withheld), "open": tuple(still)}

    return stage


def first_requests(kit: Kit, state: State, *, samples: int = 1, **_others: Any) -> list[Request]:
    """What `generate` with these options would ask for the arms that are wanted now."""
    return list(_requests(kit, state, _places(state.wanted, samples), samples).values())


async def _tell_plan(kit: Kit, requests: Sequence[Request]) -> None:
    plan = await kit.pool().preview(requests, kit.typical())
    kit.emit(Planned(plan.calls, plan.stored, plan.loads, plan.peak, plan.seconds))


def _places(arms: Sequence[Sequence[str]], samples: int) -> list[tuple[int, str, int]]:
    return [(row, arm, sample) for row, own in enumerate(arms) for arm in own for sample in range(samples)]


def _requests(kit: Kit, state: State, places: Sequence[tuple[int, str, int]], samples: int) -> dict[str, Request]:
    found: dict[str, Request] = {}
    for row, arm, sample in places:
        asked, name = state.queries[row], f"{row}:{arm}:{sample}"
        found[name] = _request(kit, asked, name, arm, asked.wishes.sample * samples + sample)
    return found


async def _drafts(
    kit: Kit, certain: dict[str, Request], ahead: dict[str, Request], sight: Foresight | None
) -> dict[str, Draft]:
    """The drafts by request id; those that the budget did not allow, or that it cut, are left out. Of those `ahead`
    what `sight` no longer wants when its turn comes is withdrawn; the rest is in the store then."""
    import asyncio  # noqa: PLC0415 - `coe route` makes this stage and never runs it

    budget, requests = kit.budget(), certain | ahead
    drafts: dict[str, Draft] = {}
    refused: set[str] = set()
    withdrawn: set[str] = set()

    def wanted(request: Request) -> bool:
        if sight is not None and request.id in ahead and not sight.wants(request.id):
            withdrawn.add(request.id)
            return False
        if budget.admits(request):
            return True
        refused.add(request.id)
        return False

    async def collect(asked: list[Request]) -> None:
        while asked:
            refused.clear()
            async with aclosing(kit.pool().submit(asked, wanted)) as pieces:  # type: ignore[type-var]
                async for name, piece in pieces:
                    request = requests[name]
                    query = request.parent or ""
                    if isinstance(piece, Delta):
                        kit.emit(Written(query, request.arm, piece.text, piece.at))
                    elif name not in refused and name not in withdrawn:
                        budget.landed(request, piece)
                        drafts[name] = piece
                        if sight is not None:
                            sight.land(name, piece)
                        kit.emit(Drafted.of(query, request.arm, piece, request.sample))
            # What was set aside for calls that are cheaper in the end is there for others.
            asked = [request for request in asked if request.id in refused and budget.has_room(request)]

    work, cut = asyncio.create_task(collect(list(requests.values()))), asyncio.create_task(budget.over())
    try:
        await asyncio.wait({work, cut}, return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            await work
    finally:
        work.cancel()
        cut.cancel()
        await asyncio.gather(work, cut, return_exceptions=True)
    for name in [name for name in budget.flying if name in requests]:
        request = budget.flying.pop(name)
        kit.emit(Drafted.of(request.parent or "", request.arm, Draft("", "", "cancelled"), request.sample))
    return drafts


def _request(kit: Kit, query: Query, name: str, arm: str, sample: int) -> Request:
    """`sample` counts the draws of this question by everybody who repeats it."""
    sampling = query.wishes.of(kit.registry.sampling(arm))
    return Request(
        id=name,
        streams=(kit.registry.stream(arm, _prompt(kit, query, arm)),),
        sampling=replace(sampling, seed=sampling.seed + sample),
        sample=sample,
        arm=arm,
        parent=query.id,
        deadline=query.wishes.deadline,
        priority=query.wishes.priority,
        deltas=query.wishes.deltas,
    )


def _prompt(kit: Kit, query: Query, arm: str) -> Prompt:
    """The question as the arm wants it, after what was said before. Many chat templates take one system message, at the
    beginning: the expert's own and those that begin the conversation become one. Raises RequestError for an expert that
    knows no turns."""
    question = kit.registry.messages(arm, query.prompt)
    if not query.turns:
        return question
    if isinstance(question, str):
        raise RequestError(
            f"{arm} continues text and knows no turns: it was given {len(query.turns)} messages before the question",
            remedy="send it one user message, or ask a model that chats",
        )
    first = next((i for i, turn in enumerate(query.turns) if turn.role != "system"), len(query.turns))
    system = [turn.content for turn in (*question[:-1], *query.turns[:first])]
    head = (Message("system", "\n\n".join(system)),) if system else ()
    return (*head, *query.turns[first:], question[-1])
