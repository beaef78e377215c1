"""What experts read when a cross-encoder orders it, and that a question is encoded once on its way."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from composer.config import PACKAGED, load_settings
from composer.engines.scripted import ScriptedEngine
from composer.errors import PassageError, SourceError
from composer.pipeline import Pipeline
from composer.profiling import profile_file
from composer.registry.experts import Registry
from composer.retrieval.build import build, token_offsets
from composer.retrieval.rerank import CrossEncoder
from composer.state import Query, State
from composer.traced import trace_of
from composer.types import Request
from routers.embed import OnnxEncoder
from routers.testing import HashEncoder
from routers.types import Array, Indices
from tests.composer.overlap import write_overlap
from tests.composer.scripted import THREE, Scripted

STEPS = (
    "pipeline:\n  - {use: decide, options: {k: 8}}\n  - use: retrieve\n  - use: generate\n  - use: verify\n"
    "  - {use: aggregate, options: {by: majority}}\n"
)
NOTES = {
    "many.txt": "Valve valve valve. A valve is a valve.",
    "best.txt": "It opens at seven bar, unlike what is said of others of its kind in older books on the matter.",
    "other.txt": "A bird.",
}
QUESTION = "A valve opens"


def shown(request: Request) -> str:
    prompt = request.streams[0].prompt
    return prompt if isinstance(prompt, str) else prompt[-1].content


def one(pipeline: Pipeline, question: str, by: str = "auto") -> State:
    return asyncio.run(pipeline.astate([Query("q", question)], by=by))


@pytest.fixture
def reading(tmp_path: Path) -> str:
    """A registry whose cross-encoder values `opens`, beside an index of notes: the same with and without it."""
    (tmp_path / "sources").mkdir()
    for name, text in NOTES.items():
        (tmp_path / "sources" / name).write_text(text, encoding="utf-8")
    place = tmp_path / "project" / "notes"
    build(tmp_path / "sources", place, HashEncoder(), lambda texts: [[len(text)] for text in texts])
    sha256 = write_overlap(tmp_path / "project" / "overlap", {"valve": 1.0, "opens": 4.0})
    block = f"reranker: {{sources: [overlap/model.onnx], sha256: {sha256}, tokenizer: overlap/tokenizer.json}}\n"
    rows = "  notes: {index: ./notes, k: 1}\n  sorted: {index: ./notes, k: 1, rerank: true}\n"
    return f"{THREE}{block}evidence:\n{rows}{STEPS}"


def test_an_arm_reads_what_the_cross_encoder_puts_first(scripted: Scripted, reading: str) -> None:
    prompts: dict[str, str] = {}

    def answer(request: Request) -> str:
        prompts[request.arm] = shown(request)
        return "so"

    state = one(scripted.pipeline(reading, answer), QUESTION)
    assert "valve is a valve" in prompts["law+notes"]
    assert "seven bar" not in prompts["law+notes"]
    assert "seven bar" in prompts["law+sorted"]
    assert "valve is a valve" not in prompts["law+sorted"]
    used = {draft["name"]: draft["evidence"]["used"] for draft in trace_of(state, 0)["drafts"] if "+" in draft["name"]}
    assert (used["law+notes"], used["law+sorted"]) == (["many.txt#0"], ["best.txt#0"])


def test_a_cross_encoder_that_is_not_there_is_told_before_anything_is_asked(
    scripted: Scripted, reading: str, tmp_path: Path
) -> None:
    (tmp_path / "project" / "overlap" / "model.onnx").unlink()
    with pytest.raises(SourceError) as error:
        one(scripted.pipeline(reading, shown), QUESTION, by="law+sorted")
    assert "reranker.sources" in str(error.value)
    (tmp_path / "project" / "overlap" / "model.onnx").write_bytes(b"another file")
    with pytest.raises(SourceError, match="sha256"):
        one(scripted.pipeline(reading, shown), QUESTION, by="law+sorted")
    assert not scripted.engines


def test_a_cross_encoder_that_fails_while_running_marks_the_answers(
    scripted: Scripted, reading: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    score = CrossEncoder.score

    def breaks(encoder: CrossEncoder, question: str, texts: Sequence[str]) -> Array:
        if question == QUESTION:
            raise PassageError("it cannot be run")
        return score(encoder, question, texts)

    monkeypatch.setattr(CrossEncoder, "score", breaks)
    state = one(scripted.pipeline(reading, shown), QUESTION, by="law+sorted")
    assert state.answers[0].text == QUESTION
    assert state.answers[0].marks == ("retrieval: unavailable",)


def test_a_question_that_is_scored_and_looked_up_is_encoded_once(
    packaged: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sources").mkdir()
    for name, text in NOTES.items():
        (tmp_path / "sources" / name).write_text(text, encoding="utf-8")
    files = packaged.encoder_files()
    build(tmp_path / "sources", tmp_path / "notes", OnnxEncoder(*files), token_offsets(files[1]))
    text = (PACKAGED.parents[1] / "experts.yaml").read_text(encoding="utf-8").partition("pipeline:")[0]
    path = tmp_path / "experts.yaml"
    path.write_text(f"{text}evidence:\n  notes: {{index: ./notes, k: 1, experts: [general]}}\n{STEPS}", "utf-8")
    monkeypatch.setattr(Registry, "engine", lambda *_: ScriptedEngine(shown))
    labelled = tmp_path / "labelled.jsonl"
    labelled.write_text('{"id": "a", "question": "Say yes.", "answer": "yes", "kind": "text"}\n', encoding="utf-8")
    profile_file(Pipeline(load_settings(path), store=tmp_path / "drafts.sqlite"), labelled, None)
    encoded: list[int] = []
    run = OnnxEncoder._run

    def counting(encoder: OnnxEncoder, tokens: Sequence[Indices]) -> Array:
        encoded.append(len(tokens))
        return run(encoder, tokens)

    monkeypatch.setattr(OnnxEncoder, "_run", counting)
    pipeline = Pipeline(load_settings(path), store=tmp_path / "drafts.sqlite")
    asked = [Query(str(number), f"Which valve opens at {number} bar?") for number in range(20)]
    state = asyncio.run(pipeline.astate([*asked, Query("again", asked[0].text)]))
    assert all("general+notes" in evidence for evidence in state.evidence), "every row was looked up"
    assert sum(encoded) == 20
    vectors = pipeline.encoder().encode([query.text for query in asked])
    assert sum(encoded) == 20
    assert np.abs(vectors - OnnxEncoder(*files).encode([query.text for query in asked])).max() < 1e-6
    encoded.clear()
    asyncio.run(pipeline.astate([Query("choice", "Which opens?", choices=("a valve", "a bird"))]))
    assert sum(encoded) == 2, "scored with its options, looked up without them"
