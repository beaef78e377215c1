"""Arms with a contrast: who is taken off, what is asked, what is refused before anything is opened."""

from __future__ import annotations

import asyncio
import hashlib
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from composer.errors import ConfigError
from composer.pipeline import Pipeline
from composer.retrieval.build import build
from composer.running.batch import _fits, run_file
from composer.running.forecasting import preview_file
from composer.running.progress import Tally, watch
from composer.serving import served_by
from composer.stages.partnering import contrasted
from composer.state import Query, State
from composer.traced import trace_of
from composer.types import Caps, Mix, Request
from routers.testing import HashEncoder
from tests.composer.scripted import Scripted

CAN = Caps(slots=8, contrast=True, beside=True)
REMOTE = "{engine: openai, options: {url: 'http://127.0.0.1:9', model: m}}"
ADAPTER = hashlib.sha256(b"adapter").hexdigest()
EXPERTS = (
    f"models:\n  small: {REMOTE}\n  tiny: {REMOTE}\nexperts:\n  general: {{model: small}}\n"
    + "".join(
        f"  {name}: {{model: small, adapter: {{path: a.gguf, sha256: {ADAPTER}}}, system: {name.title()}.}}\n"
        for name in ("sums", "law", "units")
    )
    + "  mini: {model: tiny, system: Mini.}\n"
    f"encoder: {{sources: [encoder.onnx], sha256: {'e' * 64}, tokenizer: tokenizer.json}}\n"
)
ASKED = "What is 2 + 2?"


def registry(contrasts: str, more: str = "") -> str:
    return f"{EXPERTS}{more}contrasts:\n  c: {{{contrasts}}}\n"


class Seen:
    """A script that keeps the requests."""

    def __init__(self) -> None:
        self.asked: list[Request] = []

    def __call__(self, request: Request) -> str:
        self.asked.append(request)
        return "4"


@pytest.fixture
def scripted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scripted:
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "a.gguf").write_bytes(b"adapter")
    scripted = Scripted(tmp_path, monkeypatch)
    scripted.caps = CAN
    return scripted


def one(scripted: Scripted, text: str, arm: str, question: str = ASKED) -> tuple[Request, State]:
    seen = Seen()
    state = asyncio.run(scripted.pipeline(text, seen).astate([Query("q", question)], by=arm))
    [request] = seen.asked
    return request, state


def told(state: State) -> dict[str, object]:
    [draft] = trace_of(state, 0)["drafts"]
    found: dict[str, object] = draft["contrast"]
    return found


def systems(request: Request) -> list[str]:
    return [turns[0].content for stream in request.streams if not isinstance(turns := stream.prompt, str)]


def test_an_adapter_against_its_base(scripted: Scripted) -> None:
    request, state = one(scripted, registry("against: base, beta: 0.7, alpha: 0.2"), "sums~c")
    strong, weak = request.streams
    assert (strong.adapter, weak.adapter, strong.weight, weak.weight) == ("sums", None, 1.7, -0.7)
    assert (strong.prompt, strong.base, weak.base) == (weak.prompt, None, None)
    assert request.mix == Mix("logit", 0.2)
    assert told(state) == {"partner": "base", "chosen": "named", "beta": 0.7, "alpha": 0.2, "why": ""}
    assert state.answers[0].text == "4"


def test_inside_one_model_the_weak_routing_is_a_stream_of_its_own(scripted: Scripted) -> None:
    scripted.caps = replace(CAN, level="hooks")
    request, state = one(scripted, registry("against: weak, arms: [general]"), "general~c")
    assert [stream.routing for stream in request.streams] == [None, "weak"]
    assert request.streams[0].prompt == request.streams[1].prompt
    assert told(state)["partner"] == "weak"


def test_an_adapter_against_one_that_is_named_each_with_its_own_prompt(scripted: Scripted) -> None:
    request, _ = one(scripted, registry("against: law, arms: [sums]"), "sums~c")
    assert [stream.adapter for stream in request.streams] == ["sums", "law"]
    assert systems(request) == ["Sums.", "Law."]


def test_a_large_model_against_a_small_one_is_one_host_of_both(scripted: Scripted) -> None:
    request, _ = one(scripted, registry("against: mini"), "sums~c")
    assert [(stream.expert, stream.base) for stream in request.streams] == [("sums", None), ("mini", "tiny")]
    opened = [engine.opens[0] for engine in scripted.engines if engine.opens]
    assert [(host.name, [adapter.name for adapter in host.adapters]) for host in opened] == [("small&tiny", ["sums"])]
    assert [beside.name for beside in opened[0].beside] == ["tiny"]


