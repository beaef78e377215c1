"""The gate in the pipeline: which of an expert's arms answers, what it looks at, and what is told of it."""

from __future__ import annotations

import asyncio
import json
import math
from pathlib import Path

import numpy as np
import pytest

from composer.budget import Budget, Limits
from composer.errors import ConfigError, InputError
from composer.pipeline import Pipeline
from composer.places import gates_folder
from composer.retrieval.build import build
from composer.retrieval.choosing import BothWays, Costs, fit_all
from composer.retrieval.gate import Signals
from composer.retrieval.index import PassageIndex
from composer.retrieval.records import GateRecord, read_records, write_records
from composer.running.batch import run_file
from composer.show import drafts_text
from composer.state import Query, State
from composer.trace import Drafted
from composer.traced import trace_of
from composer.types import Draft, Request, TokenLogprob, Usage
from routers.testing import HashEncoder
from tests.composer.scripted import THREE, Scripted

COVERED = ("valve", "pump", "rudder", "kettle")
OPEN = ("moon", "desert", "violin", "glacier")


def registry(gate: str = "auto", value: float = 10.0, k: int = 1, arms: str = "[general]") -> str:
    return (
        f"{THREE}evidence:\n  notes: {{index: ./notes, k: 2, experts: {arms}}}\n"
        f"pipeline:\n  - {{use: decide, options: {{k: {k}}}}}\n"
        f"  - {{use: retrieve, options: {{gate: {gate}, value: {value}}}}}\n"
        "  - use: generate\n  - use: verify\n  - use: aggregate\n"
    )


def question(word: str, number: int = 0) -> str:
    return f"How does the {word} number {number} behave?"


@pytest.fixture
def scripted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scripted:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    source = tmp_path / "sources"
    source.mkdir()
    for word in COVERED:
        (source / f"{word}.txt").write_text(f"The {word} behaves as it was told.", encoding="utf-8")
    build(source, tmp_path / "project" / "notes", HashEncoder(), lambda texts: [[len(text)] for text in texts])
    return Scripted(tmp_path, monkeypatch)


def install(pipeline: Pipeline, chosen: str = "worth", drafts: bool = False, cost: float = 4.0) -> None:
    """Gates fitted on questions of which reading helps with those that the notes cover."""
    words = [word for word in (*COVERED, *OPEN) for _ in range(10)]
    texts = [question(word, place) for place, word in enumerate(words)]
    covered = np.array([word in COVERED for word in words], dtype=float)
    vectors = HashEncoder().encode(texts)
    with PassageIndex.open(pipeline.settings.reading[0].evidence.index, HashEncoder()) as index:  # type: ignore[union-attr]
        close = index.closeness(texts, vectors)
    signals = Signals(
        np.array([len(text) for text in texts], dtype=float),
        entropy=covered if drafts else None,
        margin=1 - covered if drafts else None,
        confidence=-covered if drafts else None,
        top=close.top.astype(float),
        gap=close.gap.astype(float),
        near=close.near.astype(float),
        overlap=None if close.overlap is None else close.overlap.astype(float),
        vectors=vectors.astype(float),
    )
    gates = fit_all(BothWays(signals, np.zeros(len(words)), covered))
    prints = pipeline.registry.prints()
    own = (prints["general"], prints["general+notes"])
    record = GateRecord("general+notes", "general", chosen, gates, Costs(cost), 0.5, 10.0, own)
    write_records(gates_folder(pipeline.registry), {record.arm: record}, encoder=pipeline.registry.encoder_sha)


def ask(pipeline: Pipeline, *words: str) -> State:
    return asyncio.run(pipeline.astate([Query(word, question(word)) for word in words]))


def asked(state: State) -> list[tuple[str, ...]]:
    return [tuple(reply.arm for reply in own) for own in state.replies]


