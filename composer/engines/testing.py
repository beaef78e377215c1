"""The promises every engine keeps, as one function for its own tests and for those of plugin authors."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import cast

from composer.decoding import recipes
from composer.engines.base import Engine
from composer.errors import EngineError
from composer.types import AdapterFile, Caps, Delta, Draft, Host, Mix, Prompt, Request, Sampling, Stream

_SHORT = Sampling(max_tokens=8)
_NEAR = 0.25  # nats: what rounding may move two scores where a batch is wider (bfloat16), so that the other is greedy's choice


async def check_engine(make: Callable[[], Engine], host: Host, prompts: Sequence[Prompt]) -> None:
    """Raise AssertionError, saying which promise, unless engines made by `make` keep them all.

    `host` is what they are opened with, each prompt (two at least, all different) is answered by the expert called
    `host.name`. Checked: one sound draft per request, in any order, deltas before it and equal to it together; an empty
    batch; several calls at once; what cannot be served fails alone, its batch does not; an iterator closed early leaves nothing running and
    an engine that still answers; `fixed` adapters are refused; a given text is scored
    as the caps say, or refused; several streams are decoded together as the caps say, or refused: beta 0, alpha 1 and
    equal streams write what one stream does, the same seed the same again, never more tokens than were asked for; caps are
    constant but for the slots; nothing is answered
    before `open` or after `close`, and `close` may be called at any time, twice.
    """
    assert len(prompts) >= 2, "the check needs two prompts"
    requests = [Request(f"check-{i}", (Stream(host.name, prompt),), _SHORT) for i, prompt in enumerate(prompts)]
    tasks = asyncio.all_tasks()
    engine = make()
    caps = engine.caps
    await _answers_nothing(engine, requests, "before open")
    await engine.close()  # of what was never opened
    engine = make()
    try:
        opened = await engine.open(host)
        running = asyncio.all_tasks()  # an open engine may watch its host
        assert math.isfinite(opened.seconds) and opened.seconds >= 0, f"opening took {opened.seconds} seconds"
        assert opened.memory >= 0, f"it holds {opened.memory} bytes"
        _caps_are_sound(engine.caps, caps)
        await _answers_all(engine, requests)
        await asyncio.gather(*(_answers_all(engine, [request]) for request in requests))
        await _fails_alone(engine, requests)
        await _stops_when_closed(engine, requests, running)
        await _refuses_adapters(engine)
        await _scores(engine, requests[0])
        if engine.caps.contrast:
            await _contrasts(engine, requests)
        assert await _drafts(engine, []) == {}, "an empty batch gives nothing"
        _caps_are_sound(engine.caps, caps)
    finally:
        await engine.close()
    await engine.close()
    await _answers_nothing(engine, requests, "after close")
    left = await _left(tasks)
    assert not left, f"tasks are left after close: {left}"


def _caps_are_sound(now: Caps, before: Caps) -> None:
    assert now.slots >= 1, f"it has {now.slots} slots"
    assert replace(now, slots=1) == replace(before, slots=1), "caps are constant but for the slots"
    assert now.max_logprobs == 0 or now.level != "text", "an engine of texts gives no log-probabilities"


async def _answers_all(engine: Engine, requests: Sequence[Request]) -> None:
    for batch in (requests, list(reversed(requests)), requests[:1]):
        for name, draft in (await _drafts(engine, batch)).items():
            assert draft.error is None, f"{name} failed: {draft.error}"


async def _fails_alone(engine: Engine, requests: Sequence[Request]) -> None:
    late = replace(requests[0], id="late", deadline=time.monotonic() - 1)
    bad = [late]
    stream = requests[0].streams[0]
    if not engine.caps.contrast:
        bad.append(Request("contrast", (stream, replace(stream, weight=-0.5)), _SHORT, mix=Mix()))
    drafts = await _drafts(engine, [bad[0], *requests, *bad[1:]])
    for request in bad:
        assert drafts[request.id].error is not None, f"the request {request.id!r} cannot be served, and did not fail"
    late_error = drafts["late"].error
    assert late_error is not None and late_error.kind == "timeout", f"past its deadline, it fails with {late_error}"
    for request in requests:
        assert drafts[request.id].error is None, f"the batch of a bad request fails too: {drafts[request.id].error}"


async def _stops_when_closed(engine: Engine, requests: Sequence[Request], tasks: set[asyncio.Task[object]]) -> None:
    long = [replace(request, sampling=replace(_SHORT, max_tokens=256)) for request in requests]
    async with aclosing(_pieces(engine, long)) as pieces:
        async for _ in pieces:
            break
    left = await _left(tasks)
    assert not left, f"tasks are left after the iterator was closed: {left}"
    again = await _drafts(engine, requests[:1])
    assert all(draft.error is None for draft in again.values()), "it does not answer after an iterator was closed"


async def _left(tasks: set[asyncio.Task[object]]) -> set[asyncio.Task[object]]:
    """What still runs. A generator that a library drops half read is closed by the loop, in a task of its own and whenever
    the last who holds it lets go: that one has a second to be over, all others have had their time."""
    await asyncio.sleep(0)
    left = asyncio.all_tasks() - tasks
    closing = {task for task in left if type(task.get_coro()).__name__ == "async_generator_athrow"}
    if closing:
        await asyncio.wait(closing, timeout=1.0)
    return {task for task in left if task not in closing or not task.done()}


async def _refuses_adapters(engine: Engine) -> None:
    if engine.caps.adapters != "fixed":
        return
    none = AdapterFile("none", Path("none"), "0" * 64)
    calls: list[Callable[[], Awaitable[None]]] = [lambda: engine.attach(none), lambda: engine.detach("none")]
    for call in calls:
        try:
            await call()
        except EngineError:
            continue
        raise AssertionError("its adapters are fixed, and it changes them")


async def _scores(engine: Engine, request: Request) -> None:
    asked = Request("score", request.streams, target="It is so, and not otherwise.")
    draft = (await _drafts(engine, [asked]))["score"]
    if not engine.caps.scores:
        assert draft.error is not None and draft.error.kind == "unsupported", f"it scores nothing, and says {draft}"
        return
    assert draft.error is None and draft.stop == "stop", f"a given text has no score: {draft.error}"
    assert draft.text == asked.target, f"the text that was to be scored is {draft.text!r}"
    told = [token.logprob for token in draft.logprobs or ()]
    assert told and all(-math.inf < logprob <= 1e-3 for logprob in told), f"its tokens are scored {told}"


async def _contrasts(engine: Engine, requests: Sequence[Request]) -> None:
    strong, *others = (request.streams[0] for request in requests)
    alike = [one for one in others if isinstance(one.prompt, str) == isinstance(strong.prompt, str)]
    weak = alike[0] if alike else strong  # some engines take either text or messages, and no mixture
    told = replace(_SHORT, logprobs=2) if engine.caps.max_logprobs >= 2 else _SHORT

    def asked(name: str, recipe: recipes.Recipe, other: Stream, sampling: Sampling = told) -> Request:
        weights, mix = recipe
        both = zip((strong, other), weights, strict=True)
        return Request(name, tuple(replace(one, weight=weight) for one, weight in both), sampling, mix=mix)

    warm = replace(_SHORT, temperature=1.0, seed=7)
    greedy = Request("plain", (strong,), told)
    as_greedy = [
        asked("beta 0", recipes.contrast(beta=0.0), weak),
        asked("alpha 1", recipes.contrast(beta=0.5, alpha=1.0), weak),
        asked("equal streams", recipes.contrast(beta=0.5), strong),
    ]
    drawn = [asked(name, recipes.contrast(), weak, warm) for name in ("drawn", "drawn again")]
    as_greedy[0] = replace(as_greedy[0], deltas=True)
    found = await _drafts(engine, [greedy, *as_greedy, *drawn])
    for name, draft in found.items():
        assert draft.error is None, f"{name} fails beside streams that are decoded together: {draft.error}"
        assert draft.usage.tokens_out <= _SHORT.max_tokens, f"{name}: {draft.usage.tokens_out} tokens are too many"
    for request in as_greedy:
        parted = _parted(found["plain"], found[request.id])
        assert parted is None, f"{request.id} does not write what its strong stream does alone: {parted}"
    assert found["drawn"].text == found["drawn again"].text, "the same seed writes two texts of a contrast"
    one = found["beta 0"].usage
    assert one.tokens_in > found["plain"].usage.tokens_in, "a contrast counts the prompts of all its streams"
    assert one.passes >= one.tokens_out, f"{one.tokens_out} tokens in {one.passes} passes"


def _parted(plain: Draft, other: Draft) -> str | None:
    """Where the other text leaves that of one stream; None where it does not. Equal is equal: but where the engine tells
    log-probabilities, and there by how much its two best tokens were apart, a step that rounding can decide may go
    either way, and the texts go their own ways after it."""
    if other.text == plain.text:
        return None
    for place, (one, two) in enumerate(zip(plain.logprobs or (), other.logprobs or (), strict=False)):
        if one.token != two.token:
            unsure = len(one.top) > 1 and one.top[0][1] - one.top[1][1] < _NEAR
            return None if unsure else f"token {place} is {two.token!r}, not {one.token!r}"
    return f"{other.text!r}, not {plain.text!r}"


async def _answers_nothing(engine: Engine, requests: Sequence[Request], when: str) -> None:
    try:
        drafts = await _drafts(engine, requests)
    except EngineError:
        return
    for name, draft in drafts.items():
        assert draft.error is not None, f"{name} is answered {when}"


async def _drafts(engine: Engine, requests: Sequence[Request]) -> dict[str, Draft]:
    """Every draft by request id, each checked for itself."""
    drafts: dict[str, Draft] = {}
    deltas: dict[str, str] = {}
    async for name, piece in _pieces(engine, requests):
        assert name not in drafts, f"{name}: a piece comes after its draft"
        if isinstance(piece, Delta):
            deltas[name] = deltas.get(name, "") + piece.text
        else:
            drafts[name] = piece
            _draft_is_sound(name, piece, deltas.get(name))
    wanted = sorted(request.id for request in requests)
    assert sorted(drafts) == wanted, f"drafts for {sorted(drafts)}, asked for {wanted}"
    return drafts


def _draft_is_sound(name: str, draft: Draft, deltas: str | None) -> None:
    assert draft.key == "", f"{name}: the key is the pool's to fill in, it is {draft.key!r}"
    assert not draft.cached, f"{name}: what an engine gives is not cached"
    assert (draft.error is not None) == (draft.stop == "error"), f"{name}: stop {draft.stop!r}, error {draft.error}"
    assert draft.error is None or (draft.error.kind and draft.error.message), f"{name}: a failure says what and why"
    usage = draft.usage
    counts = (usage.tokens_in, usage.tokens_out, usage.cached_in, usage.passes, usage.seconds)
    assert all(count >= 0 for count in counts), f"{name}: {usage}"
    assert usage.cached_in <= usage.tokens_in, f"{name}: more cached than there was"
    if draft.error is None and deltas is not None:
        assert deltas == draft.text, f"{name}: the deltas together are not the draft's text"


def _pieces(engine: Engine, requests: Sequence[Request]) -> AsyncGenerator[tuple[str, Delta | Draft], None]:
    return cast("AsyncGenerator[tuple[str, Delta | Draft], None]", engine.generate(requests))
