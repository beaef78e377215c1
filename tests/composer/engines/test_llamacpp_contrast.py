"""Contrasted drafts through llama.cpp with the packaged model and two adapters of random numbers."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio
from llama_kit import random_adapter
from numpy.typing import NDArray

from composer.decoding.combine import combine, log_softmax
from composer.decoding.recipes import average, contrast, contrastive, experts
from composer.engines.llamacpp import LlamaCppEngine
from composer.engines.llamacpp_contrast import Source
from composer.errors import EngineError
from composer.types import Delta, Draft, Host, Message, Mix, Prompt, Request, Sampling, Stream

pytestmark = pytest.mark.asyncio(loop_scope="module")

SHORT = Sampling(max_tokens=12, logprobs=3)
EVIDENCE = "The Blue House in Tarn was built in 1873. Tell me of the Blue House in Tarn."
QUESTION = "Tell me of the Blue House in Tarn."
Recipe = tuple[tuple[float, ...], Mix]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LlamaCppEngine]:
    folder = tmp_path_factory.mktemp("adapters")
    adapters = tuple(random_adapter(folder / f"{name}.gguf", seed) for seed, name in enumerate("ab"))
    made = LlamaCppEngine()
    await made.open(Host("smol", "llamacpp", smollm2, adapters, context=256, slots=4))
    yield made
    await made.close()


def chat(text: str) -> Prompt:
    return (Message("user", text),)


def ask(recipe: Recipe, *sources: tuple[Prompt, str | None], sampling: Sampling = SHORT, name: str = "q") -> Request:
    weights, mix = recipe
    streams = [
        Stream("smol", prompt, adapter, weight) for (prompt, adapter), weight in zip(sources, weights, strict=True)
    ]
    return Request(name, tuple(streams), sampling, mix=mix)


def plain(prompt: Prompt, adapter: str | None = None, sampling: Sampling = SHORT, name: str = "p") -> Request:
    return Request(name, (Stream("smol", prompt, adapter),), sampling)


async def drafts(engine: LlamaCppEngine, requests: Sequence[Request]) -> dict[str, Draft]:
    return {name: piece async for name, piece in engine.generate(requests) if isinstance(piece, Draft)}


async def draft(engine: LlamaCppEngine, request: Request) -> Draft:
    [one] = (await drafts(engine, [request])).values()
    return one


def ids(draft: Draft) -> list[int | None]:
    assert draft.error is None and draft.logprobs is not None, draft.error
    return [token.id for token in draft.logprobs]


@pytest.mark.parametrize("recipe", [contrast(beta=0.0), contrast(beta=0.9, alpha=1.0), contrastive(alpha=1.0)])
@pytest.mark.parametrize("adapter", [None, "a"])
async def test_beta_0_and_alpha_1_are_greedy(engine: LlamaCppEngine, recipe: Recipe, adapter: str | None) -> None:
    alone = await draft(engine, plain(chat(EVIDENCE), adapter))

    found = await draft(engine, ask(recipe, (chat(EVIDENCE), adapter), (chat(QUESTION), "b")))

    assert found.text == alone.text and ids(found) == ids(alone)
    assert (found.stop, found.stop_detail) == (alone.stop, alone.stop_detail)
    assert found.usage.tokens_out == alone.usage.tokens_out


async def test_an_end_is_found_where_the_model_alone_ends(engine: LlamaCppEngine) -> None:
    longer, question = replace(SHORT, max_tokens=40), chat("Tarn was built in 1873. When was Tarn built?")
    alone = await draft(engine, plain(question, sampling=longer))

    found = await draft(engine, ask(contrast(beta=0.0), (question, None), (question, "a"), sampling=longer))

    assert alone.ok and found.ok and found.text == alone.text
    assert found.usage.tokens_out == alone.usage.tokens_out == len(ids(found)) + 1  # the end is a token too


@pytest.mark.parametrize("recipe", [contrast(0.5), average(2, "prob"), average(2, "logprob")])
async def test_equal_streams_equal_one(engine: LlamaCppEngine, recipe: Recipe) -> None:
    recipe = (recipe[0], replace(recipe[1], alpha=0.05))
    alone = await draft(engine, plain("The sea is"))

    found = await draft(engine, ask(recipe, ("The sea is", None), ("The sea is", None)))

    assert ids(found) == ids(alone)


@pytest.mark.parametrize(
    "sources",
    [
        [(chat(QUESTION), "a"), (chat(QUESTION), None)],
        [(chat(QUESTION), None), (chat(QUESTION), "a")],
        [(chat(QUESTION), "a"), (chat(QUESTION), "b")],
        [(chat(EVIDENCE), None), (chat(QUESTION), None)],
    ],
    ids=["adapter against base", "base against adapter", "adapter against adapter", "with against without evidence"],
)
async def test_each_pair_of_partners_changes_what_is_said_and_keeps_to_what_is_plausible(
    engine: LlamaCppEngine, sources: list[tuple[Prompt, str | None]]
) -> None:
    sampling = Sampling(max_tokens=20, logprobs=50)
    prompt, adapter = sources[0]
    alone = await draft(engine, plain(prompt, adapter, sampling))

    found = await draft(engine, ask(contrast(beta=2.0), *sources, sampling=sampling))

    assert ids(found) != ids(alone) and found.logprobs and alone.logprobs
    parted = next(i for i, pair in enumerate(zip(ids(found), ids(alone), strict=False)) if pair[0] != pair[1])
    then = alone.logprobs[parted]
    assert dict(then.top)[found.logprobs[parted].token] >= then.logprob + np.log(0.1) - 0.5  # last bits of an adapter
    assert all(sum(np.exp(logprob) for _, logprob in token.top) == pytest.approx(1) for token in found.logprobs)
    assert found.usage.tokens_out < found.usage.passes <= 2 * found.usage.tokens_out + 3
    assert found.usage.tokens_in > alone.usage.tokens_in


async def whole(engine: LlamaCppEngine, prompt: str, written: Sequence[int]) -> NDArray[np.float64]:
    """Every next token's log-probability, by id."""
    source = Source(engine._processes[0], Stream("smol", prompt), 0)
    await source.begin(plain(prompt), time.monotonic() + 60)
    source.ids += written
    told = await source.top(100_000)
    row = np.empty(len(told))
    row[[token.id for token in told]] = [token.logprob for token in told]
    return row


