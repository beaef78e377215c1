"""The page of one question, in a real browser: what it shows, and that nobody who is shown can do anything there."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from browser import opened

from composer.state import Query
from composer.trace_page import trace_page
from composer.traced import trace_of
from composer.types import Draft, Failure, Request
from tests.composer.scripted import MODEL, Scripted

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)> It is 6."
STEPS = "pipeline:\n  - {use: decide, options: {k: 8}}\n"
EXPERTS = (
    f"{MODEL}experts:\n  general: {{model: small, answers: number}}\n  sums: {{model: small, answers: number, system: S.}}\n"
    "  law: {model: small, answers: number, system: L.}\n  planner: {model: small, writes: plans, system: P.}\n"
)
MERGED = (
    f"{EXPERTS}{STEPS}  - use: generate\n  - use: verify\n  - {{use: merge, options: {{by: general}}}}\n"
    "  - {use: aggregate, options: {by: majority}}\n"
)
PLANNED = (
    f"{EXPERTS}{STEPS}  - {{use: plan, options: {{planner: planner}}}}\n  - use: generate\n  - use: verify\n"
    "  - {use: aggregate, options: {by: majority}}\n"
)
PLAN = '{"steps":[{"ask":"3 + 4","gives":"number"},{"ask":"{1} days in hours","gives":"number"}]}'


@pytest.fixture
def scripted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scripted:
    return Scripted(tmp_path, monkeypatch)


def written(scripted: Scripted, registry: str, say: object, question: str) -> Path:
    pipeline = scripted.pipeline(registry, say)  # type: ignore[arg-type]
    state = asyncio.run(pipeline.astate([Query("q", question)]))
    page = scripted.folder / "page.html"
    page.write_text(trace_page(trace_of(state, 0), state.route(0)), encoding="utf-8")
    return page


def test_drafts_stand_side_by_side_and_a_hostile_one_is_text(scripted: Scripted) -> None:
    def say(request: Request) -> str | Draft | Failure:
        if request.role == "merge":
            return "It is 5."
        return {"general": "It is 5.", "sums": HOSTILE, "law": Failure("refused", "out of order")}[request.arm]

    page = written(scripted, MERGED, say, "What is 2 + 3? <b>bold</b>")
    with opened(page, (".drafts article", ".differs", ".taken", "script", "img", "b")) as (shown, seen):
        body = shown.inner_text("body")
        assert seen.errors == [] and seen.dialogs == []
        assert seen.counts[".drafts article"] == 3
        assert seen.counts[".differs"] == 1 and seen.counts[".taken"] == 1
        assert seen.counts["script"] == seen.counts["img"] == 0
        assert HOSTILE in body and "<b>bold</b>" in body and "failed: out of order" in body
        assert "What general made of them" in body
        assert shown.locator("table.costs tbody tr").count() == 5, "three drafts, the merge, and all of them"
        places = [card.bounding_box() for card in shown.locator(".drafts article").all()]
        assert len({round(place["y"]) for place in places if place}) == 1, "side by side"


def test_a_plan_is_shown_step_by_step(scripted: Scripted) -> None:
    def say(request: Request) -> str:
        if request.role == "plan":
            return PLAN
        prompt = request.streams[0].prompt
        asked = prompt if isinstance(prompt, str) else prompt[-1].content
        return {"3 + 4": "7", "7 days in hours": "168"}[asked]

    with opened(written(scripted, PLANNED, say, "How many hours are 3 and 4 days?"), ("table.plan tbody tr",)) as (
        shown,
        seen,
    ):
        assert seen.errors == [] and seen.counts["table.plan tbody tr"] == 2
        assert "7 days in hours" in shown.inner_text("table.plan")
        assert shown.inner_text(".answer") == "168"
        assert "step" in shown.inner_text("table.costs")


SETTLERS = {
    "score": ("use: score, options: {by: general}", "table.ratings tbody tr", 2, "no ridge is fitted"),
    "refine": ("use: refine, options: {by: general, tries: 1}", "table.tries tbody tr", 1, "finds it wrong"),
    "search": ("use: search, options: {paths: 3, rounds: 1}", "table.paths tbody tr", 3, "self-consistency"),
}


@pytest.mark.parametrize("name", SETTLERS)
def test_what_a_settler_did_is_shown_and_hostile_words_of_it_are_text(scripted: Scripted, name: str) -> None:
    step, rows, count, words = SETTLERS[name]

    def say(request: Request) -> str:
        if request.role == "score":
            return "4"
        if request.role == "check":
            return f"WRONG {HOSTILE}"
        return {"general": "It is 5.", "sums": HOSTILE, "law": "It is 5."}[request.arm]

    registry = f"{EXPERTS}{STEPS}  - use: generate\n  - use: verify\n  - {{{step}}}\n  - {{use: aggregate, options: {{by: majority}}}}\n"
    with opened(written(scripted, registry, say, "What is 2 + 3?"), (rows, "script", "img")) as (shown, seen):
        assert seen.errors == [] and seen.dialogs == []
        assert seen.counts[rows] == count and seen.counts["script"] == seen.counts["img"] == 0
        assert words in shown.inner_text("body")
        assert shown.inner_text(".answer") == "5"


def test_a_program_is_shown_with_what_it_gave_and_is_text(scripted: Scripted) -> None:
    registry = (
        f"{MODEL}experts:\n  general: {{model: small, answers: number}}\n"
        "  coder: {model: small, answers: number, system: C., strategies: [code, tool]}\n"
        f"{STEPS}  - use: generate\n  - use: execute\n  - use: verify\n  - {{use: aggregate, options: {{by: ordered}}}}\n"
    )

    def say(request: Request) -> str:
        if request.role == "tool":
            return "Answer: 5"
        return {"general": "4", "coder@code": f"'{HOSTILE}' + 1", "coder@tool": "<call>2 + 3</call>"}[request.arm]

    page = written(scripted, registry, say, "What is 2 + 3?")
    with opened(page, (".drafts article", "script", "img", "article code")) as (shown, seen):
        body = shown.inner_text("body")
        assert seen.errors == [] and seen.dialogs == [] and seen.counts["script"] == seen.counts["img"] == 0
        assert seen.counts[".drafts article"] == 3 and seen.counts["article code"] == 2
        assert "strategy: code" in body and f"'{HOSTILE}' + 1" in body and "which gave nothing: " in body
        assert "strategy: tool" in body and "2 + 3" in body and "which gave 5" in body
        assert "TypeError" in body
