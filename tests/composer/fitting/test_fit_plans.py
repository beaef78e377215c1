"""Learning which plans are right from labelled questions: other plans are tried, right ones shown to the planner."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from zlib import crc32

import numpy as np
import pytest

from composer.errors import InputError
from composer.fitting.plans import BATCH, learn_plans
from composer.installed import installed_sha
from composer.jsonl import Labelled, Question
from composer.pipeline import Pipeline
from composer.planning.memory import Memory
from composer.show import drafts_text
from composer.trace_page import trace_page
from composer.traced import trace_of
from composer.types import Request
from routers.types import Array
from tests.composer.scripted import MODEL, Scripted

ENCODER = f"encoder: {{sources: [encoder.onnx], sha256: {'e' * 64}, tokenizer: tokenizer.json}}\n"
REGISTRY = (
    f"{MODEL}{ENCODER}experts:\n  general: {{model: small}}\n  planner: {{model: small, writes: plans}}\n"
    "pipeline:\n  - {use: decide, options: {k: 1}}\n  - use: generate\n  - {use: aggregate, options: {by: best}}\n"
    "pipelines:\n  planned:\n    - {use: decide, options: {k: 1}}\n    - {use: plan, options: {planner: planner}}\n"
    "    - use: generate\n    - use: verify\n    - {use: aggregate, options: {by: best}}\n"
)
MANY = 25
GOOD = json.dumps({"steps": [{"ask": "sum: 3 4", "gives": "number"}]})
BAD = json.dumps({"steps": [{"ask": "what is it", "gives": "number"}]})


class Planner:
    """Writes a wrong plan where it is shown none and asked for the first time, a right one at the second sample of a question, and
    copies the last example it is shown. The expert knows sums only."""

    def __init__(self) -> None:
        self.asked: list[Request] = []

    def __call__(self, request: Request) -> str:
        self.asked.append(request)
        prompt = request.streams[0].prompt
        text = prompt if isinstance(prompt, str) else prompt[-1].content
        if request.role == "plan":
            lines = text.split("\n")
            return lines[-2] if len(lines) > 1 else (GOOD if request.sample == 2 else BAD)
        return "7" if text.startswith("sum:") else "I do not know"


class Flat:
    """Every question is like every other (cosine 0.5), and none the same."""

    def encode(self, texts: list[str]) -> Array:
        vectors = np.zeros((len(texts), 1024), dtype=np.float32)
        for row, text in enumerate(texts):
            vectors[row, [0, 1 + crc32(text.encode()) % 1023]] = 0.5**0.5
        return vectors


class Same:
    """Every question is the same."""

    def encode(self, texts: list[str]) -> Array:
        return np.ones((len(texts), 1), dtype=np.float32)


@pytest.fixture
def pipeline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pipeline:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    bench = Scripted(tmp_path, monkeypatch)
    monkeypatch.setattr(Pipeline, "encoder", lambda _: Flat())
    return bench.pipeline(REGISTRY, Planner())


def rows(n: int) -> list[Labelled]:
    return [Labelled(Question(f"q{i}", f"3 and 4, {i}?", (), "number", i + 1), "7", None, None) for i in range(n)]


def test_what_was_right_is_found_by_trying_and_shown_from_then_on(pipeline: Pipeline) -> None:
    learnt = learn_plans(pipeline, rows(MANY))  # a fifth of them is held out
    assert [one.right for one in learnt.first] == [0.0] * BATCH + [1.0] * 4
    assert {one.shown for one in learnt.first[:BATCH]} == {0}
    assert {one.shown for one in learnt.first[BATCH:]} == {3}
    assert [one.right for one in learnt.more] == [0.0] * BATCH + [1.0] * BATCH  # the second sample, then the third
    assert len(pipeline.plans("planner").memory) == len(learnt.memory) == BATCH + 4
    assert (learnt.held, learnt.gain, learnt.installed) == (MANY // 5, (1.0, 1.0, 1.0), True)
    assert f"{BATCH + 4} questions, 4 right" in "\n".join(learnt.lines())


def test_what_is_not_shown_to_help_is_not_kept(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Memory, "examples", lambda self, vectors, most=3: [()] * len(vectors))
    learnt = learn_plans(pipeline, rows(MANY))
    assert len(learnt.memory) > 0 and not learnt.installed
    assert len(pipeline.plans("planner").memory) == 0
    assert "nothing is remembered" in "\n".join(learnt.lines())


def test_questions_of_which_none_can_be_held_out_are_refused(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Pipeline, "encoder", lambda _: Same())
    with pytest.raises(InputError, match="near-duplicates"):
        learn_plans(pipeline, rows(MANY))


def test_the_stage_shows_what_was_learnt_and_the_trace_names_it(pipeline: Pipeline) -> None:
    learn_plans(pipeline, rows(MANY))
    state = asyncio.run(pipeline.astate(["3 and 4, once more?"], by="planned"))
    assert state.answers[0].text == "7"
    told = trace_of(state, 0)["plan"]
    assert len(told["like"]) == 3
    assert set(told["like"]) <= {row.question.text for row in rows(MANY)}


def test_another_planner_is_shown_no_plans_of_this_one_and_the_trace_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setattr(Pipeline, "encoder", lambda _: Flat())
    bench, book = Scripted(tmp_path, monkeypatch), Planner()
    learn_plans(bench.pipeline(REGISTRY, book), rows(MANY))
    bench.said.clear()
    other = bench.pipeline(REGISTRY.replace("writes: plans", "writes: plans, system: Split it."), book)
    state = asyncio.run(other.astate(["3 and 4, once more?"], by="planned"))

    told = trace_of(state, 0)["plan"]
    assert not told["like"] and "of another planner" in told["note"]
    assert [text for text in bench.said if "of another planner" in text and "coe fit answers --plans" in text]
    assert "of another planner" in trace_page(trace_of(state, 0), state.route(0))
    assert "of another planner" in drafts_text(trace_of(state, 0))
    again = asyncio.run(bench.pipeline(REGISTRY, book).astate(["3 and 4, once more?"], by="planned"))
    assert len(trace_of(again, 0)["plan"]["like"]) == 3 and not trace_of(again, 0)["plan"]["note"]


def test_test_questions_and_those_with_options_are_left_alone(pipeline: Pipeline) -> None:
    test = [Labelled(row.question, row.answer, None, "test") for row in rows(3)]
    with pytest.raises(InputError, match="0 of 3 questions"):
        learn_plans(pipeline, test)


def test_who_plans_nothing_is_told_what_to_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = REGISTRY.partition("pipelines:")[0]
    with pytest.raises(InputError, match="no pipeline of this registry plans"):
        learn_plans(Scripted(tmp_path, monkeypatch).pipeline(plain, Planner()), rows(MANY))


def test_a_run_that_goes_on_after_plans_were_learnt_is_another_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setattr(Pipeline, "encoder", lambda _: Flat())
    head, _, planned = REGISTRY.partition("pipeline:\n")
    text = head + "pipeline:\n" + planned.partition("  planned:\n")[2].replace("    - ", "  - ")
    pipeline = Scripted(tmp_path, monkeypatch).pipeline(text, Planner())
    before = installed_sha(pipeline.registry)
    learn_plans(pipeline, rows(MANY))

    assert installed_sha(pipeline.registry) != before
