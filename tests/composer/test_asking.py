"""Who answers when a caller says so: a pipeline by name, an expert alone; with turns, settings and ears of their own."""

from __future__ import annotations

from pathlib import Path

import pytest
from scripted import ONE, THREE, Scripted

from composer.asker import Wishes
from composer.engines.base import Engine
from composer.engines.scripted import ScriptedEngine
from composer.errors import ConfigError, InputError, RequestError
from composer.registry.experts import Registry
from composer.state import Query
from composer.trace import Event, Written
from composer.traced import trace_of
from composer.types import Message, Request, Sampling

PANEL = (
    "pipelines:\n  panel:\n    - {use: decide, options: {k: 3}}\n    - use: generate\n"
    "    - use: verify\n    - {use: aggregate, options: {by: majority}}\n"
)
WRITER = THREE.replace("experts:", f"  old: {{sources: [small.gguf], sha256: {'f' * 64}, completion: true}}\nexperts:")
WRITER = WRITER.replace("encoder:", "  writer: {model: old}\nencoder:")


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scripted:
    return Scripted(tmp_path, monkeypatch)


async def test_a_pipeline_by_name_asks_as_it_says(bench: Scripted) -> None:
    pipeline = bench.pipeline(ONE + PANEL.replace("k: 3", "k: 1"))

    [by_name] = (await pipeline.astate(["What?"], by="panel")).answers

    assert (by_name.text, by_name.experts) == ("general on 0", ("general",))


async def test_an_expert_by_name_is_asked_alone_and_no_router_is_needed(bench: Scripted) -> None:
    state = await bench.pipeline(THREE).astate(["What?"], by="law", run="r")

    assert (state.answers[0].text, state.asked) == ("law on 0", (("law",),))
    assert trace_of(state, 0)["route"]["reason"]["note"] == "law was asked by name"
    assert bench.encoded == []


async def test_a_name_that_nobody_has_is_told_with_those_that_are(bench: Scripted) -> None:
    with pytest.raises(InputError, match="did you mean `panel`"):
        await bench.pipeline(ONE + PANEL).astate(["What?"], by="panell")


def test_a_named_pipeline_is_checked_when_the_file_is_read(bench: Scripted) -> None:
    with pytest.raises(ConfigError) as wrong:
        bench.pipeline(ONE + PANEL.replace("k: 3", "k: 0"))
    with pytest.raises(ConfigError) as short:
        bench.pipeline(ONE + PANEL.replace("    - use: generate\n", ""))

    assert (wrong.value.where or "").endswith("experts.yaml:7 (pipelines.panel[0].options.k)")
    assert (short.value.where or "").endswith("experts.yaml:6 (pipelines.panel)")


# What a caller sends along


def requests(bench: Scripted) -> list[Request]:
    """What the experts are asked from now on."""
    asked: list[Request] = []

    def say(request: Request) -> str:
        asked.append(request)
        return "done"

    bench.pipeline(answer=say)
    return asked


async def test_turns_reach_the_expert_under_one_system_message(bench: Scripted) -> None:
    asked = requests(bench)
    turns = (Message("system", "In French."), Message("user", "Hi"), Message("assistant", "Salut"))
    pipeline = bench.pipeline(THREE)

    state = await pipeline.astate([Query("0", "And now?", turns=turns)], by="sums")
    await pipeline.astate([Query("0", "And now?", turns=turns)])

    expected = (Message("system", "Calculate.\n\nIn French."), *turns[1:], Message("user", "And now?"))
    assert asked[0].streams[0].prompt == expected
    assert trace_of(state, 0)["turns"][2] == {"role": "assistant", "content": "Salut"}


async def test_an_expert_that_only_continues_text_refuses_turns(bench: Scripted) -> None:
    turns = (Message("user", "Hi"), Message("assistant", "Hello"))

    with pytest.raises(RequestError, match="knows no turns"):
        await bench.pipeline(WRITER).astate([Query("0", "And now?", turns=turns)], by="writer")


async def test_wishes_win_over_the_registry_and_repeated_draws_differ(bench: Scripted) -> None:
    asked = requests(bench)
    wishes = [Wishes(max_tokens=7, temperature=0.5, seed=10, stop=("x",), sample=i, deadline=9e9) for i in range(2)]

    await bench.pipeline(ONE).astate([Query(str(i), "What?", wishes=wishes[i]) for i in range(2)])

    assert [request.sampling for request in asked] == [
        Sampling(max_tokens=7, temperature=0.5, seed=seed, stop=("x",)) for seed in (10, 11)
    ]
    assert [(request.sample, request.deadline) for request in asked] == [(0, 9e9), (1, 9e9)]


async def test_whoever_reads_along_hears_pieces_and_their_place(
    bench: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted: list[bool] = []

    def say(request: Request) -> str:
        wanted.append(request.deltas)
        return "one two"

    def engine(_: Registry, name: str) -> Engine:
        return ScriptedEngine(say, stream=True)

    monkeypatch.setattr(Registry, "engine", engine)
    heard: list[Event] = []

    async with bench.pipeline(ONE) as pipeline:
        await pipeline.astate([Query("0", "What?")], hear=heard.append)
        streamed = [event async for event in pipeline.stream(["What else?"])]

    assert [event for event in heard if isinstance(event, Written)] == [
        Written("0", "general", "one ", 0),
        Written("0", "general", "two", 4),
    ]
    assert sum(isinstance(event, Written) for event in streamed) == 2
    assert wanted == [False, True]


@pytest.mark.parametrize(("k", "note"), [(9, "k is 9, more than the 3 arms that there are"), (3, None)])
async def test_a_k_beyond_the_arms_asks_all_and_the_trace_says_so(bench: Scripted, k: int, note: str | None) -> None:
    state = await bench.pipeline(THREE + PANEL.replace("k: 3", f"k: {k}")).astate(["What?"], by="panel")

    assert len(state.asked[0]) == 3
    assert trace_of(state, 0)["route"]["reason"]["note"] == note
