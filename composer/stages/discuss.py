"""discuss: where experts differ, ask again with what the others said, whom the router would ask having seen it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import numpy as np
from annotated_types import Ge, Le

from composer.answers.merge import merge_request, shown, unfenced
from composer.plugins import load
from composer.stages.kit import Kit, Stage, Together, kind_of
from composer.stages.reading import compared, read
from composer.stages.scoring import scored
from composer.state import Beside, Discussed, Reply, State, Update
from composer.types import Draft, Request
from routers.types import Array


def discuss(
    kit: Kit,
    *,
    rounds: Annotated[int, Ge(1), Le(2)] = 1,
    k: Annotated[int, Ge(1)] = 3,
    router: str = "auto",
    reroute: bool = True,
) -> Stage:
    """Where the drafts of a row hold different answers, ask `k` experts again: each sees all responses, without names, and
    gives its own answer, as the persona that it has on this question; nobody reads passages or has a contrast then. With `reroute`
    they are those whom the `router` thinks best of the question and of the question with the responses, half each; else the best that
    were asked. What is said in the last round stands for the row; earlier drafts stay in the trace. At most two rounds (METHODS A:
    discussion is worth little), each of them one pass over the hosts for all rows; a row whose experts have come to agree goes no
    further. Arms with a strategy are heard and not asked again: what they write is run once. It comes after `verify`, whose
    comparison of answers it needs."""
    load("routers", router, "router")

    async def stage(state: State) -> Update:
        for number in range(rounds):
            rows = [row for row in range(len(state.queries)) if _differing(state, row, number)]
            if not rows:
                break
            state = state.apply(await _round(kit, router if reroute else None, k, number, state, rows))
        return {name: getattr(state, name) for name in ("replies", "asked", "discussed", "beside", "withheld")}

    return Together(stage)


def _differing(state: State, row: int, number: int) -> bool:
    """Whether nobody else is asked for the row, and two of its answers differ."""
    if (
        state.open[row]
        or state.withheld[row]
        or state.queries[row].turns  # which whoever is asked again would not see
        or state.abstained[row] is not None
        or len(state.discussed[row]) != number
    ):
        return False
    return len({reply.code for reply in state.replies[row] if reply.code >= 0}) > 1


async def _round(kit: Kit, router: str | None, k: int, number: int, state: State, rows: Sequence[int]) -> Update:
    from composer.stages.asking import asking  # noqa: PLC0415 - asyncio: `coe route` makes this stage and never runs it

    texts = {row: [reply.said for reply in state.replies[row] if reply.draft.ok and reply.said] for row in rows}
    chosen = await _chosen(kit, router, k, state, texts)
    requests = {row: _requests(kit, state, row, texts[row], chosen[row], number) for row in rows if chosen[row]}
    cut: set[str] = set()
    ask = asking(kit.pool(), budget=kit.budget(), emit=kit.emit, cut=cut)
    drafts = await ask([request for own in requests.values() for request in own])
    replies, asked = list(state.replies), list(state.asked)
    discussed, withheld, beside = list(state.discussed), list(state.withheld), list(state.beside)
    earlier: Literal["discuss", "first round"] = "discuss" if number else "first round"
    for row, own in requests.items():
        if state.queries[row].id in cut:
            withheld[row] = True
            continue
        said, arms = _said(kit, state, row, own, drafts), tuple(request.arm for request in own)
        discussed[row] += (Discussed(state.replies[row], arms),)
        asked[row] = tuple(dict.fromkeys(asked[row] + arms))
        told = any(reply.answer is not None for reply in said)  # else the round changes nothing
        replies[row], gone = (said, state.replies[row]) if told else (state.replies[row], said)
        beside[row] += tuple(Beside(reply.arm, earlier if told else "discuss", reply.draft) for reply in gone)
    return {
        "replies": tuple(replies),
        "asked": tuple(asked),
        "discussed": tuple(discussed),
        "beside": tuple(beside),
        "withheld": tuple(withheld),
    }


def _said(kit: Kit, state: State, row: int, own: Sequence[Request], drafts: Mapping[str, Draft]) -> tuple[Reply, ...]:
    query = state.queries[row]
    kind = kind_of(kit, state, row)
    return compared(
        [read(Reply(request.arm, unfenced(request, drafts[request.id])), query, kind) for request in own], kind
    )


def _requests(
    kit: Kit, state: State, row: int, texts: Sequence[str], arms: Sequence[str], number: int
) -> list[Request]:
    query, voiced = state.queries[row], state.voiced[row]
    return [
        merge_request(
            kit.registry,
            arm,
            query.prompt,
            texts,
            query.asker,
            role="discuss",
            place=number,
            voice=voiced[arm].arm if arm in voiced else None,
        )
        for arm in arms
    ]


async def _chosen(
    kit: Kit, router: str | None, k: int, state: State, texts: Mapping[int, Sequence[str]]
) -> dict[int, tuple[str, ...]]:
    """Whom each row asks."""
    import asyncio  # noqa: PLC0415 as above

    rows = list(texts)
    scores = state.scores
    prose = {arm for row in rows for arm in (*state.arms, *state.asked[row]) if kit.registry.strategy(arm) is None}
    if scores is None:
        return {row: tuple(arm for arm in state.asked[row] if arm in prose)[:k] for row in rows}
    if router is None:
        own = {
            row: [state.arms.index(arm) for arm in state.asked[row] if arm in state.arms and arm in prose]
            for row in rows
        }
        return {row: _best(scores[row], own[row], state.arms, k) for row in rows}
    told = [state.queries[row].prompt + "\n" + "\n".join(map(shown, texts[row])) for row in rows]
    ids = [state.queries[row].id for row in rows]
    again, _ = await asyncio.to_thread(scored, kit, kit.router(router), ids, told)
    every = [place for place, arm in enumerate(state.arms) if arm in prose]
    return {row: _best((scores[row] + again[place]) / 2, every, state.arms, k) for place, row in enumerate(rows)}


def _best(scores: Array, places: Sequence[int], arms: Sequence[str], k: int) -> tuple[str, ...]:
    """The k best arms among `places`, best first."""
    own = np.asarray(places, dtype=np.int64)
    order = own[np.argsort(-scores[own], kind="stable")]
    return tuple(arms[int(place)] for place in order[:k])
