"""aggregate: one answer per query out of its drafts, with an honest status."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from composer.answers.extract import conclusion
from composer.answers.trust import DISSOCIATION, OFF_DOMAIN, Trust
from composer.answers.vote import agreement
from composer.plugins import load
from composer.stages.balloting import ballots_of, score_of, taken_of
from composer.stages.kit import Kit, Stage, kind_of
from composer.state import Answer, Reply, State, Status, Update, followed, voted_on
from composer.trace import Answered
from composer.types import Kind
from routers.coverage import GAP
from routers.doubting import DISAGREEMENT, disagree

UNREAD = "retrieval: unavailable"
"""The mark of an answer whose arm was to read passages, and could not."""
PLANNED = "planned"
"""The mark of an answer that the last step of a plan gave: no belief is calibrated for whole plans."""


def aggregate(kit: Kit, *, by: str = "best") -> Stage:
    """Combine each row's complete drafts with the aggregator `by`: `best` scored, `majority`, `weighted`, `log-odds`,
    `self-consistent`, `dawid-skene`, `learnt` (by `coe fit answers`), or of strategies `prism` or `ordered`. Where no answer could be read, the best scored text is taken as it stands; where
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
        kinds = [kind_of(kit, state, row) for row in range(len(state.queries))]
        ballots = ballots_of(state, good)
        verdicts = combiner.combine(ballots)
        shares = agreement(ballots, verdicts.slot)
        for row in range(len(kinds)):
            if (reply := _merged(state, row)) is not None:
                shares[row] = sum(own.code == reply.code for own in good[row]) / max(1, len(good[row]))
        trust = kit.trust()
        scored = state.scores is not None  # of an expert by name nobody has said how good it is
        sure, inside = verdicts.sure, np.array([GAP not in reason.flags for reason in state.reasons], dtype=bool)
        inside &= np.array([_rehearsed(state, row) for row in range(len(kinds))], dtype=bool)
        settled = np.array([_merged(state, row) is not None for row in range(len(kinds))], dtype=bool)
        sure = np.where(settled, shares, sure)  # the vote's belief is in another answer
        known = [scored and slot >= 0 and _believed(state, row) for row, slot in enumerate(verdicts.slot)]
        if trust:
            sure = np.where(inside, trust.sureness.probable(sure, ballots.signals), sure)
        taken = [
            None
            if state.abstained[row] is not None
            else _merged(state, row)
            or taken_of(ballots, row, int(verdicts.slot[row]), good[row])
            or _cut_off(state.replies[row], kinds[row])
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
                score=score_of(state, row, reply.arm) if reply else None,
                agreement=float(shares[row]),
                chosen=reply.arm if reply else None,
                trace_id=hashlib.sha256(f"{state.run}\0{query.id}".encode()).hexdigest()[:16],
                sure=round(float(sure[row]), 4) if reply and known[row] else None,
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
    speaking = [row for row, reply in enumerate(taken) if trust and reply and trust.content.speaks(reply.said)]
    if trust and speaking:
        import asyncio  # noqa: PLC0415 - `coe route` makes this stage and never runs it

        texts = [reply.said for row in speaking if (reply := taken[row]) is not None]
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
        if followed(state, row):
            told.append(PLANNED)
        found.append(tuple(told))
    return found


def _believed(state: State, row: int) -> bool:
    """Whether anything is known of how sure the answer is. The router's score of who took a plan's last step says nothing of
    the steps before it, and nobody voted for a text that was written after the vote."""
    reply = _merged(state, row)
    return not followed(state, row) and (reply is None or voted_on(state, row, reply))


def _rehearsed(state: State, row: int) -> bool:
    """Whether the row was answered as it was rehearsed: by arms as they are, whose first drafts were voted on."""
    contrasted = any(reply.arm in state.contrasted[row] for reply in state.replies[row])
    speaking = any(reply.arm in state.voiced[row] for reply in state.replies[row])
    return not (contrasted or speaking or state.planned[row] or state.discussed[row] or _merged(state, row))


def _merged(state: State, row: int) -> Reply | None:
    """What a merger made of the drafts, where it made an answer of them."""
    merged = state.merged[row]
    return merged.reply if merged is not None and merged.reply is not None and merged.reply.answer is not None else None


def _cut_off(replies: tuple[Reply, ...], kind: Kind) -> Reply | None:
    """Where no draft is complete, the first whose text ran out of tokens: prose is worth something without its end, a
    number or a list is not."""
    cut = (reply for reply in replies if reply.draft.stop == "length" and reply.said.strip())
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
    return (conclusion(reply.said) if kind == "text" else reply.said).strip()
