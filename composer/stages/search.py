"""search: paths that ask different numbers of experts, a verifier that scores them, and a vote weighted by what they are worth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated

import numpy as np
from annotated_types import Ge, Le

from composer.answers.checking import check_request, verdict
from composer.answers.found import Walked
from composer.answers.merge import merge_request, unfenced
from composer.answers.search import Path, agreeing, answer_of, best_of, children, distinct, first_paths, widths, winner
from composer.errors import ConfigError
from composer.stages.disputed import check_settler, of_a_plan, proven, settled_rows
from composer.stages.kit import Kit, Stage, Together, kind_of
from composer.stages.partnering import contrasted, streams_of
from composer.stages.reading import compared_aside, read
from composer.state import Beside, Merged, Reply, State, Update
from composer.types import Draft, Kind, Request

CONSISTENCY = "self-consistency"
_SEEN = 8
"""Drafts of a path that its next step is shown: the last ones."""
_UNTOLD = 0.5  # the value of a path of which the verifier does not say whether it is right


@dataclass(slots=True)
class _Walk:
    """A row on its way along at most `most` paths. `replies` are all drafts of the question, those that stand first; `order` the arms, best first."""

    kind: Kind
    order: Sequence[str]
    paths: tuple[Path, ...]
    most: int
    replies: list[Reply]
    standing: int
    told: list[Walked] = field(default_factory=list[Walked])
    beside: list[Beside] = field(default_factory=list[Beside])
    verdicts: dict[int, float] = field(default_factory=dict[int, float])  # by code, from an expert
    numbered: int = 0  # requests, so that their ids differ
    reply: Reply | None = None
    going: bool = True

    @property
    def codes(self) -> list[int]:
        """Of all drafts."""
        return [reply.code for reply in self.replies]


@dataclass(slots=True)
class _Step:
    """What a round asks for a row: the requests that are new, and for each path the places of its drafts, where a place beyond
    the replies is that of a new request, in their order."""

    requests: list[Request] = field(default_factory=list[Request])
    places: list[tuple[int, ...]] = field(default_factory=list[tuple[int, ...]])


def search(
    kit: Kit,
    *,
    paths: Annotated[int, Ge(2), Le(16)] = 4,
    beam: Annotated[int, Ge(1)] = 2,
    rounds: Annotated[int, Ge(1), Le(3)] = 2,
    by: str | None = None,
) -> Stage:
    """Follow `paths` that ask different numbers of experts: as many as the row has asked, and up to two fewer or more, spread
    evenly. Each path asks its best routed experts; the `beam` that the verifier values most go on, `paths` of them again, each with
    its parent's number of experts, who now see what was said along the path. The answer is that of the last round's paths, each
    counting what it is worth (Dynamic Experts Search with whole experts; METHODS I.7). The verifier is the share of all drafts of the
    row that say the same, or, with `by`, an expert that says right or wrong. A `beam` beyond `paths` is a ConfigError. Experts that draw at a temperature draw anew for each
    path of the same number; at temperature 0 such paths are one. Drafts that are there are not drawn again. A row whose paths all
    say the same goes no further. A round is one pass over the hosts for all paths of all rows, with `by` two."""
    if by is not None:
        check_settler(kit, by, "majority")
    if beam > paths:
        raise ConfigError(
            f"{beam} paths cannot go on where {paths} are followed",
            where="beam",
            remedy=f"write a beam of {paths} at most, or more `paths`",
        )

    async def stage(state: State) -> Update:
        walks = {row: _begun(kit, state, row, paths) for row in settled_rows(state) if _searches(state, row)}
        cut: set[str] = set()
        for number in range(rounds):
            going = {row: one for row, one in walks.items() if one.going and state.queries[row].id not in cut}
            await _round(kit, state, going, number, cut)
            await _valued(kit, by, state, going, cut)
            for row, one in going.items():
                if state.queries[row].id not in cut:
                    _kept(one, number, beam, last=number == rounds - 1)
        return _update(state, by, walks, cut)

    return Together(stage)


def _searches(state: State, row: int) -> bool:
    """Whether the drafts of the row answer its question: those of a plan answer its last step. A program that passes all its tests
    is not looked beyond."""
    alone = state.scores is not None and not state.queries[row].turns  # paths would not see what was said before
    return alone and not (of_a_plan(state, row) or proven(state.replies[row]))


def _begun(kit: Kit, state: State, row: int, paths: int) -> _Walk:
    order = _order(kit, state, row)
    usual = len(state.asked[row])
    first = first_paths(paths, widths(usual, len(order)), usual)
    standing = list(state.replies[row])
    return _Walk(kind_of(kit, state, row), order, first, paths, standing, len(standing))


def _order(kit: Kit, state: State, row: int) -> list[str]:
    """The arms of the row, best routed first. Who reads is among them only where something was looked up for it; who answers by a
    program is not: its drafts are no texts to go on from."""
    assert state.scores is not None
    ranked = [state.arms[int(place)] for place in np.argsort(-state.scores[row], kind="stable")]
    prose = [arm for arm in ranked if kit.registry.strategy(arm) is None]
    return [arm for arm in prose if kit.registry.evidence(arm) is None or arm in state.evidence[row]]


async def _round(kit: Kit, state: State, walks: Mapping[int, _Walk], number: int, cut: set[str]) -> None:
    """All paths of all rows go one step further, in one pass over the hosts."""
    from composer.stages.asking import asking  # noqa: PLC0415 - asyncio: `coe route` makes this stage and never runs it

    steps = {row: _step(kit, state, row, one, number) for row, one in walks.items()}
    ask = asking(kit.pool(), budget=kit.budget(), emit=kit.emit, cut=cut)
    drafts = await ask([request for step in steps.values() for request in step.requests])
    for row, step in steps.items():
        one, query = walks[row], state.queries[row]
        if query.id in cut:
            continue
        for request in step.requests:
            draft = unfenced(request, drafts[request.id])
            one.replies.append(read(Reply(request.arm, draft, request.sample), query, one.kind))
            one.beside.append(Beside(request.arm, "search", draft))
        one.replies = list(await compared_aside(one.replies, one.kind))
        one.paths = distinct([path.after(own) for path, own in zip(one.paths, step.places, strict=True)])


def _step(kit: Kit, state: State, row: int, one: _Walk, number: int) -> _Step:
    """What each path asks its experts now. Two paths that ask the same of the same expert share the draft."""
    step = _Step()
    known: dict[tuple[object, ...], int] = {}
    if number == 0:
        for place, reply in enumerate(one.replies):
            known.setdefault((reply.arm, reply.sample, ()), place)
    for path in one.paths:
        places: list[int] = []
        for arm in one.order[: path.k]:
            sample = path.sample if _warm(kit, state, row, arm) else 0
            name = (arm, sample, path.steps)
            if name not in known:
                known[name] = len(one.replies) + len(step.requests)
                step.requests.append(_request(kit, state, row, one, path, arm, sample))
            places.append(known[name])
        step.places.append(tuple(places))
    return step


def _warm(kit: Kit, state: State, row: int, arm: str) -> bool:
    """Whether the arm draws at a temperature: without one it would say the same again."""
    return state.queries[row].wishes.of(kit.registry.sampling(arm)).temperature > 0


def _request(kit: Kit, state: State, row: int, one: _Walk, path: Path, arm: str, sample: int) -> Request:
    """The question as it stands at a path's first step, then with what was said along the path."""
    query, number = state.queries[row], one.numbered
    one.numbered += 1
    sampling = query.wishes.of(kit.registry.sampling(arm))
    drawn = query.wishes.sample * one.most + sample if sampling.temperature > 0 else 0
    sampling = replace(sampling, seed=sampling.seed + drawn)
    if path.steps:
        texts = [one.replies[place].said for place in path.drafts if one.replies[place].draft.ok][-_SEEN:]
        asked = merge_request(kit.registry, arm, query.prompt, texts, query.asker, role="search", place=number)
        return replace(asked, sampling=sampling, sample=drawn)
    against = contrasted(kit.registry, state, row, arm)
    streams, mix = streams_of(kit.registry, query, arm, state.evidence[row].get(arm), against)
    plain = query.asker.request(arm, "search", streams[0], sampling, place=number)
    return replace(plain, streams=streams, mix=mix, sample=drawn)


