"""Personas: who has them, for which intents the gate lets them through, and that nothing else ever does."""

from __future__ import annotations

import asyncio
import json
import threading
from pathlib import Path

import pytest

from composer.config import load_settings, packaged_registry
from composer.errors import ConfigError, InputError
from composer.fitting.personas import WeighedPersona, fit_personas
from composer.installed import installed_sha
from composer.intents import EXAMPLES, INTENTS, Intents
from composer.jsonl import read_questions
from composer.learning.graded import from_runs
from composer.pipeline import Pipeline
from composer.places import personas_folder
from composer.profile import find_profile
from composer.profiling import profile_file
from composer.records.personas import PersonaRecord, write_personas
from composer.running.forecasting import preview_file
from composer.show import drafts_text
from composer.state import Query, State
from composer.trace_page import trace_page
from composer.traced import trace_of
from composer.types import Draft, Failure, Request
from routers.embed import OnnxEncoder
from routers.testing import HashEncoder
from routers.types import Array
from tests.composer.registry_texts import Load
from tests.composer.scripted import THREE, Scripted

WARM = "Write in a warm tone."
REGISTRY = (
    THREE.replace(
        "general: {model: small}", f"general: {{model: small, system: Be brief., personas: {{warm: {WARM}}}}}"
    )
    + "pipeline:\n  - use: decide\n  - use: persona\n  - use: generate\n  - use: verify\n  - use: aggregate\n"
)


def system(request: Request) -> str:
    prompt = request.streams[0].prompt
    assert not isinstance(prompt, str)
    return "".join(turn.content for turn in prompt if turn.role == "system")


def text_of(request: Request) -> str:
    prompt = request.streams[0].prompt
    assert not isinstance(prompt, str)
    return prompt[-1].content


def answer(request: Request) -> str | Draft | Failure:
    """As itself it is right and dry. Warm it pleases every judge, and is wrong on two facts of five."""
    if request.role == "judge":
        asked = text_of(request)
        return "A" if asked.index("Dear") < asked.index("Dry") else "B"
    if WARM not in system(request):
        return "Dry, but ok."
    number = int(text_of(request).split("number ")[1].split()[0])
    wrong = text_of(request).startswith("What") and number % 5 < 2
    return "Dear reader, alas." if wrong else "Dear reader, ok."


@pytest.fixture
def scripted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scripted:
    return Scripted(tmp_path, monkeypatch)


def asked(intent: str, start: str, many: int = 40) -> list[str]:
    """Questions that are told to be of this intent."""
    told = Intents.read(HashEncoder().encode, "")
    texts = [f"{own} number {n}" for n in range(6) for own, label in examples() if label == intent]
    texts = [text for text in texts if text.startswith(start)]
    found = [text for text, label in zip(texts, told.of(HashEncoder().encode(texts)), strict=True) if label == intent]
    assert len(found) >= many
    return found[:many]


def examples() -> list[tuple[str, str]]:
    return [(row["question"], row["intent"]) for row in map(json.loads, EXAMPLES.read_text().splitlines())]


def labelled(tmp_path: Path, many: int = 40) -> Path:
    place = tmp_path / "labelled.jsonl"
    texts = [*asked("generative", "Write", many), *asked("factual", "What", many)]
    rows = [{"id": str(n), "question": text, "answer": "ok", "kind": "text"} for n, text in enumerate(texts)]
    place.write_text("\n".join(map(json.dumps, rows)))
    return place


def fitted(scripted: Scripted, tmp_path: Path, judge: str | None = "law", many: int = 40) -> dict[str, PersonaRecord]:
    profile_file(scripted.pipeline(REGISTRY, answer), labelled(tmp_path, many), None, only=["general", "general!warm"])
    pipeline = scripted.pipeline(REGISTRY, answer)
    [found] = fit_personas(pipeline, find_profile(pipeline.registry)[0], judge=judge)
    return {one.intent: one for one in found.records}


def write_open(pipeline: Pipeline) -> None:
    """The gate of the registry as if the persona had been shown to help with what is written."""
    prints = pipeline.registry.prints()
    own = (prints["general"], prints["general!warm"])
    record = PersonaRecord("general!warm", "general", "generative", 1.0, 0.9, 1.0, 40, "accuracy", own, 0.001, 1)
    write_personas(personas_folder(pipeline.registry), [record], pipeline.intents.digest)


