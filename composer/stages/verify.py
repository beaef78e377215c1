"""verify: read the answer out of every new draft."""

from __future__ import annotations

from dataclasses import replace

from composer.answers.extract import extract
from composer.stages.kit import Kit, Stage, kind_of
from composer.state import State, Update


def verify(kit: Kit) -> Stage:
    """Extract by the query's kind, or by what its first arm writes. Truncated and failed drafts have no answer."""

    async def stage(state: State) -> Update:
        replies = tuple(
            tuple(
                replace(reply, answer=extract(reply.draft.text, kind_of(kit, query, asked), query.choices))
                if reply.draft.ok and reply.answer is None
                else reply
                for reply in row
            )
            for query, asked, row in zip(state.queries, state.asked, state.replies, strict=True)
        )
        return {"replies": replies}

    return stage
