"""aggregate: one answer per query out of its drafts, with an honest status."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from composer.answers.ballots import TRAITS, Ballots, traits
from composer.answers.extract import codes, conclusion
from composer.answers.trust import DISSOCIATION, OFF_DOMAIN, Trust
from composer.answers.vote import agreement
from composer.plugins import load
from composer.stages.kit import Kit, Stage, kind_of
from composer.state import Answer, Reply, State, Status, Update
from composer.trace import Answered
from composer.types import Kind
from routers.coverage import GAP, Signals
from routers.doubting import DISAGREEMENT, disagree
from routers.types import Arm

UNREAD = "retrieval: unavailable"
"""The mark of an answer whose arm was to read passages, and could not."""


def aggregate(kit: Kit, *, by: str = "best") -> Stage:
    """Combine each row's complete drafts with the aggregator `by`: `best` scored, `majority`, `weighted`, `log-odds`,
    `self-consistent`, `dawid-skene`, or `learnt` (by `coe fit answers`). Where no answer could be read, the best scored text is taken as it stands; where
    no draft is complete, a text that was cut off is a `degraded` answer. Of programs those that pass
    all their tests are combined, else those that could not be tried, else those that pass the most; one that passes none is
    no answer."""
    load(
        "aggregators", by, "by"
    )  # what it has learnt is read with the first question, but a misspelt name is told before
    return _Aggregate(kit, by)


@dataclass(frozen=True, slots=True)
class _Aggregate:
    """The stage (`Whole` with an aggregator that learns from the batch itself)."""

    kit: Kit
    by: str

    @property
    def whole(self) -> bool:
        """As the aggregator says."""
        return bool(getattr(self.kit.aggregator(self.by), "whole", False))

    async def __call__(self, state: State) -> Update:
        kit = self.kit
        combiner = kit.aggregator(self.by)
        good = [[reply for reply in replies if reply.draft.ok] for replies in state.replies]
        kinds = [kind_of(kit, query, asked) for query, asked in zip(state.queries, state.asked, strict=True)]
        ballots = ballots_of(state, good)
        verdicts = combiner.combine(ballots)
        shares = agreement(ballots, verdicts.slot)
        trust = kit.trust()
        scored = state.scores is not None  # of an expert by name nobody has said how good it is
        sure, inside = verdicts.sure, np.array([GAP not in reason.flags for reason in state.reasons], dtype=bool)
        plain = [not any(r.arm in own for r in state.replies[row]) for row, own in enumerate(state.contrasted)]
        inside &= np.array(plain, dtype=bool)  # what was rehearsed are the arms as they are
        if trust:
            sure = np.where(inside, trust.sureness.probable(sure, ballots.signals), sure)
        taken = [
            None
            if state.abstained[row] is not None
            else _taken(ballots, row, int(verdicts.slot[row]), good[row]) or _cut_off(state.replies[row], kinds[row])
            for row in range(len(kinds))
        ]
        marks = await _marks(kit, trust, state, taken)
        answers: list[Answer] = []
        for row, (query, kind, reply) in enumerate(zip(state.queries, kinds, taken, strict=True)):
            answer = Answer(
                id=query.id,
                text=_shown(reply, kind) if reply else "",
                status=_status(reply, len(good[row]) == len(state.replies[row])),
                experts=state.asked[row],
                score=_score(state, row, reply.arm) if reply else None,
                agreement=float(shares[row]),
                chosen=reply.arm if reply else None,
                trace_id=hashlib.sha256(f"{state.run}\0{query.id}".encode()).hexdigest()[:16],
                sure=round(float(sure[row]), 4) if reply and verdicts.slot[row] >= 0 and scored else None,
                calibrated=trust is not None and bool(inside[row]),
                marks=marks[row],
            )
            kit.emit(Answered(answer.id, answer.text, answer.status, answer.trace_id))
            answers.append(answer)
        return {"answers": tuple(answers), "open": (False,) * len(answers)}


async def _marks(kit: Kit, trust: Trust | None, state: State, taken: Sequence[Reply | None]) -> list[tuple[str, ...]]:
    """Why each row's answer may be wrong although it is sure; what a trust tells of is marked only where there is one."""
    domains = [reason.skills[0][0] if reason.skills else None for reason in state.reasons]
    off = [False] * len(taken)
    speaking = [row for row, reply in enumerate(taken) if trust and reply and trust.content.speaks(reply.draft.text)]
    if trust and speaking:
        import asyncio  # noqa: PLC0415 - `coe route` makes this stage and never runs it

        texts = [reply.draft.text for row in speaking if (reply := taken[row]) is not None]
        vectors = await asyncio.to_thread(kit.encoder().encode, texts)
        for row, strays in zip(speaking, trust.content.off(vectors, [domains[row] for row in speaking]), strict=True):
            off[row] = strays
    found = []
    for row, (reply, seen, domain) in enumerate(zip(taken, state.seen, domains, strict=True)):
        told = list(state.reasons[row].flags)
        if disagree(seen):
            told.append(DISAGREEMENT)
        if trust and reply and trust.loose(reply.arm, domain):
            told.append(DISSOCIATION)
        if off[row]:
            told.append(OFF_DOMAIN)
        if reply and (evidence := state.evidence[row].get(reply.arm)) and evidence.missing is not None:
            told.append(UNREAD)
        found.append(tuple(told))
    return found


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
        score[row, here] = [_score(state, row, reply.arm) for reply in own]
        length[row, here] = [len(reply.draft.text) for reply in own]
        looks[row, here] = traits(state.queries[row].prompt, said)
    options = np.array([len(query.choices) for query in state.queries], dtype=np.int64)
    strongest = [reason.skills[0][0] if reason.skills else None for reason in state.reasons]
    skills = tuple(sorted({name for name in strongest if name is not None}))
    skill = np.array([-1 if name is None else skills.index(name) for name in strongest], dtype=np.int64)
    signals = Signals.told(state.reasons)
    return Ballots(tuple(map(Arm, state.arms)), arm, code, score, length, options, looks, skills, skill, signals)


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


