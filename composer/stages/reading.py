"""Reading drafts: the answer in one, and which answers of a row are equal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from composer.answers.extract import codes, extract
from composer.state import Query, Reply
from composer.types import Kind


def read(reply: Reply, query: Query, kind: Kind) -> Reply:
    """With the answer in its draft, if it is complete and has one; what was read before stays."""
    if not reply.draft.ok or reply.answer is not None:
        return reply
    return replace(reply, answer=extract(reply.said, kind, query.choices))


def compared(replies: Sequence[Reply], kind: Kind) -> tuple[Reply, ...]:
    """With their codes. A program that fails a test is no answer: what comes after it cannot change that. Formulas may
    take two seconds for a pair."""
    failing = [reply.passed not in (None, len(reply.verdicts)) for reply in replies]
    answers = [None if fails else reply.answer for reply, fails in zip(replies, failing, strict=True)]
    found = codes(answers, kind, [reply.verdicts for reply in replies])
    return tuple(
        reply if reply.code == code else replace(reply, code=code) for reply, code in zip(replies, found, strict=True)
    )


async def compared_aside(replies: Sequence[Reply], kind: Kind) -> tuple[Reply, ...]:
    """As `compared`; where that takes long, others go on meanwhile."""
    if kind == "math" and len(replies) > 1:  # another process compares formulas
        import asyncio  # noqa: PLC0415 - `coe route` makes such stages and never runs them

        return await asyncio.to_thread(compared, replies, kind)
    return compared(replies, kind)
