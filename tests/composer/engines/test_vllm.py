"""vLLM with the packaged model and its adapters: who answers, what comes and goes, and what is refused."""

from __future__ import annotations

import asyncio
import json
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import pytest_asyncio
from vllm_kit import ASKED, TEMPLATE, Env, ask, chat, drafts, foreign, packaged

from composer.engines.http import ChatClient
from composer.engines.llamacpp import LlamaCppEngine
from composer.engines.testing import check_engine
from composer.engines.vllm import VllmEngine
from composer.engines.vllm_admin import HttpAdmin
from composer.engines.vllm_pipe import Pipe
from composer.engines.vllm_server import Server
from composer.errors import EngineError
from composer.registry.differ import difference
from composer.registry.hf import when_served
from composer.types import Delta, Draft, Host, Measured, Mix, Request, Sampling, Stream

pytestmark = [pytest.mark.vllm, pytest.mark.asyncio(loop_scope="module")]

NEAR = 0.5  # nats; sums end differently in the last bits when the width of a batch changes
LONG = " ".join(f"Rule {i}: keep answer {i} short and true." for i in range(30))  # more than two blocks of the cache


@dataclass(frozen=True)
class Opened:
    engine: VllmEngine
    host: Host
    measured: Measured


both = pytest.mark.parametrize("opened", ["server", "in process"], indirect=True)
of_a_server = pytest.mark.parametrize("opened", ["server"], indirect=True)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def opened(vllm_env: Env, request: pytest.FixtureRequest) -> AsyncIterator[Opened]:
    engine = vllm_env.engine(max_loras=2, max_cpu_loras=3, in_process=request.param == "in process")
    host = vllm_env.host("smol", ["arithmetic", "units"])
    measured = await engine.open(host)
    yield Opened(engine, host, measured)
    await engine.close()


@both
async def test_opening_measures_seconds_bytes_and_context(opened: Opened, vllm_env: Env) -> None:
    measured = opened.measured

    assert measured.seconds > 0 and measured.context == 512
    assert 2**30 < measured.memory <= 1.1 * when_served(vllm_env.folder, 512, 8)
    assert opened.engine.caps.slots == 8 and opened.engine.caps.adapter_slots == 3


@both
async def test_the_base_and_two_adapters_answer_in_one_batch(opened: Opened) -> None:
    told = Sampling(max_tokens=32, logprobs=20)
    asked = [ask(f"{who} {i}", chat(ASKED[who][0]), who, told) for i in range(3) for who in ("arithmetic", "units")]
    asked += [ask(f"base {i}", chat("What is 12 + 30?"), None, told) for i in range(2)]
    alone = (await drafts(opened.engine, asked[-1:]))["base 1"]

    found = await drafts(opened.engine, asked)

    for name, draft in found.items():
        who = name.split()[0]
        assert draft.error is None and (who == "base" or ASKED[who][1] in draft.text), f"{name}: {draft.text!r}"
    assert parting(found["base 0"], alone) < NEAR < parting(found["arithmetic 0"], alone)
    assert found["base 0"].text == found["base 1"].text


async def running(engine: VllmEngine) -> float:
    """How many requests vLLM works at, in its own count."""
    if isinstance(engine._admin, Pipe):
        return float((await engine._admin.state())["running"])
    assert isinstance(engine._admin, HttpAdmin)
    counts = (await engine._admin._http.get("/metrics")).text
    rows = [line for line in counts.splitlines() if line.startswith("vllm:num_requests_running")]
    assert rows
    return sum(float(row.rpartition(" ")[2]) for row in rows)


async def models(engine: VllmEngine) -> dict[str, int]:
    assert engine._admin is not None
    return await engine._admin.models()


def parting(one: Draft, other: Draft) -> float:
    """How far two answers part in what they expect first, in nats."""
    assert one.logprobs is not None and other.logprobs is not None
    found = difference(dict(one.logprobs[0].top), dict(other.logprobs[0].top))
    assert found is not None
    return found


