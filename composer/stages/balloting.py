"""The drafts of a batch as the columns that aggregators take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from composer.answers.ballots import TRAITS, Aggregator, Ballots, traits
from composer.answers.extract import codes
from composer.state import Reply, State
from routers.coverage import Signals
from routers.types import Arm


def ballots_of(state: State, drafts: Sequence[Sequence[Reply]]) -> Ballots:
    """The columns of these drafts, one row per query of the state."""
    place = {name: i for i, name in enumerate(state.arms)}
    shape = (len(drafts), max(map(len, drafts), default=0))
    arm, code = np.full(shape, -1), np.full(shape, -1)
    score, length, looks = np.zeros(shape), np.zeros(shape, dtype=np.int64), np.zeros((*shape, len(TRAITS)))
    for row, own in enumerate(drafts):
        here = slice(0, len(own))
        said = [reply.answer for reply in own]
        arm[row, here] = [place.get(reply.arm, -1) for reply in own]
        code[row, here] = _codes(own)
        score[row, here] = [score_of(state, row, reply.arm) for reply in own]
        length[row, here] = [len(reply.draft.text) for reply in own]
        looks[row, here] = traits(state.queries[row].prompt, said)
    options = np.array([len(query.choices) for query in state.queries], dtype=np.int64)
    strongest = [reason.skills[0][0] if reason.skills else None for reason in state.reasons]
    skills = tuple(sorted({name for name in strongest if name is not None}))
    skill = np.array([-1 if name is None else skills.index(name) for name in strongest], dtype=np.int64)
    signals = Signals.told(state.reasons)
    return Ballots(tuple(map(Arm, state.arms)), arm, code, score, length, options, looks, skills, skill, signals)


def taken_of(ballots: Ballots, row: int, slot: int, good: Sequence[Reply]) -> Reply | None:
    """Among the drafts that give the answer in `slot`, that of the arm the router trusts most; without any answer, the
    best scored text as it stands."""
    if slot >= 0:
        agree = np.flatnonzero(ballots.code[row] == ballots.code[row, slot])
    else:
        agree = np.array([i for i, reply in enumerate(good) if reply.said.strip()], dtype=np.int64)
    return good[int(agree[ballots.score[row, agree].argmax()])] if len(agree) else None


def voted(vote: Aggregator, state: State, own: Mapping[int, Sequence[Reply]]) -> dict[int, Reply]:
    """The draft that `vote` takes of the drafts of each row; rows none of whose drafts holds an answer are left out."""
    part, drafts = state.part(list(own)), list(own.values())
    ballots = ballots_of(part, drafts)
    slots = vote.combine(ballots).slot
    found = {row: taken_of(ballots, place, int(slots[place]), drafts[place]) for place, row in enumerate(own)}
    return {row: reply for row, reply in found.items() if reply is not None and reply.answer is not None}


def _codes(own: Sequence[Reply]) -> list[int]:
    """The replies' codes. A program that passes all its tests stands before those that could not be tried; where every
    one fails a test, those that pass the most of them are answers all the same."""
    if any(reply.verdicts and reply.passed == len(reply.verdicts) for reply in own):
        return [reply.code if reply.passed is not None else -1 for reply in own]
    most = max((reply.passed or 0 for reply in own), default=0)
    if not most or any(reply.code >= 0 for reply in own):
        return [reply.code for reply in own]
    best = [reply.answer if reply.passed == most else None for reply in own]
    return codes(best, "code", [reply.verdicts for reply in own])


def score_of(state: State, row: int, arm: str) -> float:
    """What the router gave the arm on the question at `row`; 0 where it was not asked."""
    return float(state.scores[row, state.arms.index(arm)]) if state.scores is not None and arm in state.arms else 0.0