@pytest.mark.parametrize(
    ("recipe", "tokens"),
    [(contrast(0.5), 2), ((((0.5, 0.5)), Mix("prob", 0.01)), 1), ((((1.0, -0.5)), Mix("logprob", 0.0, 1, 0.7)), 1)],
)
async def test_a_step_says_what_the_whole_vocabulary_says(engine: LlamaCppEngine, recipe: Recipe, tokens: int) -> None:
    prompts = "The best thing about the sea is the", "Bread and"
    found = await draft(
        engine, ask(recipe, *((prompt, None) for prompt in prompts), sampling=Sampling(max_tokens=tokens, logprobs=40))
    )

    assert found.logprobs
    for place, told in enumerate(found.logprobs):
        before = [token.id for token in found.logprobs[:place] if token.id is not None]
        rows = [await whole(engine, prompt, before) for prompt in prompts]
        reference = log_softmax(combine(rows, *recipe))
        assert told.id == reference.argmax()
        assert np.sort([logprob for _, logprob in told.top]) == pytest.approx(
            np.sort(reference[reference > -np.inf])[-40:], abs=1e-3
        )


async def test_a_seed_decides_what_is_drawn(engine: LlamaCppEngine) -> None:
    warm = Sampling(max_tokens=8, temperature=1.2)
    for recipe in (contrast(), experts(1.0, top_p=0.5)):
        weights, mix = recipe
        sources = [("Once upon a time", None), ("Once upon a time there", None), ("A", None)][: len(weights)]
        requests = [
            ask((weights, mix), *sources, sampling=replace(warm, seed=seed), name=str(seed)) for seed in (3, 2**40)
        ]

        first, second = await drafts(engine, requests), await drafts(engine, requests)

        assert all(one.error is None for one in first.values()), first
        assert {name: one.text for name, one in first.items()} == {name: one.text for name, one in second.items()}
        assert len({one.text for one in first.values()}) == 2


