"""A question that is split: what each step is asked, whose answer is taken, and what happens where a plan does not hold."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from composer.asker import Asker
from composer.budget import Budget, Limits
from composer.errors import ConfigError, InputError
from composer.pipeline import Pipeline
from composer.planning.plan import SCHEMA
from composer.planning.planner import plan_request
from composer.running.batch import run_file
from composer.show import drafts_text
from composer.state import Query, State
from composer.trace import Answered, Drafted, Event
from composer.traced import calls_of, trace_of
from composer.types import Draft, Failure, Request
from tests.composer.scripted import MODEL, Scripted

REGISTRY = (
    f"{MODEL}experts:\n  general: {{model: small}}\n  sums: {{model: small, answers: number, system: Sums.}}\n"
    "  planner: {model: small, writes: plans, system: Plans.}\n"
    "pipeline:\n  - {use: decide, options: {k: 8}}\n  - {use: plan, options: {planner: planner}}\n  - use: generate\n"
    "  - use: verify\n  - {use: aggregate, options: {by: majority}}\n"
)
TWO = [("3 + 4", "number"), ("{1} days in hours", "number")]


def written(steps: list[tuple[str, str]]) -> str:
    return json.dumps({"steps": [{"ask": ask, "gives": gives} for ask, gives in steps]})


class Book:
    """A script: the planner writes `plan`, everybody else what `said` has for the question."""

    def __init__(self, plan: str | Failure | Draft, **said: str) -> None:
        self.plan, self.said, self.asked = plan, said, list[Request]()

    def __call__(self, request: Request) -> str | Draft | Failure:
        self.asked.append(request)
        if request.role == "plan":
            return self.plan
        return self.said.get(shown(request), "nothing of the kind")

    @property
    def steps(self) -> list[str]:
        """What experts were asked, once each."""
        return list(dict.fromkeys(shown(request) for request in self.asked if request.role == "draft"))


def shown(request: Request) -> str:
    prompt = request.streams[0].prompt
    return prompt if isinstance(prompt, str) else prompt[-1].content


def one(pipeline: Pipeline, question: str = "How many hours are 3 days and 4 days?", **more: object) -> State:
    return asyncio.run(pipeline.astate([Query("q", question)], **more))  # type: ignore[arg-type]


def test_each_step_is_a_question_of_its_own_and_the_last_one_answers(scripted: Scripted) -> None:
    book = Book(written(TWO), **{"3 + 4": "It is 7.", "7 days in hours": "7 * 24 = 168"})
    state = one(scripted.pipeline(REGISTRY, book))

    assert book.steps == ["3 + 4", "7 days in hours"]
    assert (state.answers[0].text, state.answers[0].status) == ("168", "ok")
    told = trace_of(state, 0)["plan"]
    assert [(step["asked"], step["answer"]) for step in told["steps"]] == [("3 + 4", "7"), ("7 days in hours", "168")]
    assert (told["planner"], told["why"]) == ("planner", "")
    assert book.asked[0].sampling.schema == SCHEMA
    assert not state.answers[0].calibrated
    assert state.answers[0].sure is None, "the score of who took the last step says nothing of the plan"
    assert "planned" in state.answers[0].marks
    assert "\nsure  " not in drafts_text(trace_of(state, 0))


@pytest.mark.parametrize(
    ("plan", "why"),
    [
        ("I would add them up.", "no JSON"),
        (written([("{2} days", "number"), ("x", "number")]), "no earlier step"),
        (Failure("refused", "out of order"), "the planner failed: out of order"),
        (Draft("", '{"steps":[{"ask', "length"), "did not end"),
    ],
)
def test_a_plan_that_does_not_hold_costs_nothing_but_itself(
    scripted: Scripted, plan: str | Failure | Draft, why: str
) -> None:
    question = "How many hours are 3 days and 4 days?"
    book = Book(plan, **{question: "168"})
    state = one(scripted.pipeline(REGISTRY, book))

    assert book.steps == [question]
    assert state.answers[0].text == "168"
    assert why in trace_of(state, 0)["plan"]["why"]


def test_a_question_without_steps_is_asked_as_it_stands_and_nobody_speaks_of_a_plan(scripted: Scripted) -> None:
    book = Book('{"steps":[]}', **{"3 + 4": "7"})
    state = one(scripted.pipeline(REGISTRY, book), "3 + 4")

    assert book.steps == ["3 + 4"] and state.answers[0].text == "7"
    assert "plan" not in trace_of(state, 0)


def test_a_step_that_gives_no_answer_ends_the_plan_and_the_question_is_asked(scripted: Scripted) -> None:
    question = "How many hours are 3 days and 4 days?"
    book = Book(written(TWO), **{"3 + 4": "I cannot say.", question: "168"})
    state = one(scripted.pipeline(REGISTRY, book))

    assert book.steps == ["3 + 4", question] and state.answers[0].text == "168"
    assert trace_of(state, 0)["plan"]["why"] == "step 1 has no answer"


def test_what_an_expert_writes_cannot_add_steps(scripted: Scripted) -> None:
    """An answer with places in it is put in as it is; it names no other step."""
    plan = written([("name it", "text"), ("say {1}", "text")])
    book = Book(plan, **{"name it": "use {2} now", "say use {2} now": "done"})
    state = one(scripted.pipeline(REGISTRY, book))

    assert book.steps[1] == "say use {2} now" and state.answers[0].text == "done"


def test_steps_of_a_batch_go_together_and_are_told_on_behalf_of_their_question(scripted: Scripted) -> None:
    book = Book(written(TWO), **{"3 + 4": "7", "7 days in hours": "168"})
    pipeline = scripted.pipeline(REGISTRY, book)
    heard: list[Event] = []
    queries = [Query(name, f"Question {name}?") for name in ("a", "b")]
    state = asyncio.run(pipeline.astate(queries, hear=heard.append))

    assert [answer.text for answer in state.answers] == ["168", "168"]
    drafted = [event for event in heard if isinstance(event, Drafted)]
    assert {event.id for event in drafted} == {"a", "b"}
    assert {event.role for event in drafted} == {"plan", "step"}
    assert [event.id for event in heard if isinstance(event, Answered)] == ["a", "b"]


def test_a_step_is_not_taken_for_a_question_whatever_ids_questions_have(scripted: Scripted) -> None:
    asked: list[Request] = []

    def says(request: Request) -> str:
        asked.append(request)
        if request.role == "plan":
            return written(TWO) if request.parent == "q" else written([])
        return {"3 + 4": "7", "7 days in hours": "168"}.get(shown(request), "5")

    pipeline = scripted.pipeline(REGISTRY, says)
    state = asyncio.run(pipeline.astate([Query("q", "Question q?"), *(Query(f"q/{n}", f"And {n}?") for n in (1, 2))]))

    assert [answer.text for answer in state.answers] == ["168", "5", "5"]
    assert len({request.id for request in asked}) == len(asked)
    with pytest.raises(InputError, match="NUL"):
        pipeline.run([Query("q\0" + "1", "What is 2 + 2?")])


def test_an_unfinished_plan_is_withheld_and_goes_on_from_the_store(scripted: Scripted) -> None:
    book = Book(written(TWO), **{"3 + 4": "7", "7 days in hours": "168"})
    pipeline = scripted.pipeline(REGISTRY, book)
    cut = one(pipeline, budget=Budget(Limits(calls=2)))
    assert cut.withheld == (True,)

    whole = one(pipeline)
    assert whole.answers[0].text == "168" and whole.withheld == (False,)


def test_a_planner_has_to_be_one(scripted: Scripted) -> None:
    with pytest.raises(ConfigError, match="writes plans"):
        scripted.pipeline(REGISTRY.replace("{planner: planner}", "{planner: sums}"), Book(""))


def test_every_call_is_in_the_trace_once(scripted: Scripted) -> None:
    book = Book(written(TWO), **{"3 + 4": "7", "7 days in hours": "168"})
    state = one(scripted.pipeline(REGISTRY, book))

    calls = calls_of(trace_of(state, 0))
    assert [call["role"] for call in calls] == ["plan", *["step"] * (len(book.asked) - 2), "draft"]


def test_what_has_options_is_not_split(scripted: Scripted) -> None:
    book = Book(written(TWO), **{"Which is a fruit?\nA) apple\nB) stone": "A"})
    pipeline = scripted.pipeline(REGISTRY, book)
    state = asyncio.run(pipeline.astate([Query("q", "Which is a fruit?", ("apple", "stone"))]))

    assert all(request.role == "draft" for request in book.asked) and state.answers[0].text == "A"


@pytest.mark.parametrize(
    ("stage", "after"),
    [("{use: plan, options: {planner: planner}}", "verify"), ("{use: merge, options: {by: general}}", "decide")],
)
def test_a_stage_in_the_wrong_place_is_refused(scripted: Scripted, stage: str, after: str) -> None:
    steps = ["{use: decide}", "{use: generate}", "{use: verify}", "{use: aggregate}"]
    steps.insert(next(i for i, step in enumerate(steps) if after in step) + 1, stage)
    registry = REGISTRY.partition("pipeline:")[0] + "pipeline:\n" + "".join(f"  - {step}\n" for step in steps)

    with pytest.raises(ConfigError, match="works on what"):
        scripted.pipeline(registry, Book(""))


def test_a_file_is_told_of_its_questions_and_not_of_their_steps(scripted: Scripted) -> None:
    book = Book(written(TWO), **{"3 + 4": "It is 7.", "7 days in hours": "7 * 24 = 168"})
    told: list[tuple[str, str]] = []

    async def settled(state: State) -> None:
        told.extend((answer.id, answer.text) for answer in state.answers)

    queries = [Query(name, f"How many hours are 3 days and 4 days, {name}?") for name in ("a", "b")]
    asyncio.run(scripted.pipeline(REGISTRY, book).settle(queries, settled, run="r"))

    assert sorted(told) == [("a", "168"), ("b", "168")]


@pytest.mark.parametrize("step", ["{use: refine, options: {by: sums}}", "{use: merge, options: {by: sums}}"])
def test_what_settles_a_step_is_its_answer(scripted: Scripted, step: str) -> None:
    asked: list[Request] = []

    def says(request: Request) -> str:
        asked.append(request)
        match request.role:
            case "plan":
                return written(TWO)
            case "check":
                return "RIGHT" if "It is 7." in shown(request) else "WRONG"
            case "merge" | "refine":
                fence = next((word for word in shown(request).split() if word.startswith("==")), "")
                return f"{fence} 1\nIt is 7." if fence else "It is 7."
        return {"general": "It is 5.", "sums": "It is 6."}[request.arm]

    registry = REGISTRY.replace("  - {use: aggregate", f"  - {step}\n  - {{use: aggregate")
    state = one(scripted.pipeline(registry, says))

    trace = trace_of(state, 0)
    assert [one["answer"] for one in trace["plan"]["steps"]] == ["7", "7"] and state.answers[0].text == "7"
    assert len(calls_of(trace)) == len(asked), "every call once"
    assert all(request.parent != "q" for request in asked if request.role != "plan"), "nobody is asked for the whole"


def test_another_draw_of_a_plan_has_a_seed_of_its_own(scripted: Scripted) -> None:
    registry = scripted.pipeline(REGISTRY, Book("")).registry
    draws = [plan_request(registry, "planner", "x", Asker("q"), sample=n, temperature=0.7) for n in range(3)]

    assert len({request.sampling.seed for request in draws}) == 3


@pytest.mark.parametrize("calls", [1, 4])
def test_a_file_of_plans_that_budgets_cut_ends_as_one_that_nobody_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calls: int
) -> None:
    found = []
    for name, limits in (("whole", Limits()), ("cut", Limits(calls=calls))):
        folder = tmp_path / name
        folder.mkdir()
        bench = Scripted(folder, monkeypatch)
        source, out = folder / "in.jsonl", folder / "out.jsonl"
        asked = [{"id": name, "question": f"How many hours are 3 days and 4 days, {name}?"} for name in ("a", "b")]
        source.write_text("".join(json.dumps(row) + "\n" for row in asked))
        book = Book(written(TWO), **{"3 + 4": "It is 7.", "7 days in hours": "7 * 24 = 168"})
        starts = 1
        while run_file(bench.pipeline(REGISTRY, book), source, out, budget=Budget(limits)).unfinished:
            starts += 1
        rows = [{**json.loads(line), "trace_id": ""} for line in out.read_text().splitlines()]
        found.append((rows, len(book.asked)))
        assert (starts > 1) == (name == "cut") and [row["answer"] for row in rows] == ["168", "168"]

    assert found[0] == found[1], "the same answers, and no call twice"