def test_it_reads_where_that_is_worth_more_than_it_costs(scripted: Scripted) -> None:
    pipeline = scripted.pipeline(registry())
    install(pipeline)
    state = ask(pipeline, "valve", "moon", "kettle", "glacier")
    assert asked(state) == [("general+notes",), ("general",), ("general+notes",), ("general",)]
    assert state.asked == tuple(asked(state))
    assert [bool(own) for own in state.evidence] == [True, False, True, False]
    opened, closed = (trace_of(state, row)["drafts"][0]["gate"] for row in (0, 1))
    assert {**opened, "gain": 0} == {"gate": "worth", "chose": "general+notes", "gain": 0, "cost": 4.0, "value": 10.0}
    assert opened["gain"] > 0.4 > closed["gain"]
    assert closed["chose"] == "general"
    assert trace_of(state, 0)["route"]["chosen"] == ["general+notes"]


def test_where_a_right_answer_is_worth_less_than_reading_nobody_reads(scripted: Scripted) -> None:
    pipeline = scripted.pipeline(registry(value=3.9))
    install(pipeline)
    assert asked(ask(pipeline, "valve", "moon")) == [("general",), ("general",)]


@pytest.mark.parametrize(("gate", "arm"), [("never", "general"), ("always", "general+notes")])
def test_never_and_always_need_no_fitting(scripted: Scripted, gate: str, arm: str) -> None:
    pipeline = scripted.pipeline(registry(gate))
    assert asked(ask(pipeline, "valve", "moon")) == [(arm,), (arm,)]
    assert not [text for text in scripted.said if "gate" in text]


def test_another_gate_than_the_chosen_one_can_be_named(scripted: Scripted) -> None:
    pipeline = scripted.pipeline(registry("neighbours"))
    install(pipeline, chosen="never")
    assert asked(ask(pipeline, "valve", "moon")) == [("general+notes",), ("general",)]


def test_without_fitted_gates_arms_are_asked_as_chosen_and_the_user_is_told(scripted: Scripted) -> None:
    pipeline = scripted.pipeline(registry())
    state = ask(pipeline, "valve")
    assert asked(state) == [("general",)]
    assert state.gated == ({},)
    assert [text for text in scripted.said if "no gate is fitted" in text and "coe fit gate" in text]


def test_gates_of_an_arm_that_has_changed_are_left_out(scripted: Scripted) -> None:
    install(scripted.pipeline(registry()))
    changed = scripted.pipeline(registry().replace("k: 2", "k: 1"))
    assert asked(ask(changed, "valve")) == [("general",)]
    assert [text for text in scripted.said if "general+notes" in text and "left out" in text]


def test_where_both_arms_of_an_expert_are_wanted_both_are_asked(scripted: Scripted) -> None:
    pipeline = scripted.pipeline(registry(k=4))
    install(pipeline)
    assert set(asked(ask(pipeline, "moon"))[0]) == {"general", "sums", "law", "general+notes"}


def test_who_names_an_expert_gets_it(scripted: Scripted) -> None:
    pipeline = scripted.pipeline(registry())
    install(pipeline)
    state = asyncio.run(pipeline.astate([Query("q", question("valve"))], by="general"))
    assert asked(state) == [("general",)]


def test_a_gate_may_look_at_drafts_which_are_charged_as_probes(scripted: Scripted) -> None:
    def answer(request: Request) -> Draft:
        sure = "moon" in (request.parent or "")
        if request.sampling.logprobs:
            best = TokenLogprob(
                "x", math.log(0.9 if sure else 0.4), (("x", math.log(0.9 if sure else 0.4)), ("y", -3.0))
            )
            return Draft("", "x", "stop", Usage(5, 1), logprobs=(best,))
        return Draft("", "same" if sure else f"other {request.sample}", "stop", Usage(5, 1))

    heard: list[Drafted] = []
    pipeline = scripted.pipeline(registry("entropy"), answer)
    install(pipeline, drafts=True)
    pipeline.listen(lambda event: heard.append(event) if isinstance(event, Drafted) else None)
    assert asked(ask(pipeline, "valve", "moon")) == [("general+notes",), ("general",)]
    assert sorted((event.role, event.id, event.sample) for event in heard) == [
        ("draft", "moon", 0),
        ("draft", "valve", 0),
        *[("probe", word, sample) for word in ("moon", "valve") for sample in (1, 2, 3)],
    ]
    pipeline = scripted.pipeline(registry("margin"), answer)
    assert asked(ask(pipeline, "valve", "moon")) == [("general+notes",), ("general",)]