async def test_whoever_reads_along_gets_whole_characters_that_join_to_the_text(engine: LlamaCppEngine) -> None:
    said = "Repeat after me: 😀 日本語 😀 日本語 😀 日本語 😀"
    asked = replace(ask(contrast(0.2), (said, None), ("😀", None), sampling=Sampling(max_tokens=24)), deltas=True)

    *pieces, last = [piece async for _, piece in engine.generate([asked])]

    assert isinstance(last, Draft) and last.error is None and len(pieces) > 1
    assert "😀" in last.text and "\ufffd" not in last.text[:-1]
    assert "".join(piece.text for piece in pieces if isinstance(piece, Delta)) == last.text


async def test_stop_texts_and_limits_end_the_draft(engine: LlamaCppEngine) -> None:
    sources = [("1, 2, 3, 4,", None), ("1, 2, 3,", None)]
    met = await draft(engine, ask(contrast(0.1), *sources, sampling=Sampling(max_tokens=20, stop=("7",))))
    cut = await draft(engine, ask(contrast(0.1), *sources, sampling=Sampling(max_tokens=5)))
    full = await draft(
        engine, ask(contrast(), ("word " * 20, None), ("word " * 248, None), sampling=Sampling(max_tokens=100))
    )

    assert met.ok and met.text.strip() == "5, 6," and met.stop_detail == "7"
    assert (cut.stop, cut.usage.tokens_out, cut.stop_detail) == ("length", 5, "")
    assert (full.stop, full.stop_detail) == ("length", "the context was full") and 1 < full.usage.tokens_out < 10


async def test_a_prompt_beyond_the_context_fails_whichever_streams_it_is(engine: LlamaCppEngine) -> None:
    found = await draft(engine, ask(contrast(), ("Hi", None), ("word " * 300, None)))

    assert found.error is not None and found.error.kind == "too_long" and "256" in found.error.message


@pytest.mark.parametrize(
    ("request_", "remedy"),
    [
        (ask(((1.0, -0.5)[:2], Mix("logit", 0.0)), ("Hi", None), ("Hi", "a")), "alpha above 0"),
        (ask(contrast(), ("Hi", None), ("Hi", "c")), "without the adapter 'c'"),
        (ask(contrast(), ("Hi", None), ("Hi", "a"), sampling=Sampling(schema="{}")), "leave out the schema"),
        (ask(contrast(), ("Hi", None), ("Hi", "a"), sampling=Sampling(repetition_penalty=1.1)), "repetition_penalty"),
        (ask(contrast(), ("Hi", None), ("Hi", "a"), sampling=Sampling(logprobs=1001)), "at most 1000"),
        (ask(average(5), *[("Hi", None)] * 5), "alpha above 0"),
        (ask((average(5)[0], Mix()), *[("Hi", None)] * 5), "raise `slots`"),
        (replace(ask(contrast(), ("Hi", None), ("Hi", "a"), sampling=Sampling()), target="x"), "one stream"),
    ],
)
async def test_what_cannot_be_done_is_refused_with_the_remedy(
    engine: LlamaCppEngine, request_: Request, remedy: str
) -> None:
    found = await draft(engine, request_)

    assert found.error is not None and found.error.kind == "unsupported"
    assert remedy in found.error.message and "smol" in found.error.message


async def test_contrasted_and_plain_requests_at_once_say_what_they_say_alone(engine: LlamaCppEngine) -> None:
    requests = [
        ask(contrast(1.0), ("In Tarn there is a blue house", None), ("There is a house", None), name="contrast 1"),
        ask(contrast(1.0), ("Once upon a time", None), ("The sea", None), name="contrast 2"),
        ask(contrast(1.0), ("A good soup needs", None), ("The", None), name="contrast 3"),
        *(plain(f"One fact about {thing}:", name=thing) for thing in ("rain", "bread")),
    ]
    alone = {request.id: await draft(engine, request) for request in requests}

    # As the pool asks: every request in a call of its own.
    together = await asyncio.gather(*(draft(engine, request) for request in requests))

    for request, one in zip(requests, together, strict=True):
        assert one.error is None and ids(one) == ids(alone[request.id]), request.id


