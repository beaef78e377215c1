"""llama.cpp with a real model and two adapters of random numbers: who answers, in which batch, from which cache."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
import pytest
import pytest_asyncio
import xllamacpp
from llama_kit import random_adapter

from composer.engines.llamacpp import LlamaCppEngine
from composer.engines.llamacpp_host import parameters
from composer.engines.llamacpp_process import config_line
from composer.engines.testing import check_engine
from composer.errors import EngineError
from composer.registry.memory import when_loaded
from composer.types import Delta, Draft, Host, Measured, Message, Prompt, Request, Sampling, Stream

pytestmark = pytest.mark.asyncio(loop_scope="module")

THINGS = ["rain", "the moon", "bread", "Paris", "a cat", "seven", "red", "snow"]
RULES = " ".join(f"Rule {i}: keep answer {i} short." for i in range(4))
MORE_RULES = " ".join(f"Rule {i}: keep answer {i} short." for i in range(10))  # more than is evaluated at once
NEAR = 0.5  # nats; with an adapter, sums end differently in the last bits when the width of a batch changes
ENDLESS = Sampling(max_tokens=240, temperature=9.0)  # one word is as likely as the other, the end one of 49,152


@dataclass(frozen=True)
class Opened:
    engine: LlamaCppEngine
    host: Host
    measured: Measured


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def opened(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Opened]:
    folder = tmp_path_factory.mktemp("adapters")
    adapters = tuple(random_adapter(folder / f"{name}.gguf", seed) for seed, name in enumerate("ab"))
    host = Host("smol", "llamacpp", smollm2, adapters, context=256, slots=8)
    engine = LlamaCppEngine()
    measured = await engine.open(host)
    yield Opened(engine, host, measured)
    await engine.close()


def ask(name: str, prompt: Prompt, adapter: str | None = None, sampling: Sampling | None = None) -> Request:
    return Request(name, (Stream("smol", prompt, adapter),), sampling or Sampling(max_tokens=5, logprobs=2))


def chat(text: str) -> Prompt:
    return (Message("user", text),)


async def drafts(opened: Opened, requests: Sequence[Request]) -> dict[str, Draft]:
    return {name: piece async for name, piece in opened.engine.generate(requests) if isinstance(piece, Draft)}


async def draft(opened: Opened, request: Request) -> Draft:
    [one] = (await drafts(opened, [request])).values()
    return one


def distance(one: Draft, two: Draft) -> float:
    """How far apart the log-probabilities of the first token's alternatives are, at most, where both tell of them."""
    assert one.logprobs and two.logprobs
    known = dict(two.logprobs[0].top)
    return max(abs(logprob - known[token]) for token, logprob in one.logprobs[0].top if token in known)


def parts_unsurely(alone: Draft, together: Draft) -> bool:
    """Whether two greedy texts are equal up to a token where the first was not sure."""
    assert alone.logprobs is not None and together.logprobs is not None
    for before, after in zip(alone.logprobs, together.logprobs, strict=False):
        if before.token != after.token:
            return before.top[0][1] - before.top[1][1] < NEAR
    return True


@pytest.mark.parametrize(("wanted", "told"), [(None, "AUTO"), (True, "ENABLED"), (False, "DISABLED")])
async def test_flash_attention_is_as_asked_and_else_llamacpps_choice(wanted: bool | None, told: str) -> None:
    engine, host = LlamaCppEngine(flash_attention=wanted), Host("smol", "llamacpp", Path("smol.gguf"))

    found = parameters(json.loads(config_line(host, "key", engine.flash_attention)))

    assert found.flash_attn_type == getattr(xllamacpp.llama_flash_attn_type, f"LLAMA_FLASH_ATTN_TYPE_{told}")


async def test_the_estimate_of_memory_is_a_little_more_than_the_process_takes(opened: Opened, smollm2: Path) -> None:
    estimate = when_loaded(smollm2, opened.host.context, opened.host.slots)
    estimate += sum(adapter.path.stat().st_size for adapter in opened.host.adapters)

    assert 0.7 * estimate < opened.measured.memory <= estimate or not Path("/proc/self/status").exists()


async def test_opening_measures_seconds_bytes_and_context(opened: Opened) -> None:
    measured = opened.measured

    assert measured.seconds > 0
    assert measured.memory > 50 * 2**20 or not Path("/proc/self/status").exists()
    assert measured.context == 256
    assert opened.engine.caps.slots == 8


