"""generate: one request per wanted arm to the pool; replies stand in plan order, whenever they land."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

from annotated_types import Ge

from composer.stages.kit import Kit, Stage
from composer.state import Reply, State, Update
from composer.trace import Drafted, Written
from composer.types import Delta, Draft, Request


def generate(kit: Kit, *, samples: Annotated[int, Ge(1)] = 1) -> Stage:
    """Draw `samples` drafts from every wanted arm (more than one needs a temperature above 0 in the registry)."""

    async def stage(state: State) -> Update:
        places = [
            (row, arm, sample) for row, arms in enumerate(state.wanted) for arm in arms for sample in range(samples)
        ]
        requests = {f"{row}:{arm}:{sample}": _request(kit, state, row, arm, sample) for row, arm, sample in places}
        drafts: dict[str, Draft] = {}
        async for name, piece in kit.pool().submit(list(requests.values())):
            request = requests[name]
            query = request.parent or ""
            if isinstance(piece, Delta):
                kit.emit(Written(query, request.arm, piece.text))
                continue
            drafts[name] = piece
            kit.emit(Drafted.of(query, request.arm, piece))
        replies = [list(row) for row in state.replies]
        for row, arm, sample in places:
            replies[row].append(Reply(arm, drafts[f"{row}:{arm}:{sample}"], sample))
        return {"replies": tuple(tuple(row) for row in replies)}

    return stage


def _request(kit: Kit, state: State, row: int, arm: str, sample: int) -> Request:
    query = state.queries[row]
    sampling = kit.registry.sampling(arm)
    return Request(
        id=f"{row}:{arm}:{sample}",
        streams=(kit.registry.stream(arm, kit.registry.messages(arm, query.prompt)),),
        sampling=replace(sampling, seed=sampling.seed + sample),
        sample=sample,
        arm=arm,
        parent=query.id,
    )
