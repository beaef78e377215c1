"""vLLM in process decodes several streams together: what it says is what the definition says, whatever is beside it."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace

import pytest
import pytest_asyncio
from vllm_kit import Env, ask, chat, drafts

from composer.decoding.recipes import contrast, experts
from composer.engines.vllm import VllmEngine
from composer.types import Delta, Draft, Mix, Prompt, Request, Sampling, Stream
from evals.bench.contrast_equality import kept, measure, report

pytestmark = [pytest.mark.vllm, pytest.mark.asyncio(loop_scope="module")]

STORY = "Once there was a clock that nobody had seen, and"
SUM = chat("What is 12 + 30?")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(vllm_env: Env) -> AsyncIterator[VllmEngine]:
    """In float32: the same tokens whatever is in the batch, but for ties."""
    found = VllmEngine(python=vllm_env.python, dtype="float32", in_process=True)
    await found.open(vllm_env.host("smol", ["arithmetic", "units"]))
    yield found
    await found.close()


def pair(
    name: str,
    strong: str | None,
    weak: str | None,
    prompt: Prompt = STORY,
    sampling: Sampling | None = None,
    beta: float = 0.5,
) -> Request:
    weights, mix = contrast(beta)
    both = (Stream("smol", prompt, who, weight) for who, weight in zip((strong, weak), weights, strict=True))
    return Request(name, tuple(both), sampling or Sampling(max_tokens=24), mix=mix)


async def one(engine: VllmEngine, request: Request) -> Draft:
    draft = (await drafts(engine, [request]))[request.id]
    assert draft.error is None, draft.error
    return draft


async def test_it_says_what_two_caches_say_token_for_token() -> None:
    """A part of `make contrast-equality`, which takes minutes."""
    [(_, found)] = await asyncio.to_thread(lambda: list(measure(["vllm"], 4, 24, lambda _: None)))

    assert found.greedy.of > 70, "most of the texts go on"
    assert kept("vllm", found), report("vllm", found)


async def test_beta_0_is_the_strong_stream_alone_and_others_are_not(engine: VllmEngine) -> None:
    plain = await one(engine, ask("plain", STORY, "units", Sampling(max_tokens=24)))
    zero = await one(engine, pair("zero", "units", None, beta=0.0))
    half = await one(engine, pair("half", "units", None))

    assert zero.text == plain.text != half.text
    assert zero.usage.passes == 2 * zero.usage.tokens_out and zero.usage.tokens_in == 2 * plain.usage.tokens_in
    assert zero.stop_detail == half.stop_detail == "", "nothing was begun again"


async def test_requests_of_one_and_of_several_streams_share_a_batch_and_change_nothing(engine: VllmEngine) -> None:
    weights, mix = experts(1.0)
    three = (
        Stream("smol", STORY, who, weight) for who, weight in zip((None, "units", "arithmetic"), weights, strict=True)
    )
    asked = [
        pair("adapter and base", "arithmetic", None, SUM),
        ask("plain", STORY, None, Sampling(max_tokens=24)),
        pair("base and adapter", None, "units"),
        ask("plain adapter", SUM, "arithmetic", Sampling(max_tokens=24)),
        pair("two adapters", "units", "arithmetic"),
        Request("three", tuple(three), Sampling(max_tokens=24), mix=mix),
        ask("plain again", STORY, "units", Sampling(max_tokens=24)),
    ]

    alone = {request.id: await one(engine, request) for request in asked}
    together = await drafts(engine, [*asked, *(replace(request, id=f"{request.id} 2") for request in asked)])

    for request in asked:
        for name in (request.id, f"{request.id} 2"):
            assert together[name].text == alone[request.id].text, name
            assert together[name].usage.passes == len(request.streams) * together[name].usage.tokens_out, name
    assert (
        len({alone[name].text for name in ("plain", "base and adapter", "two adapters", "three", "plain again")}) == 5
    )


async def test_evidence_against_none(engine: VllmEngine) -> None:
    told = f"The clock was made of blue glass.\n\n{STORY}"
    weights, mix = contrast(1.0)
    both = (Stream("smol", prompt, None, weight) for prompt, weight in zip((told, STORY), weights, strict=True))
    draft = await one(engine, Request("q", tuple(both), Sampling(max_tokens=24), mix=mix))

    assert draft.text != (await one(engine, ask("told", told, None, Sampling(max_tokens=24)))).text
    assert draft.stop_detail == ""


async def test_a_seed_says_the_same_again_and_another_something_else(engine: VllmEngine) -> None:
    drawn = Sampling(max_tokens=24, temperature=1.0, top_p=0.95, min_p=0.01, top_k=50)
    asked = [
        replace(pair(f"{seed} {i}", "units", None, sampling=replace(drawn, seed=seed)), sample=i)
        for seed in (1, 2)
        for i in range(2)
    ]
    first, again = await drafts(engine, asked), await drafts(engine, asked[::-1])

    assert {name: draft.text for name, draft in first.items()} == {name: draft.text for name, draft in again.items()}
    assert first["1 0"].text == first["1 1"].text != first["2 0"].text


async def test_whoever_reads_along_reads_what_the_draft_says(engine: VllmEngine) -> None:
    whole = await one(engine, pair("whole", "units", None))
    pieces: list[Delta] = []
    async with aclosing(engine.generate([replace(pair("q", "units", None), deltas=True)])) as found:  # type: ignore[type-var]
        async for _, piece in found:
            if isinstance(piece, Delta):
                pieces.append(piece)
            else:
                draft = piece

    assert len(pieces) > 10 and "".join(piece.text for piece in pieces) == draft.text == whole.text
    assert [piece.at for piece in pieces] == [len("".join(p.text for p in pieces[:i])) for i in range(len(pieces))]


async def test_a_stop_text_ends_all_streams(engine: VllmEngine) -> None:
    whole = await one(engine, pair("whole", "units", None))
    stop = whole.text[20:26]
    draft = await one(engine, pair("q", "units", None, sampling=Sampling(max_tokens=24, stop=(stop,))))

    assert (draft.stop, draft.stop_detail) == ("stop", stop) and draft.text == whole.text[: whole.text.index(stop)]
    assert engine._admin is not None and (await engine._admin.state())["running"] == 0  # type: ignore[attr-defined]


async def test_a_schema_holds_for_what_is_combined(engine: VllmEngine) -> None:
    schema = '{"type": "object", "properties": {"sum": {"type": "integer"}}, "required": ["sum"], "additionalProperties": false}'
    formed = Sampling(max_tokens=40, schema=schema)
    asked = [pair(f"q{i}", "arithmetic", "units", SUM, formed) for i in range(3)]

    for draft in (await drafts(engine, asked)).values():
        assert draft.error is None and draft.stop == "stop", draft
        assert list(json.loads(draft.text)) == ["sum"]
        assert draft.stop_detail == "", "the grammar of one stream is there as soon as that of the other"


async def test_log_probabilities_are_those_of_what_is_drawn_from(engine: VllmEngine) -> None:
    draft = await one(engine, pair("q", "units", None, sampling=Sampling(max_tokens=8, logprobs=20)))

    assert draft.logprobs is not None and len(draft.logprobs) == 8
    for token in draft.logprobs:
        assert token.logprob <= 0 and token.top[0] == (token.token, token.logprob), "greedy takes the best"
        assert sum(math.exp(value) for _, value in token.top) <= 1 + 1e-4
    assert any(len(token.top) < 20 for token in draft.logprobs), "what is not plausible is no alternative"
    assert "".join(token.token for token in draft.logprobs) == draft.text


async def test_what_would_part_the_streams_is_refused_and_alone(engine: VllmEngine) -> None:
    mixed = (Stream("smol", STORY), Stream("smol", SUM, weight=-0.5))
    bad = [
        pair("penalty", "units", None, sampling=Sampling(max_tokens=4, repetition_penalty=1.1)),
        pair("nobody", "units", "dates"),
        Request("mixed", mixed, Sampling(max_tokens=4), mix=Mix()),
        pair("many", "units", None, sampling=Sampling(max_tokens=4, logprobs=1000)),
    ]
    found = await drafts(engine, [*bad, pair("good", "units", None)])

    assert found["good"].error is None
    for request in bad:
        error = found[request.id].error
        assert error is not None and error.kind == "unsupported", request.id


# Where vLLM cannot keep them together


async def test_prompts_longer_than_a_step_are_read_first_and_begun_again(engine: VllmEngine, vllm_env: Env) -> None:
    long = " ".join(f"Rule {i}: keep answer {i} short and true." for i in range(28))
    told, bare = f"{long}\n\n{STORY}", f"{long[:900]}\n\n{STORY}"
    weights, mix = contrast(0.5)
    streams = (Stream("smol", told, "units", weights[0]), Stream("smol", bare, None, weights[1]))
    asked = [
        Request("long", streams, Sampling(max_tokens=24), mix=mix),
        Request("turned", streams[::-1], Sampling(max_tokens=24), mix=mix),
        ask("plain", told, "units", Sampling(max_tokens=24)),
        pair("short", "units", None),
    ]
    narrow = VllmEngine(
        python=vllm_env.python, dtype="float32", in_process=True, arguments="--max-num-batched-tokens 288"
    )
    calm = await drafts(engine, asked)
    await narrow.open(vllm_env.host("smol", ["units"]))
    try:
        found = await drafts(narrow, asked)
        again = await drafts(narrow, asked)
    finally:
        await narrow.close()

    assert calm["long"].usage.tokens_in > 2 * 288 and calm["long"].stop_detail == ""
    for name, draft in found.items():
        assert draft.error is None and draft.text == calm[name].text == again[name].text, (name, draft)
    assert found["long"].stop_detail.startswith("restarts: 1, the last because stream"), found["long"].stop_detail
    assert found["long"].usage.passes > calm["long"].usage.passes, "what was in vain was computed as well"
    assert found["short"].stop_detail == "" == again["long"].stop_detail, "what has been read is cached"


async def test_a_stream_that_is_put_out_of_the_cache_begins_again_and_one_too_large_fails(
    engine: VllmEngine, vllm_env: Env
) -> None:
    words = " ".join(f"Rule {i}: keep answer {i} true." for i in range(9))  # nearly a block of the cache
    text = f"{words}\n\n{STORY}"
    endless = '{"type": "array", "items": {"type": "integer"}, "minItems": 60}'
    sampling = Sampling(max_tokens=64, schema=endless)
    asked = [ask("plain", text, None, sampling), pair("pair", "units", None, text, sampling)]
    large = pair("large", "units", None, f"{words}\n{words}\n{STORY}\n\n{STORY}", sampling)
    tiny = VllmEngine(python=vllm_env.python, dtype="float32", in_process=True, cache=5 * 128 * 46080)
    calm = await drafts(engine, asked)
    await tiny.open(vllm_env.host("smol", ["units"]))
    try:
        found = await drafts(tiny, asked)
        failed = (await drafts(tiny, [large]))["large"]
        after = await one(tiny, pair("after", "units", None))
    finally:
        await tiny.close()

    assert 96 < calm["plain"].usage.tokens_in < 128, "so that every row needs a second block"
    for name, draft in found.items():
        assert draft.error is None and draft.text == calm[name].text, (name, draft)
    assert found["pair"].stop_detail.startswith("restarts: "), found["pair"]
    assert failed.error is not None and failed.error.kind == "bad_response"
    assert "2 streams lost step" in failed.error.message and "begun again 3 times" in failed.error.message
    assert after.stop_detail == ""


async def test_a_server_says_that_it_cannot(vllm_env: Env) -> None:
    engine = vllm_env.engine()
    assert not engine.caps.contrast and vllm_env.engine(in_process=True).caps.contrast
