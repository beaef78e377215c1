"""Before the first token: the right model, a prompt that fits, counted by the server where it counts."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from composer.engines.openai import OpenAIEngine, key_of
from composer.engines.preflight import Preflight
from composer.engines.retry import Unusable
from composer.engines.servers import SERVERS, Name, known_by, names_of, says_too_long
from composer.errors import EngineError
from composer.types import Draft, Host, Message, Prompt, Request, Sampling, Stream
from evals.faults.bench import Bench
from evals.faults.server import answer_to

KINDS = ["vllm", "llamacpp", "tgi", "ollama", "other"]


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    with Bench() as running:
        yield running


async def asked(url: str, model: str, prompts: list[Prompt], context: int = 64, **options: Any) -> list[Draft]:
    engine = OpenAIEngine(url=url, model=model, **{"retries": 0} | options)
    await engine.open(Host("far", "openai", context=context))
    drafts = []
    for i, prompt in enumerate(prompts):
        request = Request(str(i), (Stream("far", prompt),))
        drafts += [piece async for _, piece in engine.generate([request]) if isinstance(piece, Draft)]
    await engine.close()
    return drafts


def chat(text: str) -> Prompt:
    return (Message("user", text),)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_model_that_is_served_is_asked(bench: Bench, kind: str) -> None:
    [draft] = await asked(f"{bench.url}/as/{kind}/ok", "ok", [chat("Hi")], context=2048)

    assert draft.ok and draft.text == answer_to("Hi")


@pytest.mark.parametrize("kind", KINDS)
async def test_a_model_that_is_not_served_is_told_before_anything_is_asked(bench: Bench, kind: str) -> None:
    since = bench.mark()

    [draft] = await asked(f"{bench.url}/as/{kind}/qwen3", "qwen2", [chat("Hi")])

    assert draft.error is not None and draft.error.kind == "wrong_model"
    assert "did you mean 'qwen3'?" in draft.error.message
    assert bench.told("begun", since) == 0


async def test_a_reply_of_another_model_does_not_count(bench: Bench) -> None:
    [draft] = await asked(bench.url, "wrong-model", ["Hi"])

    assert draft.error is not None and draft.error.kind == "wrong_model"
    assert "'another'" in draft.error.message


async def test_another_name_of_the_model_can_be_declared(bench: Bench) -> None:
    [draft] = await asked(bench.url, "wrong-model", ["Hi"], serves_as="another")

    assert draft.ok


async def test_weights_that_are_changed_behind_the_same_name_are_found_out(bench: Bench) -> None:
    drafts = await asked(f"{bench.url}/as/vllm/swap:3", "swap:3", [str(i) for i in range(6)], retries=2)

    assert [draft.error.kind if draft.error else "ok" for draft in drafts] == ["ok"] * 2 + ["wrong_model"] * 4
    assert drafts[-1].error is not None and "root changed" in drafts[-1].error.message


@pytest.mark.parametrize("kind", ["vllm", "llamacpp", "tgi"])
@pytest.mark.parametrize("turns", [True, False])
async def test_no_prompt_is_cut_unnoticed_by_a_server_that_counts(bench: Bench, kind: str, turns: bool) -> None:
    limit, model = 300, "cuts:300"
    texts = [" ".join(["w"] * (n - 3)) for n in range(limit - 2, limit + 3)]
    prompts: list[Prompt] = [chat(text) if turns else text for text in texts]

    drafts = await asked(f"{bench.url}/as/{kind}/{model}", model, prompts)

    kinds = [draft.error.kind if draft.error else "ok" for draft in drafts]
    assert kinds == ["ok"] * 2 + ["too_long"] * 3
    assert all(draft.text == answer_to(text) for draft, text in zip(drafts, texts, strict=True) if draft.error is None)


async def test_what_nobody_can_count_is_refused_unless_it_surely_fits(bench: Bench) -> None:
    url, prompts = f"{bench.url}/as/ollama/cuts:400", [chat("w " * 40), chat("w " * 300)]

    sure, unsure = await asked(url, "cuts:400", prompts, context=400)
    risked = await asked(url, "cuts:400", prompts, context=400, uncounted=True)

    assert sure.ok and sure.text == answer_to("w " * 40)
    assert unsure.error is not None and unsure.error.kind == "too_long"
    assert "ollama has no tokenizer" in unsure.error.message and "OLLAMA_CONTEXT_LENGTH" in unsure.error.message
    assert [draft.ok for draft in risked] == [True, True]


async def test_a_server_that_refuses_by_itself_is_understood(bench: Bench) -> None:
    [draft] = await asked(f"{bench.url}/as/other/context:50", "context:50", [chat("w " * 300)])

    assert draft.error is not None and draft.error.kind == "too_long"


@pytest.mark.parametrize(
    "told",
    [
        {"object": "error", "message": "This model's maximum context length is 512 tokens.", "code": 400},
        {"error": {"message": "request (5010 tokens) exceeds the available context size (2048 tokens)", "code": 400}},
        {"error": {"message": "The input (631 tokens) is longer than the model's context length (512 tokens)."}},
        {
            "error": "Trying to keep the first 631 tokens when context the overflows. However, the model is loaded with context length of only 512 tokens"
        },
        {
            "error": "Input validation error: `inputs` must have less than 512 tokens. Given: 631",
            "error_type": "validation",
        },
        {"error": {"message": "the input length exceeds the context length", "type": "api_error", "code": None}},
        {"error": {"message": "too much", "code": "context_length_exceeded"}},
    ],
)
def test_every_server_has_its_words_for_too_long(told: dict[str, Any]) -> None:
    assert says_too_long(json.dumps(told))


def test_a_server_is_known_by_its_list_of_models() -> None:
    told = {
        "vllm": "vllm",
        "llamacpp": "llamacpp",
        "library": "ollama",
        "sglang": "sglang",
        "organization_owner": "lmstudio",
        "x": "tgi",
        "?": "other",
    }

    assert {owner: known_by([{"id": "x", "owned_by": owner}], None).name for owner in told} == told


def test_names_without_a_tag_or_a_folder_are_the_same_model() -> None:
    assert names_of({"id": "qwen3:latest"}, SERVERS["ollama"]) == {"qwen3:latest", "qwen3"}
    assert names_of({"id": "/m/q.gguf"}, SERVERS["llamacpp"]) == {"/m/q.gguf", "q.gguf", "q"}
    assert names_of({"id": "org/q"}, SERVERS["vllm"]) == {"org/q"}


async def test_fields_are_those_the_server_knows() -> None:
    async def ask(path: str, body: Any, ends: float) -> Any:
        return {"data": [{"id": "m", "owned_by": "llamacpp"}]} if path == "/v1/models" else None

    request = Request("a", (Stream("far", "Hi"),), Sampling(seed=2**32, repetition_penalty=1.1))
    check = Preflight(ask, "http://far", "m", context=100)

    fields = await check.ready(request, time.monotonic() + 5)

    assert fields == {"model": "m", "repeat_penalty": 1.1, "seed": 1, "top_k": 0}


def checked(server: Name) -> Preflight:
    async def ask(path: str, body: Any, ends: float) -> Any:
        return None

    return Preflight(ask, "http://far", "m", wanted=server, look=False)


@pytest.mark.parametrize(
    ("server", "sent"),
    [
        ("vllm", {"top_k": 0, "repetition_penalty": 1.0}),
        ("sglang", {"top_k": -1, "repetition_penalty": 1.0}),
        ("lmstudio", {"top_k": 0, "repeat_penalty": 1.0, "min_p": None}),
        ("tgi", {"top_k": None, "min_p": None, "top_p": None}),
        ("other", {"top_k": None, "min_p": None}),
    ],
)
async def test_what_changes_nothing_is_sent_only_to_servers_that_take_it(server: Name, sent: dict[str, Any]) -> None:
    fields = await checked(server).ready(Request("a", (Stream("far", "Hi"),)), time.monotonic() + 5)

    assert fields == {"model": "m", **sent}


@pytest.mark.parametrize(
    ("server", "sampling", "told"),
    [
        ("other", Sampling(top_k=40, min_p=0.1), "top_k, min_p"),
        ("lmstudio", Sampling(min_p=0.1), "lmstudio may ignore min_p"),
        ("ollama", Sampling(repetition_penalty=1.2), "ollama may ignore repetition_penalty"),
        ("tgi", Sampling(template=(("think", False),)), "tgi may ignore template"),
    ],
)
async def test_a_wish_that_a_server_may_ignore_is_refused(server: Name, sampling: Sampling, told: str) -> None:
    request = Request("a", (Stream("far", "Hi"),), sampling)

    with pytest.raises(Unusable, match=told) as caught:
        await checked(server).ready(request, time.monotonic() + 5)

    assert caught.value.kind == "unsupported" and not caught.value.again


async def test_a_server_of_no_known_kind_gets_openais_own_fields_and_no_others() -> None:
    sent: list[dict[str, Any]] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        if head.startswith("post"):
            sent.append(json.loads(await reader.readexactly(int(head.partition("content-length: ")[2].split()[0]))))
        writer.write(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        await asked(f"http://127.0.0.1:{port}", "m", [chat("Hi")])

    [body] = sent
    own = {"model", "messages", "max_tokens", "temperature", "top_p", "seed", "stream", "stream_options"}
    assert set(body) == own


async def test_a_list_that_is_none_is_a_bad_response() -> None:
    async def ask(path: str, body: Any, ends: float) -> Any:
        return ["m"]

    with pytest.raises(Unusable, match="no list of models"):
        await Preflight(ask, "http://far", "m").ready(Request("a", (Stream("far", "Hi"),)), time.monotonic() + 5)


async def test_a_key_comes_from_the_environment_and_is_never_shown(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAR_KEY", "secret")
    monkeypatch.delenv("NO_KEY", raising=False)

    assert (key_of("FAR_KEY", "far"), key_of(None, "far")) == ("secret", "")
    with pytest.raises(EngineError, match="NO_KEY is not set"):
        await OpenAIEngine(url=bench.url, model="ok", key_env="NO_KEY").open(Host("far", "openai"))
    with pytest.raises(EngineError) as why:
        key_of("sk-secret", "far")
    assert "sk-secret" not in str(why.value)
