"""Answers of every kind once more: of pipelines and experts by name, of plans, of who settles; what is left of the calls beside."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from scripted import Say, Scripted

from composer.budget import Budget, Limits
from composer.errors import InputError, StoreError
from composer.running.batch import Summary, ask_once, run_file
from composer.running.replay import Replayed, find_question, replay
from composer.store import DraftStore, RunRecord
from composer.traced import calls_of
from composer.types import Draft, Failure, Request, Usage
from tests.composer.scripted import MODEL
from tests.composer.stages.knowledge_kit import UP

EXPERTS = (
    f"{MODEL}experts:\n  general: {{model: small, answers: number}}\n  sums: {{model: small, answers: number, system: S.}}\n"
    "  law: {model: small, answers: number, system: L.}\n  planner: {model: small, writes: plans, system: P.}\n"
)
VOTE = "{use: aggregate, options: {by: majority}}"
SAID = {"general": "5", "sums": "6", "law": "6"}
PLAN = json.dumps({"steps": [{"ask": "3 + 4", "gives": "text"}, {"ask": "{1} days in hours", "gives": "number"}]})


def steps(*between: str, last: str = VOTE, plan: str = "") -> str:
    """A pipeline that asks all three."""
    own = ["{use: decide, options: {k: 8}}", plan, "use: generate", "use: verify", *between, last]
    return "".join(f"  - {step}\n" for step in own if step)


def settled(use: str) -> str:
    return f"{EXPERTS}pipeline:\n{steps(f'{{use: {use}, options: {{by: law}}}}')}"


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scripted:
    return Scripted(tmp_path, monkeypatch)


class Book:
    """A script, and what was asked by it: drafts are `SAID`, other roles have their own functions."""

    def __init__(self, **roles: Say) -> None:
        self.roles, self.asked = roles, list[Request]()

    def __call__(self, request: Request) -> str | Draft | Failure:
        self.asked.append(request)
        if request.role in self.roles:
            return self.roles[request.role](request)
        return SAID[request.arm]


def cut(text: str) -> Callable[[Request], Draft]:
    """Who says this, and is cut off at his most tokens."""
    return lambda request: Draft("", text, "length", Usage(3, request.sampling.max_tokens, seconds=0.123456789))


def ask(bench: Scripted, text: str, book: Book, by: str = "auto") -> dict[str, Any]:
    with bench.pipeline(text, book) as pipeline:
        ask_once(pipeline, "What is 2 + 3?", by=by)
    return traced(bench)[1]


def traced(bench: Scripted, name: str = "0") -> tuple[RunRecord, dict[str, Any]]:
    """The last run that answered a question, and its trace as it is stored."""

    async def found() -> tuple[RunRecord, dict[str, Any]]:
        async with DraftStore.open(bench.folder / "drafts.sqlite") as store:
            run_id, trace = await find_question(store, name, None)
            return next(run for run in await store.runs() if run.run_id == run_id), trace

    return asyncio.run(found())


def again(bench: Scripted, name: str = "0", **more: Any) -> Replayed:
    run, trace = traced(bench, name)
    return replay(bench.folder / "drafts.sqlite", run, trace, **more)


def run(bench: Scripted, text: str, book: Book, out: str, calls: int | None = None) -> Summary:
    source = bench.folder / "in.jsonl"
    source.write_text("".join(json.dumps({"id": name, "question": f"question {name}"}) + "\n" for name in "ab"))
    return run_file(bench.pipeline(text, book), source, bench.folder / out, budget=Budget(Limits(calls=calls)))


def test_another_aggregator_is_put_into_the_pipeline_that_answered(bench: Scripted) -> None:
    text = f"{EXPERTS}pipeline:\n{steps()}pipelines:\n  firm:\n" + steps().replace("  - ", "    - ")
    trace = ask(bench, text, Book(), by="firm")

    found = again(bench, by="best")

    assert (trace["answer"], found.again["answer"]) == ("6", "5"), "the best scored, where nobody is scored the first"
    assert again(bench).equal and again(bench, by="majority").equal


def test_of_an_expert_by_name_nothing_is_combined(bench: Scripted) -> None:
    ask(bench, EXPERTS, Book(), by="sums")

    assert again(bench).equal
    with pytest.raises(InputError, match=r"asked of 'sums' alone.*nothing is combined") as told:
        again(bench, by="best")
    assert told.value.where == "--by"


def test_a_question_that_followed_a_plan_is_the_one_that_was_asked(bench: Scripted) -> None:
    text = f"{EXPERTS}pipeline:\n{steps(plan='{use: plan, options: {planner: planner}}')}"
    trace = ask(bench, text, Book(plan=lambda _: PLAN))

    found = again(bench)

    assert (trace["kind"], trace["plan"]["gives"]) == (None, "number")
    assert found.equal, found.changes
    assert again(bench, fresh=True).equal
    assert again(bench, fresh=True).calls == len(calls_of(trace)) == 7


@pytest.mark.parametrize(
    ("use", "role", "said"), [("judge", "judge", "A"), ("score", "score", "4"), ("refine", "check", "WRONG, it is")]
)
def test_a_call_that_ends_at_its_own_bound_is_whole(bench: Scripted, use: str, role: str, said: str) -> None:
    book = Book(**{role: cut(said), "refine": lambda _: "7"})

    first = run(bench, settled(use), book, "one.jsonl")
    asked = [request.role for request in book.asked]
    again_ = run(bench, settled(use), book, "two.jsonl")

    assert role in asked and [request.role for request in book.asked] == asked, "nobody is asked twice"
    assert first.ledger is not None and first.ledger["run"]["failed"] == 0
    assert (again_.degraded, again_.cached, again_.drafts) == (0, first.drafts, first.drafts)
    found = again(bench, "a")
    assert found.equal, found.changes
    assert all(call["cached"] for call in calls_of(found.again))


@pytest.mark.parametrize("calls", [1, 4, 7, 8, 9])
def test_verdicts_of_a_run_that_ended_early_are_kept_for_the_next_start(bench: Scripted, calls: int) -> None:
    book = Book(judge=cut("A"))

    first = run(bench, settled("judge"), book, "one.jsonl", calls)
    last = run(bench, settled("judge"), book, "one.jsonl")

    assert (first.stopped, last.run_id, last.unfinished) == ("max-calls", first.run_id, 0)
    assert len(book.asked) == 10, "three drafts and two verdicts of each question, none of them twice"


def test_a_run_with_plans_is_gone_on_with(bench: Scripted) -> None:
    text = f"{EXPERTS}pipeline:\n{steps(plan='{use: plan, options: {planner: planner}}')}"
    book = Book(plan=lambda _: PLAN)

    first = run(bench, text, book, "one.jsonl", 3)
    last = run(bench, text, book, "one.jsonl")

    assert (first.unfinished, last.run_id, last.unfinished) == (2, first.run_id, 0)
    assert again(bench, "a").equal and again(bench, "b").equal


def test_a_bound_is_no_excuse_for_a_context_that_was_full(bench: Scripted) -> None:
    full = Draft("", "A", "length", Usage(3, 2), stop_detail="the context was full")
    book = Book(judge=lambda _: full)

    first = run(bench, settled("judge"), book, "one.jsonl")
    many = len(book.asked)
    run(bench, settled("judge"), book, "two.jsonl")

    assert first.ledger is not None and first.ledger["run"]["failed"] == 4
    assert len(book.asked) == many + 4


@pytest.mark.parametrize(
    ("use", "broken"),
    [
        ("merge", cut("It is 8")),
        ("merge", lambda _: Failure("timeout", "too slow", 3)),
        ("judge", lambda _: Failure("x", "y")),
    ],
)
def test_a_call_beside_the_drafts_that_no_store_has_is_recalled_from_the_trace(
    bench: Scripted, use: str, broken: Say
) -> None:
    trace = ask(bench, settled(use), Book(**{use: broken}))
    opened = len(bench.engines)

    found = again(bench)

    assert found.equal, found.changes
    assert len(bench.engines) == opened
    assert {call["stop"] for call in trace["beside"]} <= {"length", "error"}
    assert again(bench, fresh=True).equal


@pytest.mark.parametrize("use", ["merge", "judge", "score", "refine"])
def test_what_is_missing_beside_the_drafts_is_named(bench: Scripted, use: str) -> None:
    said = {"merge": "It is 8", "judge": "A", "score": "4", "refine": "RIGHT"}[use]
    role = "check" if use == "refine" else use
    ask(bench, settled(use), Book(**{role: lambda _: said}))
    assert again(bench).equal

    with sqlite3.connect(bench.folder / "drafts.sqlite") as connection:
        connection.execute("DELETE FROM call WHERE role = ?", (role,))

    with pytest.raises(StoreError, match=rf"no draft of law \({role}\) for the question '0'"):
        again(bench)


def test_a_passage_that_was_cut_off_where_it_was_written_is_read_again(bench: Scripted) -> None:
    with bench.pipeline(
        UP, lambda request: cut("It lies on the Tas. It")(request) if request.role == "knowledge" else "5"
    ) as own:
        ask_once(own, "What is 2 + 3?")

    found = again(bench)

    assert any("evidence" in draft for draft in found.trace["drafts"])
    assert found.equal, found.changes


def test_a_trace_that_says_less_of_the_calls_beside_is_compared_on_what_it_says(bench: Scripted) -> None:
    ask(bench, settled("judge"), Book(judge=lambda _: "A"))
    found, trace = traced(bench)
    path, beside = bench.folder / "drafts.sqlite", trace["beside"]
    less = [
        {key: call[key] for key in ("name", "role", "tokens_in", "tokens_out", "seconds", "cached")} for call in beside
    ]

    assert replay(path, found, {**trace, "beside": less}).equal
    other = replay(path, found, {**trace, "beside": [less[0] | {"tokens_out": 9}, *less[1:]]})
    assert other.changes == (("beside[0].tokens_out", 9, less[0]["tokens_out"]),)