async def _valued(kit: Kit, by: str | None, state: State, walks: Mapping[int, _Walk], cut: set[str]) -> None:
    """Where an expert is the verifier it looks at every answer of a path that it has not seen yet, all rows together."""
    if by is None:
        return
    from composer.stages.asking import asking  # noqa: PLC0415 as above

    requests: dict[tuple[int, int], Request] = {}
    for row, one in walks.items():
        query = state.queries[row]
        if query.id in cut:
            continue
        new = {code for path in one.paths if (code := answer_of(path, one.codes)) >= 0} - one.verdicts.keys()
        for number, code in enumerate(sorted(new), len(one.verdicts)):
            text = one.replies[one.codes.index(code)].said
            requests[row, code] = check_request(kit.registry, by, query.prompt, text, query.asker, number)
    drafts = await asking(kit.pool(), budget=kit.budget(), emit=kit.emit, cut=cut)(list(requests.values()))
    for (row, code), request in requests.items():
        if state.queries[row].id not in cut:
            walks[row].verdicts[code] = _value(drafts[request.id])
            walks[row].beside.append(Beside(by, "check", drafts[request.id]))


def _value(draft: Draft) -> float:
    right, _ = verdict(draft)
    return _UNTOLD if right is None else float(right)


def _kept(one: _Walk, number: int, beam: int, *, last: bool) -> None:
    """What the round has shown: who is kept, whether the row goes on, and the answer if it does not."""
    codes = one.codes
    answers = [answer_of(path, codes) for path in one.paths]
    values = [one.verdicts.get(code, 0.0) if one.verdicts else agreeing(code, codes) for code in answers]
    best = best_of(values, beam)
    one.going = not last and len(set(answers)) > 1
    words = {reply.code: reply.answer for reply in reversed(one.replies)}
    for place, (path, code, value) in enumerate(zip(one.paths, answers, values, strict=True)):
        said = tuple((one.replies[own].arm, one.replies[own].answer) for own in path.steps[-1])
        answer = words[code] if code >= 0 else None
        one.told.append(Walked(number + 1, path.k, said, answer, round(value, 4), one.going and place in best))
    if one.going:
        one.paths = children([one.paths[place] for place in best], one.most)
    elif (won := winner(answers, values)) is not None:
        steps = one.paths[won].steps[-1]
        one.reply = next(one.replies[place] for place in steps if codes[place] == answers[won])


def _update(state: State, by: str | None, walks: Mapping[int, _Walk], cut: set[str]) -> Update:
    merged, withheld, beside, asked = list(state.merged), list(state.withheld), list(state.beside), list(state.asked)
    for row, one in walks.items():
        if state.queries[row].id in cut:
            withheld[row] = True
            continue
        why = "" if one.reply is not None else "no path has an answer that is worth anything to the verifier"
        merged[row] = Merged(by or CONSISTENCY, one.reply, why=why, paths=tuple(one.told))
        beside[row] += tuple(one.beside)
        asked[row] = tuple(dict.fromkeys([*asked[row], *(reply.arm for reply in one.replies[one.standing :])]))
    return {"merged": tuple(merged), "withheld": tuple(withheld), "beside": tuple(beside), "asked": tuple(asked)}
