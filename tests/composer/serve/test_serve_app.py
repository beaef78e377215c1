"""What callers get: models, answers, errors, traces of all of it, and readiness."""

from __future__ import annotations

import asyncio
import time

import pytest
from scripted import ONE, THREE, Scripted
from served import PANEL, ask, chat, events, served

from composer.serve.limits import Limits
from composer.types import Draft, Failure, Request, Usage

# the generalist is asked first, another one if it is believed too little: never the case without a profile
SHY = (
    "pipelines:\n  shy:\n    - {use: decide, options: {policy: agreeing, abstain_below: 0.99}}\n    - use: generate\n"
    "    - use: verify\n    - use: aggregate\n"
)


def cut(request: Request) -> Draft:
    return Draft("", "and so on and", "length", Usage(tokens_in=5, tokens_out=3))


async def test_models_are_auto_every_expert_and_every_named_pipeline(bench: Scripted) -> None:
    async with served(bench.pipeline(THREE + PANEL)) as (client, door):
        listed = (await client.get("/v1/models")).json()
        one = (await client.get("/v1/models/panel")).json()
        missing = await client.get("/v1/models/nobody")

    assert [model["id"] for model in listed["data"]] == ["auto", "general", "sums", "law", "panel"]
    assert one == {"id": "panel", "object": "model", "created": door.started, "owned_by": "coe"}
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "model_not_found")


async def test_of_an_expert_that_answers_nothing_it_is_told_why_it_is_no_model(bench: Scripted) -> None:
    text = THREE.replace("encoder:", "  planner: {model: small, writes: plans}\nencoder:")
    async with served(bench.pipeline(text)) as (client, _):
        asked, listed = await chat(client, ask("planner")), await client.get("/v1/models/planner")

    for told in (asked, listed):
        assert told.status_code == 404
        assert told.json()["error"]["message"] == (
            "'planner' writes plans and answers nothing: name one that answers: auto, general, sums, law"
        )
    assert bench.engines == []


async def test_an_expert_by_name_answers_alone(bench: Scripted) -> None:
    async with served(bench.pipeline(THREE, lambda request: request.arm)) as (client, _):
        told = (await chat(client, ask("law"))).json()

    [choice] = told["choices"]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("law", "stop")
    assert (told["x_coe"]["experts"], told["x_coe"]["status"], told["x_coe"]["sure"]) == (["law"], "ok", None)
    assert (told["object"], told["model"]) == ("chat.completion", "law")


async def test_usage_counts_every_expert_and_says_what_was_spent_now(bench: Scripted) -> None:
    async with served(bench.pipeline(THREE + PANEL, lambda request: "the answer is 7")) as (client, door):
        first = (await chat(client, ask("law", "one two three"))).json()
        again = (await chat(client, ask("law", "one two three"))).json()
        usage, ledger = again["usage"], door.pipeline.ledger

    assert first["usage"]["prompt_tokens"] == 4  # the system message's one and the question's three
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (4, 4, 8)
    assert usage["prompt_tokens_details"] == {"cached_tokens": 4}
    assert (first["x_coe"]["spent"], again["x_coe"]["spent"]) == (
        {"tokens_in": 4, "tokens_out": 4},
        {"tokens_in": 0, "tokens_out": 0},
    )
    assert (again["x_coe"]["cached"], ledger.tokens_in) == (1, 4)


async def test_several_answers_are_several_draws_with_seeds_of_their_own(bench: Scripted) -> None:
    seeds: list[tuple[int, int]] = []

    def say(request: Request) -> str:
        seeds.append((request.sample, request.sampling.seed))
        return f"draw {request.sample}"

    async with served(bench.pipeline(ONE, say)) as (client, _):
        told = (await chat(client, ask(n=3, temperature=1, seed=5))).json()

    assert [choice["message"]["content"] for choice in told["choices"]] == ["draw 0", "draw 1", "draw 2"]
    assert [choice["index"] for choice in told["choices"]] == [0, 1, 2]
    assert len({choice["x_coe"]["trace_id"] for choice in told["choices"]}) == 3
    assert sorted(seeds) == [(0, 5), (1, 6), (2, 7)]


