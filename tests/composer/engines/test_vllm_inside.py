"""vLLM in a process of ours beside vLLM's own server: the same words mean the same, and the engine keeps the contract."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from vllm_kit import ASKED, Env, ask, chat, drafts

from composer.engines.testing import check_engine
from composer.registry.differ import difference
from composer.types import Draft, Host, Sampling

pytestmark = pytest.mark.vllm

NEAR = 0.5  # nats; sums end differently in the last bits when the width of a batch changes
TEMPLATE = (
    "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
    "{% if shout %}Answer loudly, and in one word.\n{% endif %}assistant:"
)
TOLD = Sampling(max_tokens=8, logprobs=5)
REQUESTS = [
    ask("chat", chat("What is the capital of France?"), None, TOLD),
    ask("options", chat("What is the capital of France?"), None, replace(TOLD, template=(("shout", True),))),
    ask("text", "The capital of France is", None, TOLD),
    ask("adapter", chat(ASKED["units"][0]), "units", TOLD),
    ask("stop", "1, 2, 3, 4, 5, 6, 7, 8,", None, Sampling(max_tokens=32, stop=(" 12",))),
    ask("drawn", "Once upon a time", None, Sampling(max_tokens=8, temperature=0.8, seed=7, top_p=0.9, min_p=0.01)),
    ask("none", "The capital of France is", None, replace(TOLD, logprobs=0)),
]


async def test_it_keeps_the_contract(vllm_env: Env) -> None:
    prompts = [chat("Name a colour."), "Once upon", chat("Hi")]

    await check_engine(lambda: vllm_env.engine(in_process=True), vllm_env.host("smol"), prompts)


async def answers(env: Env, host: Host, *, inside: bool) -> dict[str, Draft]:
    engine = env.engine(in_process=inside, chat_options='{"shout": false}')
    await engine.open(host)
    try:
        return {request.id: (await drafts(engine, [request]))[request.id] for request in REQUESTS}
    finally:
        await engine.close()


async def test_a_request_means_the_same_on_a_server_and_without_one(vllm_env: Env) -> None:
    host = replace(vllm_env.host("smol", ["units"]), template=TEMPLATE)

    served, ours = [await answers(vllm_env, host, inside=inside) for inside in (False, True)]

    assert served["options"].usage.tokens_in > served["chat"].usage.tokens_in, "the template heard its option"
    for name, one in ours.items():
        other = served[name]
        assert one.error is None and other.error is None, f"{name}: {one.error}, {other.error}"
        assert one.usage.tokens_in == other.usage.tokens_in, name
        assert (one.stop, one.stop_detail) == (other.stop, other.stop_detail), name
        assert (one.logprobs is None) == (other.logprobs is None), name
    for name in ("chat", "options", "text", "adapter"):
        one, other = ours[name].logprobs, served[name].logprobs
        assert one is not None and other is not None
        parted = difference(dict(one[0].top), dict(other[0].top))
        assert parted is not None and parted < NEAR, name
        assert len(one) == len(other) and len(one[0].top) == 5, name
    assert ours["stop"].stop_detail == " 12" and not ours["stop"].text.endswith("12")
    assert ours["none"].logprobs is not None and ours["none"].logprobs[0].top == ()


async def test_a_deadline_ends_a_request_in_vllm_as_well(vllm_env: Env) -> None:
    engine = vllm_env.engine(in_process=True)
    await engine.open(vllm_env.host("smol"))
    try:
        endless = ask("q", "Tale:", None, Sampling(max_tokens=400, temperature=2.0))
        late = replace(endless, deadline=asyncio.get_running_loop().time() + 0.5)
        found = await drafts(engine, [late, ask("good", chat("Hi"))])
        await asyncio.sleep(0.5)
        assert engine._admin is not None
        again = (await drafts(engine, [ask("q", chat("Hi"))]))["q"]
        state = await engine._admin.state()  # type: ignore[attr-defined]
    finally:
        await engine.close()

    error = found["q"].error
    assert error is not None and error.kind == "timeout" and found["good"].error is None
    assert again.error is None and state["running"] == 0
