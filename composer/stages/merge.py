"""merge: one expert makes one answer of what several wrote, where they do not agree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated

from annotated_types import Ge, Gt, Le

from composer.answers.merge import merge_request
from composer.stages.disputed import check_settler, disputed, settled, settler
from composer.stages.kit import Kit, Stage, Together, kind_of
from composer.stages.reading import compared, read
from composer.state import Merged, Reply, State, Update
from composer.types import Draft, Request


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

    def asking(merger: str, state: State, row: int, own: Sequence[Reply]) -> Request:
        query, texts = state.queries[row], [reply.said for reply in own if reply.said][:most]
        return merge_request(kit.registry, merger, query.prompt, texts, query.asker)

    async def stage(state: State) -> Update:
        wanted, needless = disputed(kit, state, by, vote, sure)
        mergers = {row: settler(kit, state, row, by) for row in wanted}
        requests = {row: asking(mergers[row].by, state, row, own) for row, own in wanted.items()}

        def made(row: int, drafts: Mapping[str, Draft]) -> Merged:
            query, draft = state.queries[row], drafts[requests[row].id]
            kind = kind_of(kit, state, row)
            *_, reply = compared([*wanted[row], read(Reply(mergers[row].by, draft), query, kind)], kind)
            return replace(mergers[row], reply=reply)

        return await settled(kit, state, needless, {row: [request] for row, request in requests.items()}, made)

    return Together(stage)