async def test_a_text_that_was_cut_off_says_so(bench: Scripted) -> None:
    async with served(bench.pipeline(ONE, cut)) as (client, _):
        whole = (await chat(client, ask())).json()
        streamed = events(await chat(client, ask(stream=True)))

    assert whole["choices"][0]["finish_reason"] == "length"
    assert (whole["choices"][0]["message"]["content"], whole["x_coe"]["status"]) == ("and so on and", "degraded")
    assert [chunk["choices"][0]["finish_reason"] for chunk in streamed[:-1]] == [None, None, "length"]


@pytest.mark.parametrize(
    ("failure", "status", "retry"),
    [
        ("host_died", 503, "1"),
        ("unreachable", 503, "1"),
        ("overloaded", 503, "1"),
        ("timeout", 504, None),
        ("bad_response", 502, None),
        ("refused", 502, None),
        ("too_long", 400, None),
    ],
)
async def test_an_expert_that_failed_is_an_error_and_never_an_answer(
    bench: Scripted, failure: str, status: int, retry: str | None
) -> None:
    said: list[str] = []
    broken = Failure(failure, "it broke; its last words:\n    /srv/secret/model.gguf")
    async with served(bench.pipeline(ONE, lambda _: broken), said=said) as (client, _):
        whole = await chat(client, ask())
        streamed = await chat(client, ask(stream=True))

    assert (whole.status_code, whole.headers.get("retry-after")) == (status, retry)
    assert "secret" not in whole.text + streamed.text
    assert "secret" in "".join(said)
    assert (streamed.status_code, streamed.json()) == (status, whole.json())  # nothing was sent before


@pytest.mark.usefixtures("measured")
async def test_an_expert_that_fails_among_others_degrades_the_answer(bench: Scripted) -> None:
    def say(request: Request) -> str | Failure:
        return Failure("timeout", "too slow") if request.arm == "law" else "the answer is 7"

    async with served(bench.pipeline(THREE + PANEL, say)) as (client, _):
        told = (await chat(client, ask("panel"))).json()

    assert told["choices"][0]["message"]["content"] == "the answer is 7"
    assert told["x_coe"]["status"] == "degraded" and set(told["x_coe"]["experts"]) == {"general", "sums", "law"}
    assert told["x_coe"]["failed"] == [{"expert": "law", "kind": "timeout"}]


async def test_the_deadline_holds_also_for_what_waits_for_its_turn(bench: Scripted) -> None:
    bench.delay = 30
    async with served(bench.pipeline(ONE), Limits(max_tokens=9, deadline=0.3)) as (client, _):
        began = time.monotonic()
        told = await asyncio.gather(*(chat(client, ask(text=f"question {i}")) for i in range(3)))
        took = time.monotonic() - began

    assert [(one.status_code, one.json()["error"]["code"]) for one in told] == [(504, "timeout")] * 3
    assert took < 5


async def test_what_cannot_be_loaded_is_503_and_the_log_says_where(bench: Scripted) -> None:
    said: list[str] = []
    pipeline = bench.pipeline(ONE)
    (bench.folder / "project" / "small.gguf").unlink()
    async with served(pipeline, said=said) as (client, _):
        told = await chat(client, ask())

    assert (told.status_code, told.json()["error"]["code"]) == (503, "model_unavailable")
    assert "experts.yaml" in said[0] and "experts.yaml" not in told.text