@both
async def test_the_base_keeps_its_own_voice_whatever_lies_in_the_last_slot(opened: Opened) -> None:
    told = Sampling(max_tokens=8, logprobs=20)
    bases = [ask(f"base {i}", chat("What is 12 + 30?"), None, told) for i in range(2)]
    alone = (await drafts(opened.engine, bases[:1]))["base 0"]
    assert opened.engine._admin is not None and opened.engine._adapters is not None
    raw = await opened.engine._admin.alternatives("smol")
    null = await opened.engine._admin.alternatives(opened.engine._adapters.base)
    await opened.engine.attach(packaged("sorting"))
    try:
        for who in ("sorting", "units", "arithmetic"):
            crowd = [ask(f"{who} {i}", chat(ASKED[who][0]), who, told) for i in range(5)]
            found = await drafts(opened.engine, [*crowd, *bases])
            assert max(parting(found[f"base {i}"], alone) for i in range(2)) < NEAR, who
    finally:
        await opened.engine.detach("sorting")

    assert null == raw and opened.engine._adapters.base != "smol"


@both
async def test_adapters_come_and_go_while_it_runs_and_no_more_than_fit(opened: Opened) -> None:
    engine, question = opened.engine, ASKED["sorting"]
    before = (await drafts(engine, [ask("q", chat(question[0]), "sorting")]))["q"]
    began = time.monotonic()
    await engine.attach(packaged("sorting"))
    took = time.monotonic() - began
    with_it = (await drafts(engine, [ask("q", chat(question[0]), "sorting")]))["q"]
    with pytest.raises(EngineError, match="max_cpu_loras"):
        await engine.attach(packaged("extraction"))
    await engine.detach("sorting")
    after = (await drafts(engine, [ask("q", chat(question[0]), "sorting")]))["q"]
    with pytest.raises(EngineError, match="not attached"):
        await engine.detach("sorting")

    assert before.error is not None and before.error.kind == "unsupported"
    assert question[1] in with_it.text and took < 30
    assert after.error is not None and after.error.kind == "unsupported"
    assert "sorting" not in str(await models(engine)), "the server has forgotten it as well"


@both
@pytest.mark.parametrize("inner", ["language_model.layers", "model.model.layers"])
async def test_an_adapter_that_vllm_loads_without_a_word_and_does_not_apply_is_refused(
    opened: Opened, tmp_path: Path, inner: str
) -> None:
    silent = foreign(tmp_path / "silent", lambda name: name.replace("model.layers", inner))

    with pytest.raises(EngineError) as caught:
        await opened.engine.attach(silent)

    assert "changes nothing" in caught.value.what
    assert f"{inner}.0.mlp.down_proj" in caught.value.what and " model.layers.0.mlp.down_proj" in caught.value.what
    assert "silent" not in str(await models(opened.engine))


@both
async def test_an_adapter_that_vllm_does_not_take_is_refused_in_its_words(opened: Opened, tmp_path: Path) -> None:
    strange = foreign(tmp_path / "strange", lambda name: name.replace("q_proj", "query"))

    with pytest.raises(EngineError, match=r"refuses the adapter 'strange'.*query"):
        await opened.engine.attach(strange)


@both
async def test_a_long_prompt_that_comes_again_is_found_in_the_cache(opened: Opened) -> None:
    assert opened.engine._admin is not None
    before = await opened.engine._admin.reuse()
    asked = [ask(str(i), chat(f"{LONG} Answer {i}?"), None, Sampling(max_tokens=1)) for i in range(2)]
    first, second = [(await drafts(opened.engine, [request]))[request.id] for request in asked]
    told = await opened.engine._admin.reuse()

    assert first.usage.cached_in == 0 and second.usage.cached_in >= 128
    assert told.found - before.found == second.usage.cached_in
    assert told.looked_up - before.looked_up == first.usage.tokens_in + second.usage.tokens_in


@both
async def test_answers_keep_a_schema_and_log_probabilities_come(opened: Opened) -> None:
    schema = '{"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]}'
    formed = ask("json", chat("How old is Ann? She is 7."), None, Sampling(max_tokens=60, schema=schema))
    told = ask("chat", chat("Hi"), None, Sampling(max_tokens=3, logprobs=2))
    text = ask("text", "The capital of France is", None, Sampling(max_tokens=3, logprobs=2))

    found = await drafts(opened.engine, [formed, told, text])

    assert found["json"].error is None and '"age"' in found["json"].text
    for name in ("chat", "text"):
        draft = found[name]
        assert draft.error is None and draft.logprobs is not None and len(draft.logprobs) == 3, draft
        assert len(draft.logprobs[0].top) >= 2 and draft.logprobs[0].logprob <= 0


