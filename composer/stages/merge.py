"""merge: one expert makes one answer of what several wrote, where they do not agree."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from annotated_types import Ge, Gt, Le

from composer.answers.merge import merge_request
from composer.asker import Asker
from composer.errors import ConfigError
from composer.plugins import load
from composer.stages.balloting import ballots_of
from composer.stages.disputed import disputed, needless
from composer.stages.kit import Kit, Stage, kind_of
from composer.stages.reading import compared, read
from composer.state import Merged, Reply, State, Update
from composer.types import Request


def merge(
    kit: Kit,
    *,
    by: str,
    vote: str = "majority",
    sure: Annotated[float, Gt(0), Le(1)] = 0.9,
    most: Annotated[int, Ge(2)] = 8,
) -> Stage:
    """Have the expert `by` make one answer of a row's drafts (Symbolic-MoE, Chen et al. 2025; METHODS A.10), once nobody else is
    asked. It is not asked where fewer than two drafts hold an answer, where all of them say the same, and where the aggregator
    `vote` is as `sure` of its answer (MOSAIC's rule); the trace says so. It sees at most `most` drafts, in an order of their own and
    without names. Where it fails or makes no answer, `aggregate` takes one as if it had not been asked. It comes after `verify`,
    whose comparison of answers it needs."""
    load("aggregators", vote, "vote")
    if by not in {arm.name for arm in kit.registry.arms()}:
        raise ConfigError(f"no expert is called {by!r}", where="by", remedy="name an expert that answers")

    async def stage(state: State) -> Update:
        rows = disputed(state)
        return await _merged(kit, by, vote, sure, most, state, rows) if rows else {}

    return stage


async def _merged(kit: Kit, by: str, vote: str, sure: float, most: int, state: State, rows: Sequence[int]) -> Update:
    from composer.stages.asking import asking  # noqa: PLC0415 - asyncio: `coe route` makes this stage and never runs it

    part = state.part(rows)
    own = [[reply for reply in replies if reply.draft.ok] for replies in part.replies]
    said = kit.aggregator(vote).combine(ballots_of(part, own))
    found, withheld, requests = list(state.merged), list(state.withheld), dict[int, Request]()
    for place, row in enumerate(rows):
        why = needless(own[place], float(said.sure[place]), sure)
        if why is not None:
            found[row] = Merged(by, why=why)
            continue
        query = state.queries[row]
        asker = Asker(query.id, query.wishes.deadline, query.wishes.priority)
        texts = [reply.draft.text for reply in own[place]][:most]
        requests[row] = merge_request(kit.registry, by, query.prompt, texts, asker)
    cut: set[str] = set()
    drafts = await asking(kit.pool(), budget=kit.budget(), emit=kit.emit, cut=cut)(list(requests.values()))
    for row, request in requests.items():
        query = state.queries[row]
        if query.id in cut:
            withheld[row] = True
            continue
        kind = kind_of(kit, query, state.asked[row])
        made = read(Reply(by, drafts[request.id]), query, kind)
        *_, made = compared([*(reply for reply in state.replies[row] if reply.draft.ok), made], kind)
        found[row] = Merged(by, made)
    return {"merged": tuple(found), "withheld": tuple(withheld)}