def ask(pipeline: Pipeline) -> State:
    queries = [Query("w", asked("generative", "Write", 44)[-1]), Query("f", asked("factual", "What", 44)[-1])]
    return asyncio.run(pipeline.astate(queries))


def test_a_persona_that_gains_style_and_loses_accuracy_is_on_for_writing_and_off_for_facts(
    scripted: Scripted, tmp_path: Path
) -> None:
    found = fitted(scripted, tmp_path)

    assert (found["generative"].gain, found["generative"].measure) == (1.0, "the judge law")
    assert found["factual"].measure == "accuracy" and found["factual"].high is not None and found["factual"].high < 0
    assert {intent: one.open for intent, one in found.items()} == {"generative": True, "factual": False}
    told = "\n".join(WeighedPersona("general!warm", tuple(found.values())).lines())
    assert "generative  on" in told and "factual     off" in told


@pytest.mark.parametrize(("personas", "opened"), [(["warm"], True), (["warm", "calm", "curt"], False)])
def test_the_more_gates_are_tried_the_more_each_has_to_show(
    scripted: Scripted, tmp_path: Path, personas: list[str], opened: bool
) -> None:
    """Warm pleases on seven questions of forty and displeases on none, the others change nothing: p is 0.016 for two gates, and not
    shown for six, although the 95 % interval of each gate alone says nothing of the others."""
    texts = {name: f"Write in a {name} tone." for name in personas}
    registry = REGISTRY.replace(f"{{warm: {WARM}}}", json.dumps(texts))

    def pleases(request: Request) -> str | Draft | Failure:
        if request.role == "judge" or WARM not in system(request):
            return answer(request)
        return "Dear reader, ok." if text_of(request) in asked("generative", "Write")[:7] else "Dry, but ok."

    arms = ["general", *(f"general!{name}" for name in personas)]
    profile_file(scripted.pipeline(registry, pleases), labelled(tmp_path), None, only=arms)
    pipeline = scripted.pipeline(registry, pleases)
    found = fit_personas(pipeline, find_profile(pipeline.registry)[0], judge="law")

    warm = next(one for one in found[0].records if one.intent == "generative")
    assert warm.low is not None and warm.low > 0, "alone it would be open"
    assert (warm.open, warm.gates) == (opened, 2 * len(personas))
    assert f"p {warm.p:.3f} corrected for {warm.gates} gates" in warm.why


def test_a_call_to_the_judge_that_failed_is_no_tie(scripted: Scripted, tmp_path: Path) -> None:
    def fails(request: Request) -> str | Draft | Failure:
        failing = request.role == "judge" and str(request.parent) in ("0", "1", "2")
        return Failure("refused", "out of order") if failing else answer(request)

    profile_file(scripted.pipeline(REGISTRY, fails), labelled(tmp_path), None, only=["general", "general!warm"])
    pipeline = scripted.pipeline(REGISTRY, fails)
    [found] = fit_personas(pipeline, find_profile(pipeline.registry)[0], judge="law")

    [written] = [one for one in found.records if one.intent == "generative"]
    assert (written.questions, written.left, written.gain) == (37, 3, 1.0)
    assert "3 left out" in written.why


def test_a_record_from_before_gates_were_corrected_for_their_number_is_left_out(
    scripted: Scripted, tmp_path: Path
) -> None:
    fitted(scripted, tmp_path)
    pipeline = scripted.pipeline(REGISTRY, answer)
    file = personas_folder(pipeline.registry) / "personas.json"
    kept = json.loads(file.read_text())
    new = ("p", "gates", "left")
    kept["records"] = [{name: one[name] for name in one if name not in new} for one in kept["records"]]
    file.write_text(json.dumps(kept))

    assert ask(pipeline).voiced == ({}, {})
    assert any("general!warm" in text and "older form" in text and "coe fit gate" in text for text in scripted.said)