@both
async def test_what_it_cannot_serve_fails_alone_and_says_why(opened: Opened) -> None:
    stream = Stream("smol", chat("Hi"))
    asked = {
        "unattached": ask("unattached", chat("Hi"), "law"),
        "two": Request("two", (stream, replace(stream, weight=-0.5)), Sampling(max_tokens=4), mix=Mix()),
        "long": ask("long", chat("word " * 600)),
        "logprobs": ask("logprobs", chat("Hi"), None, Sampling(max_tokens=2, logprobs=5000)),
    }

    found = await drafts(opened.engine, [*asked.values(), ask("good", chat("Hi"))])
    kinds = {name: draft.error.kind for name, draft in found.items() if draft.error}

    wanted = {"unattached": "unsupported", "two": "unsupported", "long": "too_long", "logprobs": "unsupported"}
    if opened.engine.caps.contrast:
        assert found["two"].usage.passes == 2 * found["two"].usage.tokens_out
        del wanted["two"]
    assert kinds == wanted


@both
async def test_a_text_that_fills_the_context_ends_there(opened: Opened) -> None:
    draft = (await drafts(opened.engine, [ask("q", "word " * 500, None, Sampling(max_tokens=400))]))["q"]

    assert draft.error is None and (draft.stop == "stop" or draft.stop_detail == "the context was full")


@both
async def test_many_callers_at_once_each_get_their_own_answer(opened: Opened) -> None:
    async def caller(i: int) -> tuple[int, Draft]:
        request = ask("q", chat(f"What is {i} + 30?"), "arithmetic")
        return i, (await drafts(opened.engine, [request]))["q"]

    found = await asyncio.gather(*(caller(i) for i in range(64)))

    assert all(draft.error is None for _, draft in found)
    right = sum(str(i + 30) in draft.text for i, draft in found)
    assert right >= 60, f"{right} of 64"


@both
async def test_whoever_reads_along_gets_the_text_in_pieces(opened: Opened) -> None:
    request = replace(ask("q", chat("Tell me a story."), None, Sampling(max_tokens=16)), deltas=True)
    *deltas, whole = [piece async for _, piece in opened.engine.generate([request])]

    assert isinstance(whole, Draft) and len(deltas) > 3
    assert "".join(delta.text for delta in deltas if isinstance(delta, Delta)) == whole.text


@both
async def test_a_reader_who_goes_stops_the_server(opened: Opened) -> None:
    endless = Sampling(max_tokens=400, temperature=2.0)
    async with aclosing(opened.engine.generate([ask(str(i), f"Tale {i}:", None, endless) for i in range(8)])) as pieces:  # type: ignore[type-var]
        reading = asyncio.create_task(anext(aiter(pieces)))
        await asyncio.sleep(1)
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
    assert opened.engine._admin is not None
    await asyncio.sleep(1)

    assert await running(opened.engine) == 0


@of_a_server
async def test_a_server_of_somebody_else_gets_our_adapters_and_is_left_as_it_was(opened: Opened) -> None:
    server = opened.engine._server
    assert isinstance(server, Server) and isinstance(opened.engine._client, ChatClient)
    url = str(opened.engine._client._http.base_url)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OUR_KEY", server.key)
        guest = VllmEngine(url=url, model="smol", key="OUR_KEY")
        served = set(await models(opened.engine))
        await guest.open(Host("guest", "vllm", None, (packaged("sorting"),), context=512))
        answer = (await drafts(guest, [ask("q", chat(ASKED["sorting"][0]), "sorting")]))["q"]
        meanwhile = set(await models(opened.engine))
        await guest.close()

        assert ASKED["sorting"][1] in answer.text and answer.served_by == "guest"
        assert len(meanwhile) == len(served) + 1
        assert set(await models(opened.engine)) == served
        for bad, words in (({"model": "other"}, "serves no 'other', but"), ({"key": "NO_KEY"}, "NO_KEY")):
            with pytest.raises(EngineError, match=words):
                await VllmEngine(**({"url": url, "model": "smol", "key": "OUR_KEY"} | bad)).open(Host("guest", "vllm"))  # type: ignore[arg-type]


