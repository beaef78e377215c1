"""The pipeline: what it refuses when it is made, who routes what, and what is open when."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
from scripted import ONE, THREE, Scripted

from composer.config import load_settings, packaged_registry
from composer.errors import ConfigError, InputError
from composer.pipeline import Pipeline
from composer.profiling import profile_file
from composer.registry.progress import Progress
from composer.show import why
from composer.trace import Answered, Drafted, Event, Planned, Routed

QUESTIONS = "".join(
    f'{{"id": "{task}{i}", "question": "{text} {i}", "answer": "{i}", "kind": "number", "task": "{task}"}}\n'
    for task, text in (("sums", "add the numbers up to"), ("law", "which paragraph of the law is"))
    for i in range(4)
)
SUM, FACT = "add the numbers up to 9", "zebra quagga okapi"


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scripted:
    return Scripted(tmp_path, monkeypatch)


def measure(bench: Scripted, text: str) -> None:
    """A profile in which `sums` is right about its own skill, and `law` about its own."""
    source = bench.folder / "questions.jsonl"
    source.write_text(QUESTIONS)
    pipeline = bench.pipeline(text, lambda r: r.parent[-1] if r.parent and r.parent.startswith(r.arm) else "99")
    profile_file(pipeline, source, None)


# What is refused when the file is read


@pytest.mark.parametrize(
    "stages",
    [
        "[generate, aggregate]",
        "[decide, generate]",
        "[decide, verify, aggregate]",
        "[generate, decide, aggregate]",
        "[aggregate, generate, decide]",
    ],
)
def test_a_pipeline_that_does_not_decide_first_and_answer_last_is_refused(bench: Scripted, stages: str) -> None:
    names = stages.strip("[]").split(", ")
    text = f"{ONE}pipeline:\n" + "".join(f"  - use: {name}\n" for name in names)

    with pytest.raises(ConfigError, match="must begin with `decide`, hold `generate`, and end with") as caught:
        bench.pipeline(text)

    assert caught.value.where is not None
    assert caught.value.where.endswith("experts.yaml:5 (pipeline)")
    assert caught.value.remedy is not None and ", ".join(names) in caught.value.what


@pytest.mark.parametrize(
    ("option", "meant"), [("router: skil", "no router is called 'skil'"), ("policy: fix", "no policy is called 'fix'")]
)
def test_a_misspelt_option_is_told_with_its_line_before_anything_is_asked(
    bench: Scripted, option: str, meant: str
) -> None:
    name = option.partition(":")[0]
    text = (
        f"{ONE}pipeline:\n  - use: decide\n    options:\n      k: 1\n      {option}\n  - use: generate\n"
        "  - use: aggregate\n"
    )

    with pytest.raises(ConfigError, match=meant) as caught:
        bench.pipeline(text)

    assert caught.value.where is not None
    assert caught.value.where.endswith(f"experts.yaml:9 (pipeline[0].options.{name})")
    assert "did you mean" in str(caught.value)


@pytest.mark.parametrize(
    ("lines", "at", "what", "remedy"),
    [
        (["select: top-o"], "select", "no rule is called 'top-o'", "did you mean `top-p`?"),
        (["select: {use: top-p, pp: 0.5}"], "select.pp", "unknown key `pp`", "did you mean `p`?"),
        (["select:", "  use: top-p", "  p: 1.5"], "select.p", "less than or equal to 1", "write a number"),
        (["select: relu-gate"], "select.threshold", "`threshold` is missing", "add `threshold:`"),
        (["select: {use: relu-gate, calls: 2.0}"], "select.calls", "unknown key `calls`", "threshold"),
        (["select: {use: balanced, capacity: {law: lots}}"], "select.capacity.law", "found 'lots'", "a number"),
        (["select: {p: 0.5}"], "select", "`use` names no rule", "known: balanced, group-limited, null-arm"),
        (["select: [top-p]"], "select", "found a list of 1, expected text or a mapping", "write text or a mapping"),
        (["select: top-p", "k: 2"], "k", "`k` is short for `select: {use: top-k, k: 2}`", "write it into `select`"),
        (["k: 0"], "k", "greater than or equal to 1", "write a number"),
    ],
    ids=lambda value: "; ".join(value) if isinstance(value, list) else None,
)
def test_a_rule_that_cannot_be_used_is_told_with_its_line(
    bench: Scripted, lines: list[str], at: str, what: str, remedy: str
) -> None:
    own = "".join(f"      {line}\n" for line in lines)
    text = f"{ONE}pipeline:\n  - use: decide\n    options:\n{own}  - use: generate\n  - use: aggregate\n"

    with pytest.raises(ConfigError) as caught:
        bench.pipeline(text)

    assert str(caught.value.where).endswith(f"experts.yaml:{7 + len(lines)} (pipeline[0].options.{at})")
    assert what in caught.value.what
    assert remedy in str(caught.value.remedy)


def test_an_expert_of_formulas_needs_what_compares_them_and_is_told_so_with_its_line(
    bench: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("composer.answers.equal.find_spec", lambda name: None)
    text = f"{ONE}  sums:\n    model: small\n    answers: math\n"

    with pytest.raises(ConfigError, match="needs the package math-verify") as caught:
        bench.pipeline(text)

    assert str(caught.value.where).endswith("experts.yaml:7 (experts.sums.answers)")
    assert "[math]" in str(caught.value.remedy)


# Who routes


def test_a_registry_of_one_expert_needs_no_encoder_and_no_profile(bench: Scripted) -> None:
    pipeline = bench.pipeline(ONE)

    [route] = pipeline.route(["What is 2 + 2?"])
    [answer] = pipeline.run(["What is 2 + 2?"])

    assert (route.arms, route.scores, answer.text) == (("general",), {"general": 1.0}, "general on 0")
    assert route.reason.fallback == "it is the only expert"
    assert bench.encoded == [] and bench.said == []


def test_without_any_record_the_generalist_answers_and_nothing_is_embedded(bench: Scripted) -> None:
    pipeline = bench.pipeline(THREE.partition("encoder:")[0])

    [answer] = pipeline.run([SUM])

    assert (answer.text, bench.encoded) == ("general on 0", [])
    assert bench.said == [
        "no expert has a record: general is asked everything until `coe profile` has measured them",
    ]


def test_a_profile_without_the_encoder_it_needs_is_refused_with_its_line(bench: Scripted) -> None:
    pipeline = bench.pipeline(THREE.partition("encoder:")[0] + "profile: default:profile\n")

    with pytest.raises(ConfigError, match="the registry names none") as caught:
        pipeline.route([SUM])

    assert caught.value.where is not None and caught.value.where.endswith("experts.yaml:7 (profile)")
    assert caught.value.remedy is not None and "copy the `encoder:` block" in caught.value.remedy


def test_measured_experts_get_what_they_are_good_at(bench: Scripted) -> None:
    measure(bench, THREE)

    routes = bench.pipeline(THREE).route([SUM, "which paragraph of the law is 7", FACT])

    assert [route.arms for route in routes] == [("sums",), ("law",), ("general",)]
    assert bench.said == []


def test_a_generalist_without_a_record_gets_what_is_nobodys_skill(bench: Scripted) -> None:
    measure(bench, THREE)

    routes = bench.pipeline(THREE.replace("general: {model", "general: {system: Be brief., model")).route([SUM, FACT])

    assert [route.arms for route in routes] == [("sums",), ("general",)]
    assert routes[0].scores.keys() == {"general", "sums", "law"}
    assert "the records of general are of other weights or settings" in bench.said[0]
    assert bench.said[1:] == [
        "no record of general: it gets only what is nobody's skill until `coe profile` has measured it"
    ]


def test_another_expert_without_a_record_stays_out(bench: Scripted) -> None:
    measure(bench, THREE)

    [route] = bench.pipeline(THREE.replace("  law:", "  poet: {model: small, system: Rhyme.}\n  law:")).route([SUM])

    assert route.scores.keys() == {"general", "sums", "law"}
    assert bench.said == ["no record of poet: never chosen until `coe profile` has measured them"]


def test_where_the_generalist_alone_has_a_record_it_is_asked(bench: Scripted) -> None:
    measure(bench, ONE + THREE.removeprefix(ONE)[THREE.removeprefix(ONE).index("encoder:") :])
    bench.encoded.clear()

    [route] = bench.pipeline(THREE).route([SUM])

    assert (route.arms, route.reason.fallback) == (("general",), "no other expert has a record yet")
    assert bench.encoded == []


def test_the_registry_says_which_rule_chooses(bench: Scripted) -> None:
    measure(bench, THREE)
    stages = (
        "pipeline:\n  - {use: decide, options: {select: {use: top-p, p: 0.9}}}\n  - use: generate\n  - use: aggregate\n"
    )

    pipeline = bench.pipeline(THREE + stages)
    [route] = pipeline.route([SUM])
    [answer] = pipeline.run([SUM])

    assert len(route.arms) > 1 and route.arms[0] == "sums"
    assert answer.experts == route.arms
    assert route.reason.note == "chosen by top-p"
    assert why(route).endswith(", chosen by top-p")


# What is open when


def test_every_run_of_its_own_loop_closes_what_it_opened(bench: Scripted) -> None:
    pipeline = bench.pipeline(ONE)

    first = asyncio.run(pipeline.arun(["one"]))
    second = asyncio.run(pipeline.arun(["two"]))

    assert [answer.text for answer in (*first, *second)] == ["general on 0"] * 2
    assert [engine.closes for engine in bench.engines] == [1, 1]


def test_a_stream_closes_what_it_opened_also_when_nobody_reads_on(bench: Scripted) -> None:
    pipeline = bench.pipeline(ONE)
    bench.delay = 0.01

    async def until_the_first_draft() -> list[Event]:
        seen: list[Event] = []
        events = pipeline.stream(["one", "two"])
        async for event in events:
            seen.append(event)
            if isinstance(event, Drafted):
                break
        await events.aclose()  # type: ignore[attr-defined]
        assert [engine.closes for engine in bench.engines] == [1]
        return seen

    async def all_events() -> list[Event]:
        return [event async for event in pipeline.stream(["one"])]

    assert [type(event) for event in asyncio.run(until_the_first_draft())] == [Routed, Routed, Planned, Drafted]
    assert [type(event) for event in asyncio.run(all_events())] == [Routed, Drafted, Answered]
    assert all(engine.closes == 1 for engine in bench.engines)


async def test_inside_a_context_hosts_stay_open_until_its_end(bench: Scripted) -> None:
    async with bench.pipeline(ONE) as pipeline:
        await pipeline.arun(["one"])
        events = [event async for event in pipeline.stream(["two"])]

        assert [(len(engine.batches), engine.closes) for engine in bench.engines] == [(2, 0)]
    assert len(events) == 3
    assert [engine.closes for engine in bench.engines] == [1]


async def test_runs_side_by_side_share_their_host_and_the_last_one_closes_it(bench: Scripted) -> None:
    pipeline = bench.pipeline(ONE, lambda request: "done")
    bench.delay = 0.01

    batches = await asyncio.gather(pipeline.arun(["one"]), pipeline.arun([f"{i} things" for i in range(20)]))

    assert [answer.status for answers in batches for answer in answers] == ["ok"] * 21
    assert [engine.closes for engine in bench.engines] == [1]


async def test_a_failure_closes_what_was_opened(bench: Scripted) -> None:
    def broken(_: object) -> str:
        raise RuntimeError("a bug in the script")

    pipeline = bench.pipeline(ONE, broken)

    with pytest.raises(RuntimeError, match="a bug in the script"):
        await pipeline.arun(["one"])

    assert [engine.closes for engine in bench.engines] == [1]


async def test_streams_side_by_side_hear_their_own_run_and_nothing_else(bench: Scripted) -> None:
    pipeline = bench.pipeline(ONE)
    bench.delay = 0.01
    heard: list[Event] = []
    pipeline.listen(heard.append)

    async def stream(*texts: str) -> list[Event]:
        return [event async for event in pipeline.stream(texts)]

    one, three = await asyncio.gather(stream("only one"), stream("a", "b", "c"))
    [answer] = await pipeline.arun(["told to the listener"])

    assert [sum(isinstance(event, kind) for event in one) for kind in (Routed, Drafted, Answered)] == [1, 1, 1]
    assert [sum(isinstance(event, kind) for event in three) for kind in (Routed, Drafted, Answered)] == [3, 3, 3]
    assert [type(event) for event in heard] == [Routed, Drafted, Answered]
    assert isinstance(heard[-1], Answered) and heard[-1].trace_id == answer.trace_id


async def test_an_error_of_a_streamed_run_reaches_its_reader(bench: Scripted) -> None:
    with pytest.raises(InputError, match="the question is empty"):
        async for _ in bench.pipeline(ONE).stream([" "]):
            pass


def test_several_runs_inside_with_use_one_host(bench: Scripted) -> None:
    with bench.pipeline(ONE) as pipeline:
        pipeline.run(["one"])
        pipeline.run(["two"])
    pipeline.run(["three"])

    assert [(len(engine.batches), engine.closes) for engine in bench.engines] == [(2, 1), (1, 1)]


def test_the_packaged_pipeline_is_made_without_opening_anything() -> None:
    settings = load_settings(packaged_registry())

    pipeline = Pipeline(settings)

    assert [step.use for step in settings.pipeline] == ["decide", "generate", "verify", "aggregate"]
    assert pipeline.memory == settings.memory
    with pytest.raises(ConfigError, match="the pipeline is empty"):
        Pipeline(replace(settings, pipeline=()))


def test_ctrl_c_does_not_wait_for_a_download(bench: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    pieces = 0

    def fetch(*_: object, name: str, progress: Progress, **__: object) -> Path:
        nonlocal pieces
        for pieces in range(1, 2001):
            if pieces == 3:
                os.kill(os.getpid(), signal.SIGINT)
            progress(name, pieces, 2000)
            time.sleep(0.01)
        raise AssertionError("the download went on to its end")

    monkeypatch.setattr("composer.registry.experts.fetch", fetch)
    pipeline = bench.pipeline(ONE)

    with pytest.raises(KeyboardInterrupt):
        pipeline.run(["one"])

    assert 3 <= pieces < 1000
