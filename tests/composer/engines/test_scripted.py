"""The scripted engine says what it is told, and remembers what it was asked."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from pathlib import Path

import pytest

from composer.engines.scripted import ScriptedEngine
from composer.engines.testing import check_engine
from composer.errors import EngineError
from composer.types import AdapterFile, Caps, Delta, Draft, Failure, Host, Message, Mix, Request, Stream

HOST = Host("fake", "scripted")


def ask(name: str, text: str) -> Request:
    return Request(name, (Stream("fake", text),))


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "in pieces"])
@pytest.mark.parametrize("caps", [Caps(slots=2), Caps(slots=8, adapters="live", contrast=True)], ids=["fixed", "live"])
async def test_it_keeps_the_contract(caps: Caps, stream: bool) -> None:
    def make() -> ScriptedEngine:
        return ScriptedEngine(lambda request: "one  two three ", caps=caps, stream=stream, delay=0.001)

    await check_engine(make, HOST, ["a", (Message("user", "b"),), "c"])


async def test_it_remembers_batches_opens_and_closes() -> None:
    engine = ScriptedEngine(lambda request: "5")
    await engine.open(HOST)

    async for _ in engine.generate([ask("1", "a"), ask("2", "b")]):
        pass
    async for _ in engine.generate([ask("3", "c")]):
        pass
    await engine.close()

    assert engine.batches == [("a", "b"), ("c",)]
    assert (engine.opens, engine.closes) == ([HOST], 1)


async def test_a_script_may_answer_with_text_a_draft_or_a_failure() -> None:
    script = {"a": "two words", "b": Draft("", "cut", "length"), "c": Failure("timeout", "too slow")}
    engine = ScriptedEngine(lambda request: script[request.id])
    await engine.open(HOST)

    drafts = {name: piece async for name, piece in engine.generate([ask(name, "?") for name in script])}

    text, cut, failure = drafts["a"], drafts["b"], drafts["c"]
    assert isinstance(text, Draft) and isinstance(cut, Draft) and isinstance(failure, Draft)
    assert (text.text, text.ok, text.usage.tokens_out, text.served_by) == ("two words", True, 2, "fake")
    assert (cut.text, cut.stop) == ("cut", "length")
    assert (failure.stop, failure.error) == ("error", Failure("timeout", "too slow"))


async def test_words_come_before_their_draft_when_streamed() -> None:
    engine = ScriptedEngine(lambda request: "one two", stream=True)
    await engine.open(HOST)

    pieces = [piece async for _, piece in engine.generate([ask("1", "a")])]

    assert pieces[:2] == [Delta("one ", 0), Delta("two", 4)]
    assert isinstance(pieces[2], Draft)


async def test_live_adapters_are_attached_and_detached() -> None:
    engine = ScriptedEngine(lambda request: "", caps=Caps(adapters="live"))
    await engine.open(HOST)

    await engine.attach(AdapterFile("a", Path("a"), ""))
    await engine.attach(AdapterFile("b", Path("b"), ""))
    await engine.detach("a")

    assert engine.adapters == ["b"]


class Doubles(ScriptedEngine):
    """Gives every draft twice."""

    async def generate(self, requests):  # type: ignore[no-untyped-def]
        async for name, piece in super().generate(requests):
            yield name, piece
            yield name, piece


class Keyed(ScriptedEngine):
    """Fills in a key that is not its to know."""

    async def generate(self, requests):  # type: ignore[no-untyped-def]
        async for name, piece in super().generate(requests):
            yield name, Draft("key", piece.text, piece.stop, error=piece.error)


class Leaves(ScriptedEngine):
    """Leaves a task running behind."""

    async def generate(self, requests):  # type: ignore[no-untyped-def]
        self.left = asyncio.create_task(asyncio.sleep(0.2))
        async for name, piece in super().generate(requests):
            yield name, piece


class Undying(ScriptedEngine):
    """Answers after it was closed."""

    async def close(self) -> None: ...


class Credulous(ScriptedEngine):
    """Takes adapters that its caps call fixed."""

    async def attach(self, adapter: AdapterFile) -> None: ...


@pytest.mark.parametrize("broken", [Doubles, Keyed, Leaves, Undying, Credulous], ids=lambda kind: kind.__name__)
async def test_the_contract_test_sees_what_is_broken(broken: type[ScriptedEngine]) -> None:
    with pytest.raises(AssertionError):
        await check_engine(lambda: broken(lambda request: "x"), HOST, ["a", "b"])


async def test_the_contract_test_sees_a_failure_that_costs_the_batch() -> None:
    def script(request: Request) -> str | Failure:
        return Failure("bad_response", "all of us") if "contrast" in batch else "x"

    class Fragile(ScriptedEngine):
        async def generate(self, requests):  # type: ignore[no-untyped-def]
            batch[:] = [request.id for request in requests]
            async for pair in super().generate(requests):
                yield pair

    batch: list[str] = []

    with pytest.raises(AssertionError, match="batch of a bad request"):
        await check_engine(lambda: Fragile(script), HOST, ["a", "b"])


@pytest.mark.parametrize(
    ("told", "problem"),
    [
        (lambda request, n: "x" if request.mix is None else "y", "strong stream does alone"),
        (lambda request, n: "x" if request.sampling.temperature == 0 else str(n), "same seed writes two texts"),
        (lambda request, n: "x" if request.mix is None else "x " * 9, "tokens are too many"),
    ],
    ids=["another text", "no seed", "too long"],
)
async def test_the_contract_test_sees_a_contrast_that_is_none(
    told: Callable[[Request, int], str], problem: str
) -> None:
    count = itertools.count()
    caps = Caps(slots=2, contrast=True)

    with pytest.raises(AssertionError, match=problem):
        await check_engine(
            lambda: ScriptedEngine(lambda request: told(request, next(count)), caps=caps), HOST, ["a", "b"]
        )


async def test_contrast_is_refused_where_the_caps_do_not_have_it() -> None:
    engine = ScriptedEngine(lambda request: "x")
    await engine.open(HOST)
    pair = Request("1", (Stream("fake", "a"), Stream("fake", "a", weight=-0.5)), mix=Mix())

    [(_, draft)] = [pair async for pair in engine.generate([pair])]

    assert isinstance(draft, Draft) and draft.error is not None and draft.error.kind == "unsupported"


async def test_fixed_adapters_stay_as_they_are() -> None:
    engine = ScriptedEngine(lambda request: "x")
    await engine.open(HOST)

    with pytest.raises(EngineError, match="fixed"):
        await engine.attach(AdapterFile("a", Path("a"), ""))