@of_a_server
async def test_it_keeps_the_contract(vllm_env: Env, opened: Opened) -> None:
    """The server is that of the other tests, so that its start is paid for once."""
    server = opened.engine._server
    assert isinstance(server, Server) and isinstance(opened.engine._client, ChatClient)
    url = str(opened.engine._client._http.base_url)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OUR_KEY", server.key)
        host = replace(vllm_env.host("smol"), path=None, template=None)
        await check_engine(
            lambda: VllmEngine(url=url, key="OUR_KEY"), host, [chat("Name a colour."), "Once upon", chat("Hi")]
        )


FORCING = """
import json, sys, torch
from transformers import AutoModelForCausalLM
told = json.load(sys.stdin)
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32).eval()
found = []
for before, after in told:
    with torch.no_grad():
        scores = model(torch.tensor([before + after])).logits[0].log_softmax(-1)
    found.append([scores[len(before) - 1 + i, token].item() for i, token in enumerate(after)])
print(json.dumps(found))
"""


@of_a_server
async def test_a_given_text_has_the_score_that_llamacpp_and_transformers_give_it(
    opened: Opened, vllm_env: Env, smollm2: Path
) -> None:
    texts = ["First I add 12 and 30, which gives 42.\nAnswer: 42", "Because 日本語 and 😀 are no sums, I cannot say."]
    prompt = chat("What is 12 + 30?")
    other = LlamaCppEngine()
    await other.open(Host("smol", "llamacpp", smollm2, context=512, template=TEMPLATE))
    asked = [Request(text, (Stream("smol", prompt),), target=text) for text in texts]

    by_vllm = await drafts(opened.engine, asked)
    by_llama = {name: piece async for name, piece in other.generate(asked) if isinstance(piece, Draft)}
    client = other._processes[0].client
    assert client is not None
    shown = await client.ask("/apply-template", {"messages": [{"role": "user", "content": prompt[0].content}]}, 1e9)
    before = (await client.ask("/tokenize", {"content": shown["prompt"], "parse_special": True}, 1e9))["tokens"]
    await other.close()
    ids = [[token.id for token in by_llama[text].logprobs or ()] for text in texts]
    done = await asyncio.to_thread(
        subprocess.run,
        [vllm_env.python, "-c", FORCING, str(vllm_env.folder)],
        input=json.dumps([[before, own] for own in ids]),
        capture_output=True,
        text=True,
        check=True,
    )

    for text, own, forced in zip(texts, ids, json.loads(done.stdout.splitlines()[-1]), strict=True):
        one, two = by_vllm[text].logprobs, by_llama[text].logprobs
        assert one is not None and two is not None, (by_vllm[text].error, by_llama[text].error)
        assert [token.id for token in one] == own
        for engine in (one, two):
            apart = [abs(token.logprob - logprob) for token, logprob in zip(engine, forced, strict=True)]
            assert sum(apart) / len(apart) < 0.1, "bfloat16, and activations of 8 bits, against float32"


@of_a_server
async def test_an_adapter_scores_its_own_texts_higher_than_the_base_does_beside_others(opened: Opened) -> None:
    scored = [
        Request(str(who), (Stream("smol", chat("What is 12 + 30?"), who),), target="12 + 30 = 42")
        for who in ("arithmetic", None)
    ]
    others = [
        replace(one, id=f"{one.id} {i} {target}", target=target)
        for one in scored
        for i in range(4)
        for target in (None, "43")
    ]

    found = await drafts(opened.engine, [*others[:8], *scored, *others[8:]])  # vLLM itself would die of these at once

    assert all(draft.error is None for draft in found.values()), found
    own, base = (sum(token.logprob for token in found[str(who)].logprobs or ()) for who in ("arithmetic", None))
    assert -1 < own < 0 and base < -5  # it was trained to write just this