async def test_a_bug_is_500_in_the_same_form_and_its_traceback_is_for_the_operator(
    bench: Scripted, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(_: Request) -> str:
        raise RuntimeError("a bug at /srv/secret")

    async with served(bench.pipeline(ONE, broken)) as (client, _):
        told = await chat(client, ask())

    assert (told.status_code, told.json()["error"]["code"]) == (500, "internal")
    assert "secret" not in told.text and "a bug at /srv/secret" in capsys.readouterr().err


async def test_abstaining_is_a_refusal(bench: Scripted) -> None:
    async with served(bench.pipeline(THREE + SHY)) as (client, _):
        whole = (await chat(client, ask("shy"))).json()
        streamed = events(await chat(client, ask("shy", stream=True)))

    [choice] = whole["choices"]
    assert choice["message"]["content"] is None
    assert choice["message"]["refusal"].startswith("not answered: the answers are believed")
    assert whole["x_coe"]["status"] == "abstained"
    assert streamed[1]["choices"][0]["delta"] == {"refusal": choice["message"]["refusal"]}
    assert streamed[-1] == "[DONE]"


async def test_a_program_that_fails_is_an_error_that_says_why(bench: Scripted) -> None:
    registry = f"{ONE}  coder: {{model: small, system: C., strategies: [code]}}\n" + (
        "pipeline:\n  - use: decide\n  - use: generate\n  - use: execute\n  - use: verify\n  - use: aggregate\n"
    )
    async with served(bench.pipeline(registry, lambda request: "1 / 0")) as (client, _):
        reply = await chat(client, ask("coder@code"))

    assert reply.status_code == 502 and "ZeroDivisionError" in reply.json()["error"]["message"]


# Many


async def test_too_many_at_once_are_told_to_come_back(bench: Scripted) -> None:
    bench.delay = 0.05
    async with served(bench.pipeline(ONE), Limits(max_tokens=9, queue=4)) as (client, _):
        told = await asyncio.gather(*(chat(client, ask(text=f"question {i}")) for i in range(8)))
        n = await chat(client, ask(n=5, temperature=1))
        after = await chat(client, ask())

    refused = [response for response in told if response.status_code == 429]
    assert (len(refused), n.status_code, after.status_code) == (4, 429, 200)
    assert int(refused[0].headers["retry-after"]) >= 1
    assert refused[0].json()["error"]["type"] == "rate_limit_error"


async def test_callers_meet_in_one_pool(bench: Scripted) -> None:
    async with served(bench.pipeline(ONE, lambda request: "same")) as (client, door):
        told = await asyncio.gather(*(chat(client, ask(text="the same question")) for _ in range(64)))
        ledger = door.pipeline.ledger

    assert [response.status_code for response in told] == [200] * 64
    assert (ledger.drafts, ledger.cached, ledger.loads) == (64, 63, 1)
    assert len({response.json()["x_coe"]["trace_id"] for response in told}) == 64


async def test_every_answer_leaves_a_trace_whatever_became_of_it(bench: Scripted) -> None:
    def say(request: Request) -> str | Failure:
        return Failure("timeout", "too slow") if request.arm == "law" else "done"

    pipeline = bench.pipeline(THREE, say)
    async with pipeline:
        async with served(pipeline) as (client, _):
            good = (await chat(client, ask("sums"))).json()
            bad = await chat(client, ask("law"))
        traces = await pipeline.store.traces()
        found = await pipeline.store.trace(good["x_coe"]["trace_id"])
        states = [run.state for run in await pipeline.store.runs()]

    assert bad.status_code == 504
    assert sorted((trace["model"], trace["status"]) for trace in traces) == [("law", "failed"), ("sums", "ok")]
    assert found is not None and found["drafts"][0]["draft"] == "done"
    assert states == ["finished"]


# Readiness


async def test_readiness_is_a_real_completion_kept_for_a_moment(bench: Scripted) -> None:
    asked: list[Request] = []

    def say(request: Request) -> str:
        asked.append(request)
        return "Hi"

    async with served(bench.pipeline(THREE, say)) as (client, _):
        told = await asyncio.gather(*(client.get("/readyz") for _ in range(5)))
        health = await client.get("/healthz")

    assert [response.json() for response in told] == [{"status": "ready", "expert": "general"}] * 5
    assert [(request.role, request.sampling.max_tokens) for request in asked] == [("probe", 1)]
    assert health.json() == {"status": "ok"}


async def test_a_recent_answer_proves_readiness_and_a_failure_denies_it(bench: Scripted) -> None:
    asked: list[str] = []

    def say(request: Request) -> str | Failure:
        asked.append(request.role)
        return Failure("timeout", "gone") if request.role == "probe" else "done"

    async with served(bench.pipeline(ONE, say)) as (client, door):
        await chat(client, ask())
        ready = await client.get("/readyz")
        door.ready._at = float("-inf")  # later
        broken = await client.get("/readyz")

    assert (ready.status_code, broken.status_code) == (200, 503)
    assert broken.json()["error"]["code"] == "not_ready"
    assert asked == ["draft", "probe"]


async def test_what_cannot_be_loaded_is_not_ready(bench: Scripted) -> None:
    pipeline = bench.pipeline(ONE)
    (bench.folder / "project" / "small.gguf").unlink()
    async with served(pipeline) as (client, _):
        told = await client.get("/readyz")

    assert (told.status_code, told.json()["error"]["code"]) == (503, "not_ready")