async def test_whoever_reads_along_gets_the_text_in_pieces_and_the_others_do_not(opened: Opened) -> None:
    asked = [ask(name, chat("Name a colour."), name, Sampling(max_tokens=12)) for name in "ab"]
    wanted = [replace(asked[0], deltas=True), asked[1]]
    pieces: list[tuple[str, Delta | Draft]] = [item async for item in opened.engine.generate(wanted)]

    told = [piece for name, piece in pieces if name == "a"]
    *deltas, whole = told
    assert isinstance(whole, Draft) and len(deltas) > 1
    at = 0
    for delta in deltas:
        assert isinstance(delta, Delta) and delta.at == at
        at += len(delta.text)
    assert "".join(delta.text for delta in deltas if isinstance(delta, Delta)) == whole.text
    assert [type(piece) for name, piece in pieces if name == "b"] == [Draft]


async def test_many_at_once_answer_as_one_at_a_time(opened: Opened) -> None:
    requests = [
        ask(f"{adapter} {thing}", f"One fact about {thing}:", adapter)
        for thing in THINGS
        for adapter in (None, "a", "b")
    ]
    alone = {request.id: await draft(opened, request) for request in requests}

    together = await drafts(opened, requests)

    assert sorted(together) == sorted(alone)
    for thing in THINGS:
        assert together[f"None {thing}"].logprobs == alone[f"None {thing}"].logprobs
    parted = [name for name in alone if not parts_unsurely(alone[name], together[name])]
    assert parted == []


async def test_drafts_land_adapter_by_adapter(opened: Opened) -> None:
    requests = [
        ask(f"{adapter} {i}", "Hi", adapter, Sampling(max_tokens=2)) for i in range(3) for adapter in ("b", None)
    ]

    landed = [name async for name, _ in opened.engine.generate(requests)]

    assert [name.split()[0] for name in landed] == ["b"] * 3 + ["None"] * 3


async def test_an_adapter_changes_its_own_requests_and_no_others(opened: Opened) -> None:
    # The same long prompt each time: whatever a slot keeps of it belongs to whoever asked last.
    prompt, probe = chat(f"{RULES} Name a fruit."), Sampling(max_tokens=6, logprobs=20)
    order = [None, "a", None, "b", "a", None]

    asked = [(adapter, await draft(opened, ask("q", prompt, adapter, probe))) for adapter in order]

    first = {adapter: next(one for other, one in asked if other == adapter) for adapter in (None, "a", "b")}
    assert all(one.logprobs == first[None].logprobs for adapter, one in asked if adapter is None)
    for adapter, one in asked:  # of what an adapter's slot has read, the last token is read again: other last bits
        apart = {other: distance(one, own) for other, own in first.items()}
        assert apart.pop(adapter) < NEAR < min(apart.values())
    assert [one.usage.cached_in > 70 for _, one in asked] == [False, False, True, False, True, True]


async def test_a_prefix_known_to_the_adapter_is_not_evaluated_again_and_changes_nothing(opened: Opened) -> None:
    for adapter, rules in ((None, MORE_RULES), ("a", RULES)):
        last, other = (ask("q", chat(f"{rules} Name a {what}."), adapter) for what in ("bird", "big river"))
        new = await draft(opened, ask("q", chat(f"Say {adapter}."), adapter))
        first = await draft(opened, last)
        await draft(opened, other)

        again = await draft(opened, last)

        assert new.usage.cached_in < first.usage.tokens_in / 2
        assert again.usage.cached_in > again.usage.tokens_in / 2
        assert again.logprobs == first.logprobs


async def test_no_prompt_is_kept_for_another_adapter_when_its_slot_is_taken(opened: Opened) -> None:
    engine = LlamaCppEngine()
    narrow = Opened(engine, replace(opened.host, slots=1), await engine.open(replace(opened.host, slots=1)))
    prompt = chat(f"{RULES} Name a tree.")

    await draft(narrow, ask("q", prompt))
    await draft(narrow, ask("q", "Something else: 1, 2, 3, 4, 5, 6, 7, 8, 9", "a"))
    again = await draft(narrow, ask("q", prompt, "a"))
    await engine.close()

    alone = await draft(opened, ask("q", prompt, "a"))
    assert again.logprobs is not None and alone.logprobs is not None
    assert again.logprobs[0].logprob == pytest.approx(alone.logprobs[0].logprob, abs=1e-3)


