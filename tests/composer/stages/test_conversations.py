"""A question of a conversation is settled by the vote: whoever is asked afterwards would not see what was said before."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from composer.state import Query
from composer.traced import calls_of, trace_of
from composer.types import Message
from tests.composer.scripted import Scripted
from tests.composer.stages.settling import Book, registry

SAID = {"general": "It is 4.", "sums": "It is 5.", "law": "It is 5."}
BEFORE = (Message("user", "I have two."), Message("assistant", "Good."))
STEPS = {
    "merge": "use: merge, options: {by: general}",
    "judge": "use: judge, options: {by: general}",
    "score": "use: score, options: {by: general}",
    "refine": "use: refine, options: {by: general}",
    "discuss": "use: discuss, options: {reroute: false}",
    "search": "use: search, options: {paths: 3, rounds: 2}",
}


@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("turns", [(), BEFORE], ids=["alone", "after others"])
def test_what_was_said_before_leaves_it_to_the_vote(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, turns: tuple[Message, ...]
) -> None:
    book = Book(
        SAID,
        **{
            role: lambda _: "WRONG, it is 4"
            for role in ("merge", "judge", "score", "check", "refine", "discuss", "search")
        },
    )
    pipeline = Scripted(tmp_path, monkeypatch).pipeline(registry(STEPS[name]), book)
    state = asyncio.run(pipeline.astate([Query("q", "And 3 more?", turns=turns)]))
    calls = calls_of(trace_of(state, 0))
    assert (len(calls) == len(SAID)) == bool(turns)
    if turns:
        assert state.answers[0].text == "5"
