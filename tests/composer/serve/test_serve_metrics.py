"""What Prometheus reads: the names it is promised, the figures after real requests, and no text of a caller in it."""

from __future__ import annotations

import asyncio
import contextlib
import re
from dataclasses import replace

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from scripted import ONE, THREE, Scripted
from served import KEY, LIMITS, ask, chat, served

from composer.serve.guard import Keys
from composer.serve.metrics import Watch
from composer.trace import Drafted, Routed
from composer.types import Draft, Failure, Request, Usage

NAMES = {
    "coe_cache_requests_total": {"result"},
    "coe_degraded_total": set(),
    "coe_expert_calls_total": {"expert", "outcome"},
    "coe_expert_state": {"expert"},
    "coe_overhead_seconds_count": set(),
    "coe_queue_depth": set(),
    "coe_request_duration_seconds_count": set(),
    "coe_requests_total": {"status", "strategy"},
    "coe_route_total": {"expert"},
    "coe_tokens_total": {"expert", "direction"},
}
Figures = dict[tuple[str, ...], float]


async def figures(client: httpx.AsyncClient) -> Figures:
    """Every sample under its name and the values of its labels."""
    told = await client.get("/metrics")
    assert told.status_code == 200 and told.headers["content-type"].startswith("text/plain; version=0.0.4")
    found: Figures = {}
    for family in text_string_to_metric_families(told.text):
        assert family.documentation
        for sample in family.samples:
            if sample.name in NAMES:
                assert set(sample.labels) == NAMES[sample.name], sample.name
            found[(sample.name, *(sample.labels[name] for name in sorted(sample.labels)))] = sample.value
    return found


async def test_requests_leave_the_figures_that_are_promised(bench: Scripted) -> None:
    def say(request: Request) -> str | Draft | Failure:
        if request.arm == "law":
            return Failure("timeout", "too slow")
        return Draft("", "and so", "length", Usage(tokens_in=5, tokens_out=2)) if request.arm == "sums" else "it is so"

    async with served(bench.pipeline(THREE, say)) as (client, _):
        for model, text in (("auto", "one two"), ("auto", "one two"), ("law", "a"), ("sums", "b"), ("general", "c")):
            await chat(client, ask(model, text))
        streamed = await chat(client, ask("general", "d", stream=True))
        found = await figures(client)

    assert streamed.status_code == 200
    assert {name for name, *_ in found} >= NAMES.keys()
    assert found["coe_requests_total", "200", "auto"] == found["coe_requests_total", "200", "general"] == 2
    assert (found["coe_requests_total", "504", "law"], found["coe_requests_total", "200", "sums"]) == (1, 1)
    assert found["coe_request_duration_seconds_count",] == 6 and found["coe_overhead_seconds_count",] == 5
    assert found["coe_expert_calls_total", "general", "ok"] == 3  # the fourth was in the store
    assert found["coe_expert_calls_total", "law", "timeout"] == found["coe_expert_calls_total", "sums", "length"] == 1
    assert (found["coe_cache_requests_total", "hit"], found["coe_cache_requests_total", "miss"]) == (1, 5)
    assert (found["coe_expert_state", "law"], found["coe_expert_state", "general"]) == (0, 1)
    assert (found["coe_tokens_total", "in", "sums"], found["coe_tokens_total", "out", "sums"]) == (5, 2)
    assert (found["coe_route_total", "general"], found["coe_degraded_total",], found["coe_queue_depth",]) == (2, 1, 0)


async def test_nothing_that_callers_say_is_a_label(bench: Scripted) -> None:
    keys = {"authorization": f"Bearer {KEY}"}
    async with served(bench.pipeline(ONE), keys=Keys([KEY])) as (client, _):
        client.headers.update(keys)
        for i in range(20):
            await chat(client, ask(f"canary-model-{i}", "canary question"))
            await chat(client, ask("general", f"canary question {i}", user=f"canary-user-{i}"))
            await chat(client, ask("general", f"canary question {i}", **{f"canary_field_{i}": 1}))
            await client.get(f"/canary/{i}")
            await client.get("/healthz", headers={"host": f"canary{i}.example"})
            await client.get("/healthz", headers={"authorization": f"Bearer canary{i}"})
        found, text = await figures(client), (await client.get("/metrics")).text

    assert "canary" not in text and KEY not in text
    statuses = {key[1:]: value for key, value in found.items() if key[0] == "coe_requests_total"}
    assert statuses == {
        ("200", "general"): 20,
        ("404", "none"): 20,
        ("400", "none"): 20,
        ("421", "none"): 20,
        ("401", "none"): 20,
    }
    assert not re.search(r"(?m)_created\b", text)


async def test_what_is_under_way_is_seen_and_who_leaves_is_counted(bench: Scripted) -> None:
    bench.delay = 30
    async with served(bench.pipeline(ONE), replace(LIMITS, each=1)) as (client, door):
        asked = asyncio.create_task(chat(client, ask()))
        while not door._under_way:
            await asyncio.sleep(0.01)
        refused = await chat(client, ask())
        during = await figures(client)
        for call in list(door._calls):
            await call.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asked
        after = await figures(client)

    assert refused.status_code == 429
    assert (during["coe_queue_depth",], after["coe_queue_depth",]) == (1, 0)
    assert (after["coe_requests_total", "429", "none"], after["coe_requests_total", "499", "auto"]) == (1, 1)


# What is ours


def routed() -> Routed:
    return Routed("0", ("a",), {"a": 1.0}, {})


def drafted(*, cached: bool = False) -> Drafted:
    return Drafted.of("0", "a", Draft("", "x", "stop", cached=cached))


@pytest.mark.parametrize(
    ("asked", "story", "ours"),
    [
        (False, [(1, routed()), (5, drafted()), (7, None)], 3),
        (False, [(1, routed()), (2, routed()), (5, drafted()), (6, drafted()), (7, None)], 2),  # two queries
        (False, [(1, routed()), (3, drafted()), (4, routed()), (8, drafted()), (9, None)], 3),  # two rounds
        (False, [(1, routed()), (3, drafted(cached=True)), (4, routed()), (8, drafted()), (9, None)], 5),
        (True, [(4, drafted()), (6, None)], 2),  # by name
        (True, [(4, drafted(cached=True)), (6, None)], 6),
        (False, [(6, None)], 6),
    ],
)
def test_our_own_time_is_what_no_expert_was_waited_for(
    asked: bool, story: list[tuple[float, Routed | Drafted | None]], ours: float
) -> None:
    now = 0.0
    watch = Watch(asked=asked, clock=lambda: now)

    for now, event in story:  # noqa: B007 - the clock reads it
        if event is not None:
            watch.hear(event)

    assert watch.ours() == pytest.approx(ours)