async def test_log_probabilities_come_as_asked(opened: Opened) -> None:
    for prompt in (chat("Hi"), "The sky is"):
        many = await draft(opened, ask("q", prompt, None, Sampling(max_tokens=2, logprobs=20)))
        alone = await draft(opened, ask("q", prompt, None, Sampling(max_tokens=2, logprobs=0)))
        none = await draft(opened, ask("q", prompt, None, Sampling(max_tokens=2)))

        assert many.logprobs is not None and alone.logprobs is not None
        assert [len(step.top) for step in many.logprobs] == [20, 20]
        assert many.logprobs[0].top[0] == (many.logprobs[0].token, many.logprobs[0].logprob)
        assert all(step.logprob <= 0 and step.id is not None for step in many.logprobs)
        assert [step.top for step in alone.logprobs] == [(), ()]
        assert [step.logprob for step in alone.logprobs] == pytest.approx(
            [step.logprob for step in many.logprobs], 1e-3
        )
        assert none.logprobs is None


async def test_a_prompt_beyond_the_context_fails_with_both_counts_and_alone(opened: Opened) -> None:
    found = await drafts(opened, [ask("long", "word " * 300), ask("short", "word")])

    error = found["long"].error
    assert error is not None and error.kind == "too_long"
    assert "301" in error.message and "256" in error.message
    assert found["short"].error is None


async def test_a_full_context_ends_the_text_and_says_so(opened: Opened) -> None:
    full = await draft(opened, ask("q", "word " * 240, None, replace(ENDLESS, max_tokens=100)))

    assert (full.stop, full.stop_detail, full.ok) == ("length", "the context was full", False)
    assert full.usage.tokens_in + full.usage.tokens_out in (256, 257)


@pytest.mark.parametrize("prompt", [chat("Give me a person."), "A person as JSON:"], ids=["chat", "text"])
async def test_a_schema_is_kept(opened: Opened, prompt: Prompt) -> None:
    schema = {
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 8}, "age": {"type": "integer", "maximum": 99}},
        "required": ["name", "age"],
        "additionalProperties": False,
    }

    person = await draft(opened, ask("q", prompt, None, Sampling(max_tokens=60, schema=json.dumps(schema))))

    assert sorted(json.loads(person.text)) == ["age", "name"]


async def test_a_schema_that_is_none_fails_alone(opened: Opened) -> None:
    bad = ask("bad", chat("Hi"), None, Sampling(max_tokens=4, schema='{"type": "nonsense"}'))

    found = await drafts(opened, [bad, ask("good", "Hi")])

    error = found["bad"].error
    assert error is not None and error.kind == "refused"
    assert found["good"].error is None


async def test_a_seed_decides_what_is_drawn(opened: Opened) -> None:
    warm = Sampling(max_tokens=12, temperature=1.5)
    seeds = [3, 4, 5, 2**32 - 1, 2**40]  # the last but one means "any seed" to llama.cpp
    requests = [ask(str(seed), "Once upon a time", None, replace(warm, seed=seed)) for seed in seeds]

    first, second = await drafts(opened, requests), await drafts(opened, requests)

    assert {name: one.text for name, one in first.items()} == {name: one.text for name, one in second.items()}
    assert len({one.text for one in first.values()}) > 1


async def test_stop_texts_end_the_draft(opened: Opened) -> None:
    one = await draft(opened, ask("q", "1, 2, 3, 4,", None, Sampling(max_tokens=20, stop=("7",))))

    assert one.ok
    assert one.text.strip() == "5, 6,"


@pytest.mark.parametrize(
    "request_",
    [
        ask("adapter", "Hi", "c"),
        ask("logprobs", "Hi", None, Sampling(logprobs=1001)),
    ],
    ids=lambda request: request.id,
)
async def test_what_it_cannot_do_it_does_not_try(opened: Opened, request_: Request) -> None:
    one = await draft(opened, request_)

    assert one.error is not None and one.error.kind == "unsupported"
    assert "smol" in one.error.message


async def test_closing_the_iterator_frees_the_slots(opened: Opened) -> None:
    requests = [ask("short", "Hi", None, Sampling(max_tokens=1))]
    requests += [ask(str(i), f"Tale {i}:", None, ENDLESS) for i in range(7)]

    async with aclosing(opened.engine.generate(requests)) as pieces:
        async for _ in pieces:
            break

    client = opened.engine._processes[0].client
    assert client is not None
    server = client._http
    async with asyncio.timeout(10):
        while any(slot["is_processing"] for slot in (await server.get("/slots")).json()):
            await asyncio.sleep(0.05)


