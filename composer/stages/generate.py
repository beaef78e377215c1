"""generate: one request per wanted arm to the pool; replies stand in plan order, whenever they land."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Annotated, Any

from annotated_types import Ge

from composer.stages.foresight import may_want
from composer.stages.kit import Kit, Stage
from composer.stages.partnering import contrasted, contrasts_of, streams_of
from composer.state import Part, State, Update, request_id
from composer.trace import Planned
from composer.types import Evidence, Request


def generate(kit: Kit, *, samples: Annotated[int, Ge(1)] = 1, early: bool = True) -> Stage:
    """Draw `samples` drafts from every wanted arm (more than one needs a temperature above 0 in the registry).

    Where a policy asks one arm after the other and not all hosts fit into memory at once, what it may still want is drawn
    `early`, while its host is open, unless it is known by then that it will not be: no host is opened twice, and some
    drafts are drawn in vain. Without `early` every round of the policy opens what it needs again.

    A row goes on when the last of its drafts has landed.
    """
    return _Generate(kit, samples, early)


@dataclass(frozen=True, slots=True)
class _Generate:
    """The stage (`Landing`)."""

    kit: Kit
    samples: int
    early: bool

    async def __call__(self, state: State) -> Update:
        async with aclosing(self.landing(state)) as parts:
            found = [part async for part in parts]
        return {name: state.column(name, found) for name in ("replies", "withheld", "open", "contrasted")}

    async def landing(self, state: State) -> AsyncGenerator[Part]:
        """The rows, with their replies in plan order, as their last drafts land."""
        kit = self.kit
        state = state.apply({"contrasted": contrasts_of(kit.registry, state)})
        requests = _requests(kit, state, state.wanted, self.samples)
        ahead = _requests(kit, state, may_want(state), self.samples) if self.early else []
        if ahead and kit.pool().keeps([*requests, *ahead]):
            ahead = []  # nothing has to be opened twice: whoever is wanted later is asked later
        if state.round == 1 and len(state.queries) > 1:
            await _tell_plan(kit, [*requests, *ahead])
        from composer.stages.drawing import Drawn  # noqa: PLC0415 asyncio: `coe route` makes this stage and never runs it

        drawn = Drawn(kit, state, requests, ahead, self.samples)
        del requests, ahead  # it lets go of what has landed
        async with aclosing(drawn.rows()) as rows:
            async for part in rows:
                yield part


def first_requests(kit: Kit, state: State, *, samples: int = 1, **_others: Any) -> list[Request]:
    """What `generate` with these options would ask for the arms that are wanted now."""
    return _requests(kit, state, state.wanted, samples)


async def _tell_plan(kit: Kit, requests: Sequence[Request]) -> None:
    plan = await kit.pool().preview(requests, kit.typical())
    kit.emit(Planned(plan.calls, plan.stored, plan.loads, plan.peak, plan.seconds))


def _requests(kit: Kit, state: State, arms: Sequence[Sequence[str]], samples: int) -> list[Request]:
    """One per row, arm of the row and sample, in that order."""
    asked = enumerate(zip(arms, state.evidence, strict=True))
    return [
        request
        for row, (own, read) in asked
        for arm in own
        if arm in read or kit.registry.evidence(arm) is None  # what is only foreseen has not been looked up
        for request in _samples(kit, state, row, arm, samples, read.get(arm))
    ]


def _samples(kit: Kit, state: State, row: int, arm: str, samples: int, read: Evidence | None) -> Iterator[Request]:
    """The draws of this row's question from this arm. A request's `sample` counts the draws by everybody who repeats the
    question; its id is unique in the batch, whatever part of it the row is asked in."""
    query = state.queries[row]
    voice = one.arm if (one := state.voiced[row].get(arm)) else None
    streams, mix = streams_of(kit.registry, query, arm, read, contrasted(kit.registry, state, row, arm), voice)
    sampling = query.wishes.of(kit.registry.sampling(arm))
    for place in range(samples):
        sample = query.wishes.sample * samples + place
        yield Request(
            id=request_id(query.id, arm, place),
            streams=streams,
            mix=mix,
            sampling=replace(sampling, seed=sampling.seed + sample) if sample else sampling,
            sample=sample,
            arm=arm,
            parent=query.id,
            deadline=query.wishes.deadline,
            priority=query.wishes.priority,
            deltas=query.wishes.deltas,
        )