async def test_closing_the_iterator_gives_the_slots_back(engine: LlamaCppEngine) -> None:
    long = Sampling(max_tokens=200, temperature=3.0)
    requests = [
        replace(ask(contrast(0.1, 1e-4), ("Hi", None), ("Ho", None), sampling=long, name=str(i)), deltas=True)
        for i in range(3)
    ]
    async with aclosing(engine.generate(requests)) as pieces:
        async for _ in pieces:
            break

    assert engine._processes[0].slots._free == {0, 1, 2, 3}
    assert (await draft(engine, plain("Hi"))).error is None


async def test_a_draft_whose_deadline_passes_is_left(engine: LlamaCppEngine) -> None:
    long = Sampling(max_tokens=200, temperature=3.0)
    late = ask(contrast(0.1, 1e-3), ("Tale:", None), ("A:", None), sampling=long)

    found = await draft(engine, replace(late, deadline=time.monotonic() + 0.4))

    assert found.error is not None and found.error.kind == "timeout"


async def test_the_death_of_a_host_fails_what_is_being_written(smollm2: Path) -> None:
    made = LlamaCppEngine()
    await made.open(Host("smol", "llamacpp", smollm2, context=256, slots=4))
    child = made._processes[0].child
    assert child is not None
    long = Sampling(max_tokens=200, temperature=3.0)
    requests = [ask(contrast(0.1, 1e-3), ("Hi", None), ("Ho", None), sampling=long, name=str(i)) for i in range(3)]
    asyncio.get_running_loop().call_later(0.5, os.kill, child.pid, signal.SIGKILL)

    found = await drafts(made, requests)
    await made.close()

    assert sorted(found) == ["0", "1", "2"]
    for one in found.values():
        assert one.error is not None and one.error.kind == "host_died" and "SIGKILL" in one.error.message


def pair(recipe: Recipe, prompt: Prompt, *names: str, sampling: Sampling = SHORT) -> Request:
    weights, mix = recipe
    streams = [Stream(name, prompt, weight=weight, base=name) for name, weight in zip(names, weights, strict=True)]
    return Request("q", tuple(streams), sampling, mix=mix)


async def test_bases_beside_each_other_are_combined_and_end_together(smollm2: Path) -> None:
    small = Host("small", "llamacpp", smollm2, context=256, slots=2)
    large = Host("large", "llamacpp", smollm2, context=256, slots=2, beside=(small,))
    made = LlamaCppEngine()
    measured = await made.open(large)
    try:
        own = [process.child for process in made._processes]
        assert len(own) == 2 and measured.memory > 100 * 2**20
        alone = await draft(made, Request("p", (Stream("large", "The sea is"),), SHORT))
        beside = await draft(made, Request("p", (Stream("small", "The sea is", base="small"),), SHORT))
        equal = await draft(made, pair(contrast(0.5), "The sea is", "large", "small"))
        greedy = await draft(made, pair(contrast(0.0), "The sea is", "large", "small"))
        stranger = await draft(made, pair(contrast(0.5), "The sea is", "large", "huge"))

        assert ids(equal) == ids(greedy) == ids(alone) == ids(beside) and beside.served_by == "small"
        assert stranger.error is not None and stranger.error.kind == "unsupported"
        assert "'huge'" in stranger.error.message and "'small'" in stranger.error.message

        assert own[1] is not None
        own[1].kill()
        dead = await draft(made, pair(contrast(0.5), "The sea was", "large", "small"))
        later = await draft(made, Request("p", (Stream("large", "The sea is"),), SHORT))
        for one in (dead, later):
            assert one.error is not None and one.error.kind == "host_died"
    finally:
        await made.close()
    assert all(child is not None and child.returncode is not None for child in own)


async def test_bases_of_other_vocabularies_are_refused_before_anything_starts(smollm2: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.gguf"
    other.write_bytes(smollm2.read_bytes().replace(b"<repo_name>", b"<REPO_NAME>", 1))
    made = LlamaCppEngine()

    with pytest.raises(EngineError) as caught:
        await made.open(Host("large", "llamacpp", smollm2, beside=(Host("small", "llamacpp", other),)))

    assert "token 3 is '<repo_name>' to large and '<REPO_NAME>' to small" in caught.value.what
    assert caught.value.remedy is not None and "one family" in caught.value.remedy
    assert made._processes == []