async def test_the_server_answers_only_who_has_the_key(opened: Opened) -> None:
    client = opened.engine._processes[0].client
    assert client is not None
    address = str(client._http.base_url)
    async with httpx.AsyncClient(base_url=address) as stranger:
        for path in ("/v1/models", "/slots", "/props", "/lora-adapters"):
            assert (await stranger.get(path)).status_code == 401
        assert (await stranger.post("/v1/completions", json={"prompt": "Hi"})).status_code == 401


async def test_ctrl_c_at_the_terminal_does_not_reach_the_child(opened: Opened) -> None:
    child = opened.engine._processes[0].child
    assert child is not None
    assert os.getsid(child.pid) != os.getsid(0)


async def test_a_host_is_opened_once(opened: Opened) -> None:
    with pytest.raises(EngineError, match="open already"):
        await opened.engine.open(opened.host)


async def test_it_keeps_the_contract(opened: Opened) -> None:
    host = replace(opened.host, adapters=(), slots=2)

    await check_engine(LlamaCppEngine, host, [chat("Hi"), "The sky is", chat("Name a colour.")])


async def test_a_template_given_replaces_the_one_in_the_weights(opened: Opened) -> None:
    host = replace(opened.host, adapters=(), slots=1, template="{{ messages[0].content }} ->")
    engine = LlamaCppEngine()
    await engine.open(host)

    [(_, ours)] = [pair async for pair in engine.generate([ask("q", chat("one two"))])]
    [(_, text)] = [pair async for pair in engine.generate([ask("q", "one two ->")])]
    await engine.close()

    assert isinstance(ours, Draft) and isinstance(text, Draft)
    assert ours.usage.tokens_in == text.usage.tokens_in
    assert ours.logprobs == text.logprobs


async def test_a_host_without_a_chat_continues_text_only(opened: Opened) -> None:
    engine = LlamaCppEngine()
    await engine.open(replace(opened.host, adapters=(), slots=1, chat=False))

    [(_, turns)] = [pair async for pair in engine.generate([ask("q", chat("Hi"))])]
    [(_, text)] = [pair async for pair in engine.generate([ask("q", "Hi")])]
    await engine.close()

    assert isinstance(turns, Draft) and isinstance(text, Draft)
    assert turns.error is not None and turns.error.kind == "unsupported"
    assert text.error is None


def worth(draft: Draft) -> float:
    assert draft.error is None and draft.logprobs is not None, draft.error
    return sum(token.logprob for token in draft.logprobs)


@pytest.mark.parametrize("adapter", [None, "a"])
@pytest.mark.parametrize("prompt", [chat("Tell me of bread."), "Bread is made of"])
async def test_the_score_of_what_it_wrote_itself_is_what_it_said_then(
    opened: Opened, prompt: Prompt, adapter: str | None
) -> None:
    wrote = await draft(opened, ask("w", prompt, adapter, Sampling(max_tokens=12, logprobs=0)))

    scored = await draft(opened, Request("s", (Stream("smol", prompt, adapter),), target=wrote.text))
    worse = await draft(opened, Request("n", (Stream("smol", prompt, adapter),), target=wrote.text[::-1]))

    assert scored.stop == "stop" and scored.text == wrote.text and wrote.logprobs and scored.logprobs
    if [token.id for token in scored.logprobs] == [token.id for token in wrote.logprobs]:  # it may write odd tokens
        assert worth(scored) == pytest.approx(worth(wrote), abs=NEAR)
    assert worth(worse) < worth(scored)


async def test_a_text_is_scored_by_its_own_tokens_not_by_the_likeliest_that_spell_it(opened: Opened) -> None:
    text = "First I add 12 and 30, which gives 42. Naïve, 日本語 and 😀 too."
    client = opened.engine._processes[0].client
    assert client is not None
    told = await client.ask("/tokenize", {"content": text}, asyncio.get_running_loop().time() + 60)

    scored = await draft(opened, Request("s", (Stream("smol", chat("What is 12 + 30?")),), target=text))

    assert [token.id for token in scored.logprobs or ()] == told["tokens"]
    assert scored.usage.tokens_out == len(told["tokens"]) and scored.text == text


async def test_a_text_that_does_not_fit_has_no_score(opened: Opened) -> None:
    found = await draft(opened, Request("s", (Stream("smol", chat("Hi")),), target="word " * 400))

    assert found.error is not None and found.error.kind == "too_long"