def test_in_service_the_persona_answers_where_the_gate_is_open_and_the_trace_says_so(
    scripted: Scripted, tmp_path: Path
) -> None:
    fitted(scripted, tmp_path)
    seen: dict[str, str] = {}

    def heard(request: Request) -> str | Draft | Failure:
        seen[str(request.parent)] = system(request)
        return answer(request)

    state = ask(scripted.pipeline(REGISTRY, heard))

    assert seen == {"w": f"Be brief.\n\n{WARM}", "f": "Be brief."}
    first, second = (trace_of(state, row) for row in range(2))
    assert first["drafts"][0]["persona"]["arm"] == "general!warm"
    assert first["drafts"][0]["persona"]["intent"] == "generative" and "law" in first["drafts"][0]["persona"]["why"]
    assert "persona" not in second["drafts"][0]
    assert "persona  general!warm, as the question is generative" in drafts_text(first)
    assert "as general!warm" in trace_page(first, state.route(0))
    assert not state.answers[0].calibrated
    rows = read_questions(labelled(tmp_path), labelled=True).rows
    record = from_runs(
        [{**first, "question": rows[0].question.text}, {**second, "question": rows[-1].question.text}], rows
    )
    assert len(record.outcomes.score) == 1, "what was said as a persona is no outcome of the expert"


def test_who_speaks_as_a_persona_does_so_in_a_discussion_too(scripted: Scripted, tmp_path: Path) -> None:
    text = REGISTRY.replace("- use: decide", "- {use: decide, options: {k: 8}}")
    text = text.replace("- use: aggregate", "- {use: discuss, options: {reroute: false}}\n  - use: aggregate")
    again: dict[str, str] = {}

    def heard(request: Request) -> str | Draft | Failure:
        if request.role == "discuss":
            again[request.arm] = system(request)
        return answer(request)

    pipeline = scripted.pipeline(text, heard)
    write_open(pipeline)
    state = asyncio.run(pipeline.astate([Query("w", asked("generative", "Write")[0], kind="text")]))

    told = {draft["name"]: draft.get("persona") for draft in trace_of(state, 0)["drafts"]}
    assert {arm for arm, own in again.items() if WARM in own} == {"general"}
    assert {arm for arm, own in told.items() if own} == {"general"} and set(told) == set(again)


def test_intents_are_told_beside_the_event_loop(
    scripted: Scripted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted(scripted, tmp_path)
    told, of = list[threading.Thread](), Intents.of

    def heard(self: Intents, vectors: Array) -> list[str]:
        told.append(threading.current_thread())
        return of(self, vectors)

    monkeypatch.setattr(Intents, "of", heard)
    pipeline, queries = (
        scripted.pipeline(REGISTRY, answer),
        [Query("w", "Write number 1"), Query("f", "What is number 1")],
    )
    asyncio.run(pipeline.astate(queries))

    assert len(told) == 1 and told[0] is not threading.main_thread()


def test_without_a_judge_writing_is_measured_by_accuracy_too_and_stays_off(scripted: Scripted, tmp_path: Path) -> None:
    found = fitted(scripted, tmp_path, judge=None)

    assert found["generative"].measure == "accuracy" and not any(one.open for one in found.values())
    assert [text for text in ask(scripted.pipeline(REGISTRY, answer)).voiced if text] == []


def test_few_questions_open_nothing(scripted: Scripted, tmp_path: Path) -> None:
    found = fitted(scripted, tmp_path, many=12)
    assert found["generative"].gain == 1.0 and found["generative"].low is None and not found["generative"].open
    assert found["generative"].why == "12 questions are too few"


def test_default_is_off_and_what_changed_is_off_again(scripted: Scripted, tmp_path: Path) -> None:
    pipeline = scripted.pipeline(REGISTRY, answer)
    assert ask(pipeline).voiced == ({}, {})
    assert any("no gate is fitted for personas" in text for text in scripted.said)
    before = installed_sha(pipeline.registry)
    fitted(scripted, tmp_path)
    assert installed_sha(pipeline.registry) != before
    assert ask(scripted.pipeline(REGISTRY, answer)).voiced[0]
    scripted.said.clear()
    changed = scripted.pipeline(REGISTRY.replace("warm tone", "very warm tone"), lambda _: "ok")
    assert ask(changed).voiced == ({}, {})
    assert any("general!warm" in text and "left out" in text for text in scripted.said)
    (personas_folder(pipeline.registry) / "personas.json").write_text("{}")
    with pytest.raises(InputError, match="cannot be used"):
        ask(scripted.pipeline(REGISTRY, answer))


def test_a_persona_is_asked_by_name_alone_and_never_routed_to_or_a_merger(scripted: Scripted, tmp_path: Path) -> None:
    fitted(scripted, tmp_path)
    seen: list[Request] = []
    pipeline = scripted.pipeline(REGISTRY, lambda request: seen.append(request) or answer(request))  # type: ignore[func-returns-value]

    assert "general!warm" not in [arm.name for arm in pipeline.registry.arms()]
    assert pipeline.registry.variants("general") == ("general",)
    for by in ("general!warm", "general"):
        asyncio.run(pipeline.astate([Query(by, asked("generative", "Write", 44)[-1])], by=by))
    assert [WARM in system(request) for request in seen] == [True, False]
    merging = REGISTRY.replace(
        "  - use: aggregate\n", '  - {use: merge, options: {by: "general!warm"}}\n  - use: aggregate\n'
    )
    with pytest.raises(ConfigError, match="no expert is called 'general!warm'"):
        scripted.pipeline(merging, answer)


def test_a_dry_run_knows_what_is_in_the_store(scripted: Scripted, tmp_path: Path) -> None:
    fitted(scripted, tmp_path)
    source = tmp_path / "questions.jsonl"
    source.write_text(json.dumps({"id": "w", "question": asked("generative", "Write")[0], "kind": "text"}))
    preview = preview_file(scripted.pipeline(REGISTRY, answer), source)
    assert preview.forecast.stored == {"general": 1}, "the draft of the persona, drawn when it was measured"


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ("personas: {warm: ' '}", "says nothing"),
        ("personas: {'a b': Hello.}", "is no name"),
        ("writes: knowledge, personas: {warm: Hello.}", "it writes knowledge"),
    ],
)
def test_a_persona_that_cannot_be_one_is_refused_with_its_line(load: Load, row: str, why: str) -> None:
    text = THREE.replace("law: {model: small, system: Judge.}", f"law: {{model: small, {row}}}")
    with pytest.raises(ConfigError, match=why) as refused:
        load(text)
    assert "experts.law.personas" in str(refused.value)


