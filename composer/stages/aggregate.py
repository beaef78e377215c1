"""aggregate: one answer per query out of its drafts, with an honest status."""

from __future__ import annotations

import hashlib

from composer.answers.extract import conclusion
from composer.answers.vote import Aggregator, Candidate
from composer.plugins import load
from composer.stages.kit import Kit, Stage, kind_of
from composer.state import Answer, Reply, State, Status, Update
from composer.trace import Answered
from composer.types import Kind


def aggregate(kit: Kit, *, by: str = "best") -> Stage:
    """Combine each row's complete drafts with the aggregator `by`: `best` scored, or `majority`. Where there is none, a
    text that was cut off is a `degraded` answer."""
    combiner: Aggregator = load("aggregators", by, "by")()

    async def stage(state: State) -> Update:
        rows = [
            [
                Candidate(reply.arm, _score(state, row, reply.arm), reply.answer, reply.draft.text)
                for reply in replies
                if reply.draft.ok
            ]
            for row, replies in enumerate(state.replies)
        ]
        answers: list[Answer] = []
        for row, choice in enumerate(combiner.combine(rows)):
            query, replies = state.queries[row], state.replies[row]
            good = [reply for reply in replies if reply.draft.ok]
            kind = kind_of(kit, query, state.asked[row])
            taken = good[choice.index] if choice.index is not None else _cut_off(replies, kind)
            answer = Answer(
                id=query.id,
                text=_shown(taken, kind) if taken else "",
                status=_status(taken, len(good) == len(replies)),
                experts=state.asked[row],
                score=_score(state, row, taken.arm) if taken else None,
                agreement=choice.agreement,
                chosen=taken.arm if taken else None,
                trace_id=hashlib.sha256(f"{state.run}\0{query.id}".encode()).hexdigest()[:16],
            )
            kit.emit(Answered(answer.id, answer.text, answer.status, answer.trace_id))
            answers.append(answer)
        return {"answers": tuple(answers), "open": (False,) * len(answers)}

    return stage


def _score(state: State, row: int, arm: str) -> float:
    return float(state.scores[row, state.arms.index(arm)]) if state.scores is not None else 0.0


def _cut_off(replies: tuple[Reply, ...], kind: Kind) -> Reply | None:
    """Where no draft is complete, the first whose text ran out of tokens: prose is worth something without its end, a
    number or a list is not."""
    cut = (reply for reply in replies if reply.draft.stop == "length" and reply.draft.text.strip())
    return next(cut, None) if kind == "text" else None


def _status(taken: Reply | None, all_good: bool) -> Status:
    if taken is None:
        return "failed"
    return "ok" if all_good and taken.answer is not None else "degraded"


def _shown(reply: Reply, kind: Kind) -> str:
    """Numbers and choices as read, without the steps that led to them; everything else in the expert's own words."""
    if reply.answer is not None and kind in ("number", "choice"):
        return reply.answer
    return (conclusion(reply.draft.text) if kind == "text" else reply.draft.text).strip()
