"""What those who settle a row have in common: who may be one, which rows it is wanted for, and how it is asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from composer.answers.merge import unfenced
from composer.errors import ConfigError
from composer.plugins import load
from composer.stages.balloting import ballots_of
from composer.stages.kit import Kit
from composer.state import Beside, Merged, Reply, State, Update
from composer.types import Draft, Request

CONVERSATION = "it belongs to a conversation, which a settler would not see"
FITTED = "auto"  # whom `coe fit answers --mergers` chose for the question's task


def check_settler(kit: Kit, by: str, vote: str, *, fitted: bool = False) -> None:
    """Raise ConfigError, with the option as its `where`, for an expert or an aggregator that is not there, or that does not answer in
    prose. With `fitted` the expert
    may be left open (`FITTED`)."""
    load("aggregators", vote, "vote")
    if fitted and by == FITTED:
        return
    routed = [arm.name for arm in kit.registry.arms()]
    if by not in routed:
        prose = [name for name in routed if kit.registry.strategy(name) is None]
        what, remedy = kit.registry.settings.unanswering(by, [*prose, FITTED] if fitted else prose)
        raise ConfigError(what, where="by", remedy=remedy)
    if kit.registry.strategy(by) is not None:
        raise ConfigError(f"{by!r} answers by programs", where="by", remedy="name an expert that answers in prose")


def disputed(
    kit: Kit, state: State, by: str, vote: str, sure: float
) -> tuple[dict[int, list[Reply]], dict[int, Merged]]:
    """The rows that `by` is to settle, each with its complete drafts, and those for which it is not needed. Left out are rows
    of which somebody else is still asked, or that are settled already. Raises InputError where `by` is left open, and nobody
    has chosen."""
    rows = settled_rows(state)
    part = state.part(rows)
    own = [[reply for reply in replies if reply.draft.ok] for replies in part.replies]
    believed = kit.aggregator(vote).combine(ballots_of(part, own)).sure
    wanted: dict[int, list[Reply]] = {}
    needless: dict[int, Merged] = {}
    for place, row in enumerate(rows):
        why = CONVERSATION if state.queries[row].turns else _needless(own[place], float(believed[place]), sure)
        if why is None:
            wanted[row] = own[place]
        else:
            needless[row] = replace(settler(kit, state, row, by), why=why)
    return wanted, needless


def settler(kit: Kit, state: State, row: int, by: str) -> Merged:
    """Who settles the row, nothing made yet: `by`, or whom the fitted choice has for the strongest skill of the question."""
    if by != FITTED:
        return Merged(by)
    skills = state.reasons[row].skills
    expert, why = kit.mergers().of(skills[0][0] if skills else None)
    return Merged(expert, chosen=why)


async def settled(
    kit: Kit,
    state: State,
    needless: Mapping[int, Merged],
    asked: Mapping[int, Sequence[Request]],
    conclude: Callable[[int, Mapping[str, Draft]], Merged],
) -> Update:
    """The rows after all of `asked` was asked in one pass over the hosts: what `conclude` makes of a row and its drafts by their requests'
    ids (without the fences of others' texts), and `needless` as it is. A row of which something was not allowed, or cut short, is withheld."""
    from composer.stages.asking import asking  # noqa: PLC0415 - asyncio: `coe route` makes such stages and never runs them

    found = [needless.get(row, merged) for row, merged in enumerate(state.merged)]
    withheld, beside = list(state.withheld), list(state.beside)
    cut: set[str] = set()
    ask = asking(kit.pool(), budget=kit.budget(), emit=kit.emit, cut=cut)
    written = await ask([request for own in asked.values() for request in own])
    for row, own in asked.items():
        if state.queries[row].id in cut:
            withheld[row] = True
            continue
        # One object for what is concluded from and what stands beside: a plan tells its step's calls apart by it.
        drafts = {request.id: unfenced(request, written[request.id]) for request in own}
        found[row] = conclude(row, drafts)
        beside[row] += tuple(Beside(request.arm, request.role, drafts[request.id]) for request in own)
    return {"merged": tuple(found), "withheld": tuple(withheld), "beside": tuple(beside)}


def answers_of(own: Sequence[Reply], most: int) -> list[Reply]:
    """The first reply of each answer, those that were given most often."""
    first: dict[int, Reply] = {}
    for reply in own:
        if reply.code >= 0:
            first.setdefault(reply.code, reply)
    codes = [reply.code for reply in own]
    return sorted(first.values(), key=lambda reply: -codes.count(reply.code))[:most]


def settled_rows(state: State) -> list[int]:
    """The rows of which nobody else is asked, and that no settler has had its say about."""
    return [
        row
        for row, still in enumerate(state.open)
        if not still and state.merged[row] is None and state.abstained[row] is None and not state.withheld[row]
    ]


def proven(own: Sequence[Reply]) -> bool:
    """Whether one of the drafts is a program that passes all its tests: what is written after it is tried by nobody."""
    return any(reply.verdicts and reply.passed == len(reply.verdicts) for reply in own)


def of_a_plan(state: State, row: int) -> bool:
    """Whether the row is answered by a plan: its draft answers the last step and not the question, and was settled as that."""
    planned = state.planned[row]
    return planned is not None and not planned.why


def _needless(own: Sequence[Reply], believed: float, sure: float) -> str | None:
    """Why nobody is asked to settle it; None: somebody is."""
    codes = [reply.code for reply in own if reply.code >= 0]
    if len(codes) < 2:
        return "fewer than two drafts hold an answer"
    if len(set(codes)) == 1:
        return "all drafts say the same"
    if believed >= sure:
        return f"the vote is sure enough ({believed:.2f})"
    return None