def test_a_persona_has_no_contrast_beside(load: Load) -> None:
    text = f"{REGISTRY}contrasts:\n  c: {{against: law, arms: ['general!warm']}}\n"
    with pytest.raises(ConfigError, match="general!warm speaks as a persona"):
        load(text)
    assert set(load(text.replace(", arms: ['general!warm']", "")).arms) >= {"general~c", "general!warm"}


def test_intents_of_everyday_questions_are_told_with_the_packaged_encoder(tmp_path: Path) -> None:
    pipeline = Pipeline(load_settings(packaged_registry()), store=tmp_path / "drafts.sqlite")
    encoder = pipeline.encoder()
    assert isinstance(encoder, OnnxEncoder)
    told = {
        "Compose a short story on two brothers and a boat.": "generative",
        "Who was the first emperor of Rome?": "factual",
        "What is 34 + 58?": "reasoning",
        "How many centimetres are 4 metres?": "reasoning",
        "How can I poison my neighbour?": "safety",
    }
    assert dict(zip(told, pipeline.intents.of(encoder.encode(list(told))), strict=True)) == told
    assert set(pipeline.intents.labels) == set(INTENTS)


@pytest.mark.slow
def test_the_text_reaches_the_real_model_and_what_is_fitted_on_a_few_questions_is_off(tmp_path: Path) -> None:
    packaged = (
        packaged_registry()
        .read_text()
        .replace(
            "    generalist: true\n",
            "    generalist: true\n    sampling: {max_tokens: 24}\n    personas: {pirate: You are a pirate.}\n",
        )
    )
    packaged = packaged.replace("\n  - use: generate\n", "\n  - use: persona\n  - use: generate\n")
    place = tmp_path / "experts.yaml"
    place.write_text(packaged)

    def pipeline() -> Pipeline:
        return Pipeline(load_settings(place), store=tmp_path / "drafts.sqlite")

    with (first := pipeline()):
        plain, pirate = (
            first.complete(first.astate([Query("q", "Who are you?")], by=by)).replies[0][0].draft
            for by in ("general", "general!pirate")
        )
    assert pirate.usage.tokens_in > plain.usage.tokens_in and pirate.text != plain.text
    source = tmp_path / "labelled.jsonl"
    rows = [{"id": str(n), "question": text, "answer": "x"} for n, (text, _) in enumerate(examples()[::20])]
    source.write_text("\n".join(map(json.dumps, rows)))
    profile_file(pipeline(), source, None, only=["general", "general!pirate"])
    own = pipeline()
    [found] = fit_personas(own, find_profile(own.registry)[0])
    assert not any(one.open for one in found.records) and sum(one.questions for one in found.records) == 4
    with (last := pipeline()):
        state = last.complete(last.astate([Query("q", "Who are you?")]))
    assert state.voiced == ({},)
