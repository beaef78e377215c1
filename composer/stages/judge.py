"""judge: one expert says which of two answers is better, for every two that differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Annotated

from annotated_types import Ge, Gt, Le

from composer.answers.merge import judge_requests, preferred
from composer.stages.disputed import answers_of, check_settler, disputed, settled, settler
from composer.stages.kit import Kit, Stage, Together
from composer.state import Merged, Reply, State, Update
from composer.types import Draft, Request

Duel = tuple[Reply, Reply, tuple[Request, Request]]


def judge(
    kit: Kit,
    *,
    by: str,
    vote: str = "majority",
    sure: Annotated[float, Gt(0), Le(1)] = 0.9,
    most: Annotated[int, Ge(2), Le(6)] = 3,
) -> Stage:
    """Have the expert `by` (`auto`: whom `coe fit answers --mergers` chose for the question's task, measured at merging) compare each two of the answers of a row that differ (of at most `most`, those that were given most
    often), in both orders; what it prefers in one order alone counts for neither. The answer that wins most often is taken; of equal
    ones, and where it prefers none, that of the vote. It is left out where a merger would be (see `merge`). Its verdicts
    are not returned: they are drawn as the registry says, whatever the caller wishes."""
    check_settler(kit, by, vote, fitted=True)

    async def stage(state: State) -> Update:
        wanted, needless = disputed(kit, state, by, vote, sure)
        judges = {row: settler(kit, state, row, by) for row in wanted}
        duels = {row: _duels(kit, judges[row].by, state, row, answers_of(own, most)) for row, own in wanted.items()}
        asked = {row: [request for *_, pair in each for request in pair] for row, each in duels.items()}
        return await settled(kit, state, needless, asked, lambda row, drafts: _verdict(judges[row], duels[row], drafts))

    return Together(stage)


def _duels(kit: Kit, by: str, state: State, row: int, answers: Sequence[Reply]) -> list[Duel]:
    query = state.queries[row]
    return [
        (
            one,
            other,
            judge_requests(kit.registry, by, query.prompt, (one.said, other.said), query.asker, place),
        )
        for place, (one, other) in enumerate(combinations(answers, 2))
    ]


def _verdict(judge: Merged, duels: Sequence[Duel], drafts: Mapping[str, Draft]) -> Merged:
    wins: dict[int, int] = {}
    replies: dict[int, Reply] = {}
    told: list[tuple[str, str, str | None]] = []
    for one, other, (first, second) in duels:
        won = preferred((drafts[first.id], drafts[second.id]))
        better = None if won is None else (one, other)[won]
        told.append((one.arm, other.arm, better.arm if better else None))
        for reply in (one, other):
            replies[reply.code] = reply
            wins[reply.code] = wins.get(reply.code, 0) + (reply is better)
    best = max(wins.values())
    leading = [code for code, count in wins.items() if count == best]
    if len(leading) > 1:
        return replace(judge, why="it prefers none of them", duels=tuple(told))
    return replace(judge, reply=replies[leading[0]], duels=tuple(told))
