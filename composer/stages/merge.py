"""merge: one expert makes one answer of what several wrote, where they do not agree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated

from annotated_types import Ge, Gt, Le

from composer.answers.merge import merge_request, unfenced
from composer.stages.disputed import check_settler, disputed, settler
from composer.stages.kit import Kit, Stage, Together, kind_of
from composer.stages.reading import compared, read
from composer.state import Beside, Merged, Reply, State, Update
from composer.types import Request


def merge(
    kit: Kit,
    *,
    by: str,
    vote: str = "majority",
    sure: Annotated[float, Gt(0), Le(1)] = 0.9,
    most: Annotated[int, Ge(2)] = 8,
) -> Stage:
    """Have the expert `by` (`auto`: whom `coe fit answers --mergers` chose for the question's task) make one answer of a row's drafts (Symbolic-MoE, Chen et al. 2025; METHODS A.10), once nobody else is
    asked. It is not asked where fewer than two drafts hold an answer, where all of them say the same, and where the aggregator
    `vote` is as `sure` of its answer (MOSAIC's rule); the trace says so. It sees at most `most` drafts, in an order of their own and
    without names. Where it fails or makes no answer, `aggregate` takes one as if it had not been asked. What it writes is
    returned, so the caller's wishes hold for it (`max_tokens`, `stop`, `temperature`, `top_p`, `seed`). It comes after `verify`, whose
    comparison of answers it needs."""
    check_settler(kit, by, vote, fitted=True)

    async def stage(state: State) -> Update:
        wanted, needless = disputed(kit, state, by, vote, sure)
        return await _merged(kit, by, most, state, wanted, needless)

    return Together(stage)


async def _merged(
    kit: Kit, by: str, most: int, state: State, wanted: Mapping[int, Sequence[Reply]], needless: Mapping[int, Merged]
) -> Update:
    from composer.stages.asking import asking  # noqa: PLC0415 - asyncio: `coe route` makes this stage and never runs it

    found = [needless.get(row, merged) for row, merged in enumerate(state.merged)]
    withheld, beside = list(state.withheld), list(state.beside)
    asked: dict[int, Merged] = {}
    requests: dict[int, Request] = {}
    for row, own in wanted.items():
        query, texts = state.queries[row], [reply.said for reply in own if reply.said][:most]
        asked[row] = settler(kit, state, row, by)
        requests[row] = merge_request(kit.registry, asked[row].by, query.prompt, texts, query.asker)
    cut: set[str] = set()
    drafts = await asking(kit.pool(), budget=kit.budget(), emit=kit.emit, cut=cut)(list(requests.values()))
    for row, request in requests.items():
        query, draft = state.queries[row], unfenced(request, drafts[request.id])
        if query.id in cut:
            withheld[row] = True
            continue
        kind = kind_of(kit, query, state.asked[row])
        *_, made = compared([*wanted[row], read(Reply(request.arm, draft), query, kind)], kind)
        found[row] = replace(asked[row], reply=made)
        beside[row] += (Beside(request.arm, "merge", draft),)
    return {"merged": tuple(found), "withheld": tuple(withheld), "beside": tuple(beside)}