def test_without_log_probabilities_a_gate_falls_back_to_what_reading_adds_on_average(scripted: Scripted) -> None:
    pipeline = scripted.pipeline(registry("confidence", value=8.1))
    install(pipeline, drafts=True)
    state = ask(pipeline, "valve", "moon")
    assert asked(state) == [("general+notes",), ("general+notes",)]
    assert [own["general+notes"].gain for own in state.gated] == [0.5, 0.5]


def test_an_index_that_fails_later_is_told_where_it_would_have_been_read(
    scripted: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = scripted.pipeline(registry(value=100.0))
    install(pipeline)

    def broken(*_: object, **__: object) -> None:
        raise OSError("the disk is gone")

    for name in ("search", "closeness"):
        monkeypatch.setattr(PassageIndex, name, broken)
    (answer,) = ask(pipeline, "moon").answers
    assert answer.chosen == "general+notes"
    assert "retrieval: unavailable" in answer.marks


def test_a_misspelt_gate_is_told_with_its_line(scripted: Scripted) -> None:
    with pytest.raises(ConfigError, match=r"no gate is called 'wort'") as told:
        scripted.pipeline(registry("wort"))
    assert "experts.yaml:" in (told.value.where or "")


def test_records_of_another_encoder_are_refused(scripted: Scripted) -> None:
    pipeline = scripted.pipeline(registry())
    install(pipeline)
    with pytest.raises(InputError, match="coe fit gate"):
        read_records(gates_folder(pipeline.registry), pipeline.registry.prints(), encoder="f" * 64)


def test_people_are_told_what_was_read_and_why(scripted: Scripted) -> None:
    pipeline = scripted.pipeline(registry(), lambda _: "as told [1]")
    install(pipeline)
    state = ask(pipeline, "valve", "moon")
    opened, closed = (drafts_text(trace_of(state, row)) for row in (0, 1))
    assert "\nread     valve.txt#0 (cited)" in opened
    assert "\ngate     worth: reading adds +" in opened
    assert "costs 4.00 s; a right answer is worth 10 s" in closed
    assert "\nread " not in closed


@pytest.mark.parametrize("calls", [1, 4, 7])
def test_a_run_that_is_cut_while_a_gate_looks_goes_on_to_the_same_answers(
    scripted: Scripted, tmp_path: Path, calls: int
) -> None:
    def answer(request: Request) -> str:
        read = "+" if "behaves as it was told" in str(request.streams[0].prompt) else "-"
        return "same" if "moon" in (request.parent or "") else f"{request.sample}{read}"

    source = tmp_path / "in.jsonl"
    rows = [json.dumps({"id": word, "question": question(word)}) for word in ("valve", "moon", "kettle")]
    source.write_text("\n".join(rows), encoding="utf-8")

    def made() -> Pipeline:
        pipeline = scripted.pipeline(registry("entropy"), answer)
        install(pipeline, drafts=True)
        return pipeline

    out = tmp_path / "out.jsonl"
    assert run_file(made(), source, out, budget=Budget(Limits(calls=calls))).stopped
    summary = run_file(made(), source, out)
    assert not summary.stopped
    found = {row["id"]: row["experts"] for row in map(json.loads, out.read_text().splitlines())}
    assert found == {"valve": ["general+notes"], "moon": ["general"], "kettle": ["general+notes"]}
    asked = sum(len(batch) for engine in scripted.engines for batch in engine.batches)
    assert asked == 3 * (3 + 1), "what a cut run has asked is asked of nobody again"