@pytest.mark.parametrize("caps", [CAN, replace(CAN, adapters="live", mixed_adapters=True)], ids=["fixed", "live"])
def test_a_partner_that_is_an_adapter_on_another_base_comes_with_it(scripted: Scripted, caps: Caps) -> None:
    scripted.caps = caps
    tuned = f"  mini: {{model: tiny, adapter: {{path: a.gguf, sha256: {ADAPTER}}}, system: Mini.}}\n"
    text = registry("against: mini").replace("  mini: {model: tiny, system: Mini.}\n", tuned)
    request, _ = one(scripted, text, "sums~c")
    assert [(stream.adapter, stream.base) for stream in request.streams] == [("sums", None), ("mini", "tiny")]
    pipeline = scripted.pipeline(text)
    state = asyncio.run(asyncio.wait_for(pipeline.astate([Query("r", "And 3 + 4?")], by="units~c"), 20))
    assert state.answers[0].status == "ok"
    [host] = [engine.opens[-1] for engine in scripted.engines if engine.opens][-1:]
    assert [adapter.name for beside in host.beside for adapter in beside.adapters] == ["mini"]


@pytest.mark.parametrize(("low", "high"), [("law", "units"), ("units", "law")])
def test_the_unchosen_is_whom_the_router_ranks_last_of_those_who_are_not_asked(
    scripted: Scripted, low: str, high: str
) -> None:
    registry_ = scripted.pipeline(registry("against: unchosen")).registry
    arms = tuple(arm.name for arm in registry_.arms())
    assert arms == (
        "general",
        "sums",
        "law",
        "units",
        "mini",
    )  # nobody has measured a contrast: routers choose from these
    scores = {"general": -5.0, "sums": -9.0, low: 0.1, high: 0.9, "mini": -7.0}
    state = State.of((Query("q", ASKED),)).apply({"arms": arms, "scores": np.array([[scores[arm] for arm in arms]])})
    for asked, partner in ((("sums~c",), low), (("sums~c", low), high), (("sums~c", low, "mini"), high)):
        found = contrasted(registry_, state.apply({"asked": (asked,)}), 0, "sums~c")
        assert found is not None
        assert (found.partner, found.chosen) == (partner, "ranked last")


def test_where_nobody_ranked_them_one_is_drawn_and_it_says_so(scripted: Scripted) -> None:
    request, state = one(scripted, registry("against: unchosen"), "sums~c")
    assert request.streams[1].adapter in ("law", "units")
    assert told(state)["chosen"] == "random, as nobody ranked the experts"


def test_a_random_partner_is_the_same_for_the_same_question_and_not_for_all(scripted: Scripted) -> None:
    text = registry("against: random")
    partners = [one(scripted, text, "sums~c", f"What is {n} + 2?")[0].streams[1].adapter for n in range(12)]
    scripted.folder = scripted.folder / "again"  # another store
    scripted.folder.mkdir()
    (scripted.folder / "project").mkdir()
    (scripted.folder / "project" / "a.gguf").write_bytes(b"adapter")
    again = [one(scripted, text, "sums~c", f"What is {n} + 2?")[0].streams[1].adapter for n in range(12)]
    assert partners == again
    assert set(partners) == {"law", "units"}


def test_with_passages_against_without(scripted: Scripted, tmp_path: Path) -> None:
    source, place = tmp_path / "texts", tmp_path / "project" / "index"
    source.mkdir()
    (source / "a.txt").write_text("Two and two is four.", encoding="utf-8")
    build(source, place, HashEncoder(), lambda texts: [[len(text)] for text in texts])
    more = (
        "evidence:\n  book: {index: ./index, experts: [general]}\npipeline: [{use: decide}, {use: retrieve}, "
        "{use: generate}, {use: verify}, {use: aggregate}]\n"
    )
    request, state = one(scripted, registry("against: unread", more), "general+book~c")
    strong, weak = (stream.prompt[-1].content for stream in request.streams if not isinstance(stream.prompt, str))
    assert "Two and two is four." in strong
    assert weak == ASKED
    [draft] = trace_of(state, 0)["drafts"]
    assert (draft["evidence"]["used"], draft["contrast"]["partner"]) == (["a.txt#0"], "unread")


def test_contrasted_and_plain_arms_are_asked_in_one_batch_and_known_apart(scripted: Scripted) -> None:
    seen = Seen()
    pipeline = scripted.pipeline(registry("against: base"), seen)
    for arm in ("sums", "sums~c", "sums~c"):
        asyncio.run(pipeline.astate([Query("q", ASKED)], by=arm))
    assert [len(request.streams) for request in seen.asked] == [1, 2]  # the third is in the store