def _score(state: State, row: int, arm: str) -> float:
    return float(state.scores[row, state.arms.index(arm)]) if state.scores is not None and arm in state.arms else 0.0


def _taken(ballots: Ballots, row: int, slot: int, good: Sequence[Reply]) -> Reply | None:
    """Among the drafts that give the answer in `slot`, that of the arm the router trusts most; without any answer, the
    best scored text as it stands."""
    if slot >= 0:
        agree = np.flatnonzero(ballots.code[row] == ballots.code[row, slot])
    else:
        agree = np.array([i for i, reply in enumerate(good) if reply.draft.text.strip()], dtype=np.int64)
    return good[int(agree[ballots.score[row, agree].argmax()])] if len(agree) else None


def _cut_off(replies: tuple[Reply, ...], kind: Kind) -> Reply | None:
    """Where no draft is complete, the first whose text ran out of tokens: prose is worth something without its end, a
    number or a list is not."""
    cut = (reply for reply in replies if reply.draft.stop == "length" and reply.draft.text.strip())
    return next(cut, None) if kind == "text" else None


def _status(taken: Reply | None, all_good: bool) -> Status:
    if taken is None:
        return "failed"
    right = taken.passed in (None, len(taken.verdicts))
    return "ok" if all_good and right and taken.answer is not None else "degraded"


def _shown(reply: Reply, kind: Kind) -> str:
    """Numbers, choices, formulas and programs as read, without what was said around them; everything else in the expert's
    own words."""
    if reply.answer is not None and kind in ("number", "choice", "math", "code"):
        return reply.answer
    return (conclusion(reply.draft.text) if kind == "text" else reply.draft.text).strip()
