"""What is told of an answer: who wrote it, why there is none, whose draft was cut off, and who was asked."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from composer import cli
from composer.pipeline import Pipeline
from composer.running.outputs import row_of
from composer.serve.reply import choice_of
from composer.show import drafts_text
from composer.state import Query, State
from composer.traced import cut_told, silence_of, trace_of
from composer.types import Draft, Failure, Request
from tests.composer.scripted import MODEL, Scripted

Say = Callable[[Request], str | Draft | Failure]
EXPERTS = (
    f"{MODEL}experts:\n  general: {{model: small, answers: number}}\n  sums: {{model: small, answers: number, system: S.}}\n"
    "  law: {model: small, answers: number, system: L.}\n  planner: {model: small, writes: plans, system: P.}\n"
    "pipeline:\n  - {use: decide, options: {k: 8}}\n"
)
REST = "  - use: generate\n  - use: verify\n"
LAST = "  - {use: aggregate, options: {by: majority}}\n"
MERGED = f"{EXPERTS}{REST}  - {{use: merge, options: {{by: general}}}}\n{LAST}"
PLANNED = f"{EXPERTS}  - {{use: plan, options: {{planner: planner}}}}\n{REST}{LAST}"
REFINED = f"{EXPERTS}{REST}  - {{use: refine, options: {{by: law, tries: 1}}}}\n{LAST}"


@pytest.fixture
def scripted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scripted:
    return Scripted(tmp_path, monkeypatch)


def asked(pipeline: Pipeline) -> State:
    return asyncio.run(pipeline.astate([Query("q", "What is 2 + 3?")]))


def differing(merged: str | Draft) -> Say:
    said = {"general": "It is 4.", "sums": "It is 6.", "law": "It is 6."}
    return lambda request: merged if request.role == "merge" else said[request.arm]


def test_everybody_who_was_asked_is_among_the_experts(scripted: Scripted) -> None:
    book = {"plan": '{"steps": []}'}
    state = asked(scripted.pipeline(PLANNED, lambda request: book.get(request.role, "It is 5.")))

    everybody = {"general", "sums", "law", "planner"}
    assert set(row_of(trace_of(state, 0))["experts"]) == everybody
    about = choice_of(state, 0).about
    assert set(about["experts"]) == everybody
    again = choice_of(asked(scripted.pipeline(PLANNED)), 0).about
    assert again["cached"] == 4, "the planner's too"


def test_a_question_that_the_planner_left_whole_is_told_so(scripted: Scripted) -> None:
    book = {"plan": '{"steps": []}'}
    state = asked(scripted.pipeline(PLANNED, lambda request: book.get(request.role, "It is 5.")))

    text = drafts_text(trace_of(state, 0))
    assert "plan     the planner did not split the question" in text
    assert "beside   1 call (plan): " in text and "waited together" in text


def test_a_merger_that_was_cut_off_left_it_to_the_vote(scripted: Scripted) -> None:
    state = asked(scripted.pipeline(MERGED, differing(Draft("", "It is", "length"))))

    assert state.answers[0].text == "6"
    assert "it was cut off: left to the vote" in drafts_text(trace_of(state, 0))


def test_the_text_that_an_author_wrote_again_is_shown(scripted: Scripted) -> None:
    roles = {"check": "WRONG: look again.", "refine": "Then it is 7."}
    state = asked(scripted.pipeline(REFINED, lambda request: roles.get(request.role, "It is 6.")))

    told = trace_of(state, 0)
    assert (state.answers[0].text, state.answers[0].sure) == ("7", None)
    assert (told["merge"]["role"], told["merge"]["draft"]) == ("refine", "Then it is 7.")
    assert "(refine), and that is the answer:\n         | Then it is 7." in drafts_text(told)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"draft": "I do not know."}, "no answer could be read in what it wrote"),
        ({"stop": "length", "draft": "It"}, "was cut off"),
        ({"strategy": {"use": "code", "calls": [], "why": "no program in it"}}, "no program in it"),
        ({"error": {"message": "out of order"}}, "out of order"),
        ({}, "said nothing"),
    ],
)
def test_a_draft_without_an_answer_is_cut_off_only_where_it_was(changes: dict[str, Any], told: str) -> None:
    assert silence_of({"error": None, "stop": "stop", "draft": "", **changes}) == told


def test_whose_draft_was_cut_off_is_named() -> None:
    drafts = [{"name": "sums", "stop": "length"}, {"name": "law", "stop": "stop"}]

    assert cut_told({"drafts": drafts, "chosen": "law"}) == "the draft of sums: cut off, and did not count"
    assert cut_told({"drafts": drafts, "chosen": "sums"}) == (
        "cut off: raise `sampling.max_tokens` of sums for longer answers"
    )
    assert cut_told({"drafts": drafts[1:], "chosen": "law"}) is None


def test_ask_explains_a_failure_and_shows_what_a_merger_wrote(
    scripted: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask(registry: str, say: Say, *options: str) -> Any:
        monkeypatch.setattr(cli, "_pipeline", lambda *_: scripted.pipeline(registry, say))
        return CliRunner().invoke(cli.app, ["ask", "What is 2 + 3?", *options])

    failed = ask(MERGED, lambda _: Draft("", "It is", "length"), "--explain")
    assert failed.exit_code != 0
    assert "draft    general" in failed.output
    assert "general: was cut off" in failed.output

    told = json.loads(ask(MERGED, differing("It is 5."), "--json").stdout)
    assert (told["answer"], told["sure"]) == ("5", None)
    assert told["settled"] == {
        "by": "general",
        "author": "general",
        "role": "merge",
        "draft": "It is 5.",
        "answer": "5",
    }
    assert [one["role"] for one in told["experts"]] == ["draft", "draft", "draft", "merge"]