def test_a_record_is_lost_when_the_partner_or_the_numbers_change(scripted: Scripted) -> None:
    def print_of(contrasts: str, experts: str = EXPERTS) -> str:
        text = f"{experts}contrasts:\n  c: {{{contrasts}}}\n"
        return scripted.pipeline(text).registry.prints()["sums~c"]

    first = print_of("against: base")
    assert first == print_of("against: base, beta: 0.5")
    assert first != print_of("against: base, beta: 0.6")
    assert print_of("against: law") != print_of("against: law", EXPERTS.replace("Law.", "Judge."))
    assert print_of("against: random") != print_of("against: random", EXPERTS.replace("Units.", "Metres."))


@pytest.mark.parametrize(
    ("contrasts", "words"),
    [
        ("against: nobody", "no expert is called 'nobody'"),
        ("against: base, arms: [sum]", "no arm is called 'sum'"),
        ("against: base, arms: [general]", "general has no adapter, so it is its base"),
        ("against: unread", "general, for one, reads nothing"),
        ("against: random, arms: [mini]", "mini has no other expert with an adapter on tiny"),
        ("against: sums, arms: [sums]", "would be contrasted with itself"),
        ("against: base, alpha: 2", "alpha"),
        ("against: base, beta: -1", "beta"),
    ],
)
def test_what_cannot_be_is_refused_by_its_line(scripted: Scripted, contrasts: str, words: str) -> None:
    with pytest.raises(ConfigError) as refused:
        scripted.pipeline(registry(contrasts))
    assert words in str(refused.value)
    assert "experts.yaml:" in (refused.value.where or "")


@pytest.mark.parametrize(
    ("caps", "contrasts", "words"),
    [
        (Caps(slots=8), "against: base", "decodes no streams together"),
        (Caps(slots=8, contrast=True), "against: mini, arms: [sums]", "opens no second base"),
        (CAN, "against: weak, arms: [general]", "reaches no experts inside small"),
    ],
)
def test_an_engine_that_cannot_says_so_before_anything_is_opened(
    scripted: Scripted, caps: Caps, contrasts: str, words: str
) -> None:
    scripted.caps = caps
    with pytest.raises(ConfigError, match=words) as refused:
        scripted.pipeline(registry(contrasts))
    assert "(contrasts.c)" in (refused.value.where or "")
    assert not any(engine.opens for engine in scripted.engines)


def test_a_request_that_reaches_the_pool_all_the_same_opens_no_host(scripted: Scripted) -> None:
    seen = Seen()
    pipeline = scripted.pipeline(registry("against: base"), seen)
    scripted.caps = Caps(slots=8)
    state = asyncio.run(pipeline.astate([Query("q", ASKED)], by="sums~c"))
    error = state.replies[0][0].draft.error
    assert error is not None
    assert (error.kind, seen.asked) == ("unsupported", [])
    assert not any(engine.opens for engine in scripted.engines)


def test_an_engine_is_made_once_to_ask_what_it_can(scripted: Scripted) -> None:
    pipeline = scripted.pipeline(registry("against: base"))
    made = len(scripted.engines)  # one for the arms of all contrasts, which are of one model
    asyncio.run(pipeline.astate([Query(str(n), f"What is {n} + 2?") for n in range(5)], by="sums~c"))
    assert (made, len(scripted.engines) - made) == (1, 2)  # one more to ask, and one that is opened


def test_bases_of_other_options_are_refused(scripted: Scripted) -> None:
    text = registry("against: mini, arms: [sums]").replace("model: m}}\nexperts", "model: other}}\nexperts")
    with pytest.raises(ConfigError, match="`options` differ"):
        scripted.pipeline(text)


def test_a_contrast_after_the_drafts_is_refused(scripted: Scripted) -> None:
    steps = "pipeline: [{use: decide}, {use: generate}, {use: contrast}, {use: verify}, {use: aggregate}]\n"
    with pytest.raises(ConfigError, match="is contrasted no more"):
        scripted.pipeline(registry("against: base") + steps)


def test_a_file_is_foretold_as_it_will_be_asked(scripted: Scripted, tmp_path: Path) -> None:
    steps = "pipeline: [{use: decide}, {use: contrast, options: {use: c}}, {use: generate}, {use: verify}, {use: aggregate}]\n"
    text = registry("against: mini, arms: [general]") + steps
    source = tmp_path / "q.jsonl"
    source.write_text('{"id": "1", "question": "What is 2 + 2?"}\n')
    before = preview_file(scripted.pipeline(text), source).forecast
    asyncio.run(scripted.pipeline(text).astate([Query("1", ASKED)]))
    after = preview_file(scripted.pipeline(text), source).forecast
    assert [step.host for step in before.steps] == ["small&tiny"]
    assert (before.calls, before.stored, after.calls, after.stored) == ({"general": 1}, {}, {}, {"general": 1})


