"""Recorded drafts are served as they were; what nobody recorded is said to be missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from composer.engines.replay import ReplayEngine
from composer.engines.testing import check_engine
from composer.errors import EngineError
from composer.types import AdapterFile, Draft, Host, Message, Request, Sampling, Stream, Usage

HOST = Host("old", "replay")
DRAFT = Draft(
    "key of then", "It is 4.", "stop", Usage(tokens_in=7, tokens_out=5, passes=5, seconds=2.5), "gpt", cached=True
)


async def served(engine: ReplayEngine, *requests: Request) -> dict[str, Draft]:
    await engine.open(HOST)
    return {name: piece async for name, piece in engine.generate(requests) if isinstance(piece, Draft)}


async def test_it_keeps_the_contract() -> None:
    recordings = {("old", text, 0): DRAFT for text in ("a", "b", "c")}

    await check_engine(lambda: ReplayEngine(recordings), HOST, ["a", (Message("user", "b"),), "c"])


async def test_a_draft_is_found_by_expert_prompt_and_sample() -> None:
    turns = (Message("system", "Be brief."), Message("user", "2 + 2?"))
    warm = Sampling(temperature=1.0)
    second = Draft("", "4", "length")
    engine = ReplayEngine({("math", "Be brief.\n2 + 2?", 0): DRAFT, ("math", "Be brief.\n2 + 2?", 1): second})

    drafts = await served(
        engine,
        Request("first", (Stream("math", turns),), warm),
        Request("second", (Stream("math", turns),), warm, sample=1),
        Request("third", (Stream("math", turns),), warm, sample=2),
        Request("other", (Stream("law", turns),), warm),
    )

    assert (drafts["first"].text, drafts["first"].usage, drafts["first"].served_by) == (DRAFT.text, DRAFT.usage, "gpt")
    assert (drafts["first"].key, drafts["first"].cached) == ("", False)
    assert (drafts["second"].text, drafts["second"].stop, drafts["second"].served_by) == ("4", "length", "old")
    for name in ("third", "other"):
        error = drafts[name].error
        assert error is not None and error.kind == "not_recorded"


async def test_recordings_may_be_a_function() -> None:
    engine = ReplayEngine(lambda expert, text, sample: DRAFT if text == "a" else None)

    drafts = await served(engine, Request("a", (Stream("x", "a"),)), Request("b", (Stream("x", "b"),)))

    assert drafts["a"].ok
    assert drafts["b"].error is not None


async def test_without_recordings_nothing_is_recorded() -> None:
    [draft] = (await served(ReplayEngine(), Request("a", (Stream("x", "a"),)))).values()

    assert draft.error is not None and draft.error.kind == "not_recorded"


async def test_recordings_take_no_adapters() -> None:
    engine = ReplayEngine()
    await engine.open(HOST)

    with pytest.raises(EngineError, match="old"):
        await engine.attach(AdapterFile("a", Path("a"), ""))
    with pytest.raises(EngineError):
        await engine.detach("a")