@pytest.mark.parametrize("word", ["--speculative-config", "--speculative_config.method", "-sc", "--spec-model"])
def test_a_vllm_that_speculates_is_refused_before_anything_is_loaded(tmp_path: Path, word: str) -> None:
    (tmp_path / "a.gguf").write_bytes(b"adapter")
    experts = EXPERTS[EXPERTS.index("experts:") :].replace("  mini: {model: tiny, system: Mini.}\n", "")

    def pipeline(arguments: str) -> Pipeline:
        model = f"sources: [./m], engine: vllm, options: {{in_process: true, arguments: '{arguments}'}}"
        text = f"models:\n  small: {{{model}, sha256: {'a' * 64}, memory: 1MiB}}\n{experts}contrasts:\n  c: {{against: base}}\n"
        (tmp_path / "experts.yaml").write_text(text)
        return Pipeline.from_file(tmp_path / "experts.yaml")

    assert pipeline("--max-num-seqs 8").settings.contrasting
    with pytest.raises(ConfigError, match="combines no streams while it speculates"):
        pipeline(f"{word}=x")


def test_progress_counts_a_draft_of_two_bases_under_their_host(
    scripted: Scripted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = "pipeline: [{use: decide}, {use: contrast, options: {use: c}}, {use: generate}, {use: verify}, {use: aggregate}]\n"
    text, source = registry("against: mini, arms: [general]") + steps, tmp_path / "q.jsonl"
    source.write_text('{"id": "1", "question": "What is 2 + 2?"}\n')
    tallies: list[Tally] = []
    monkeypatch.setattr(
        "composer.running.progress.Tally", lambda host_of: tallies.append(Tally(host_of)) or tallies[-1]
    )
    monkeypatch.setattr("sys.stderr", io.StringIO())

    pipeline = scripted.pipeline(text)
    with watch(pipeline, "drafts", routed=True):
        run_file(pipeline, source, tmp_path / "out.jsonl")

    assert {host: (one.queued, one.done) for host, one in tallies[0].view().hosts.items()} == {"small&tiny": (0, 1)}
    [asked] = [served_by(pipeline.registry, arm) for arm in ("sums",)]
    assert (asked, served_by(pipeline.registry, "general~c")) == ("small", "small&tiny")
    with watch(scripted.pipeline(text), "drafts"):
        assert tallies[1].host_of("general") == "small"  # asked by its own name
    assert tallies[1].host_of("general~c") == "small&tiny"


def test_whether_all_hosts_fit_is_asked_of_both_bases(scripted: Scripted) -> None:
    local = "".join(
        f"  {name}: {{sources: [{name}.gguf], sha256: {letter * 64}, memory: 6MiB}}\n"
        for name, letter in (("small", "a"), ("tiny", "b"))
    )
    steps = "pipeline: [{use: decide}, {use: contrast, options: {use: c}}, {use: generate}, {use: verify}, {use: aggregate}]\n"
    text = registry("against: mini, arms: [general]").replace(EXPERTS[: EXPERTS.index("experts:")], f"models:\n{local}")

    def fits(more: str, limit: str) -> bool:
        pipeline = scripted.pipeline(f"memory: {limit}\n{text}{more}")
        with pipeline:
            return _fits(pipeline)

    assert (fits("", "16MiB"), fits(steps, "16MiB"), fits(steps, "64MiB")) == (True, False, True)


def test_what_llama_cpp_does_not_decode_is_refused_by_its_line(tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_bytes(b"adapter")
    local = f"models:\n  small: {{sources: [small.gguf], sha256: {'a' * 64}, memory: 1MiB}}\n"
    experts = EXPERTS[EXPERTS.index("experts:") :].replace("  mini: {model: tiny, system: Mini.}\n", "")
    for more, words in (("alpha: 0", "alpha above 0"), ("beta: 0.5", "")):
        (tmp_path / "experts.yaml").write_text(f"{local}{experts}contrasts:\n  c: {{against: base, {more}}}\n")
        if words:
            with pytest.raises(ConfigError, match=words):
                Pipeline.from_file(tmp_path / "experts.yaml")
        else:
            assert Pipeline.from_file(tmp_path / "experts.yaml").settings.contrasting
