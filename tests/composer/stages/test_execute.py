"""Arms with a strategy in a pipeline: whose program is run, who votes, who is asked again, and what is told of it."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from composer.budget import Budget, Limits
from composer.errors import ConfigError, InputError
from composer.pipeline import Pipeline
from composer.settings.strategy import ASKS
from composer.show import drafts_text
from composer.state import Query
from composer.trace import Drafted, Event
from composer.traced import calls_of, trace_of
from composer.types import Draft, Failure, Request
from routers.testing import HashEncoder
from routers.types import Arm, Array, Questions, Reason
from tests.composer.scripted import MODEL, SHA, Scripted
from tests.composer.stages.program_kit import STEPS, SUM, Book, measured, one, registry


def test_a_program_votes_with_what_it_gives(scripted: Scripted) -> None:
    book = Book(general="It is 85.", coder="It is 86.", coder_code="47 + 38")
    state = one(scripted.pipeline(registry(), book))

    answer = state.answers[0]
    assert (answer.text, answer.status, answer.agreement) == ("85", "ok", pytest.approx(2 / 3))
    assert book.prompts("coder@code") == [["C.", f"{ASKS['code']}\n\n{SUM}"]]
    assert book.prompts("coder") == [["C.", SUM]], "in prose it is asked as ever"


def test_the_registry_says_what_stands_before_the_question(scripted: Scripted) -> None:
    book = Book(general="?", coder_code="47 + 38")
    state = one(scripted.pipeline(registry("[{use: code, ask: ''}]"), book), by="coder@code")

    assert book.prompts("coder@code") == [["C.", SUM]]
    assert (state.answers[0].text, state.answers[0].status) == ("85", "ok")


def test_a_list_of_a_program_is_the_list_that_another_wrote(scripted: Scripted) -> None:
    book = Book(general="Sorted: a, b, c", coder_code='sorted(["c", "b", "a"])')
    state = one(scripted.pipeline(registry("[{use: code, ask: ''}]", "list"), book), "Sort c, b, a.")

    assert state.answers[0].agreement == 1.0 and state.answers[0].experts == ("general", "coder@code")


@pytest.mark.parametrize("said", ["1 / 0", "The answer is 85.", "open('x', 'w')", Draft("", "85", "length")])
def test_a_program_that_fails_never_votes_and_the_trace_says_why(scripted: Scripted, said: str | Draft) -> None:
    book = Book(general="It is 84.", coder_code=said)
    pipeline = scripted.pipeline(registry("[code]"), book)
    state = one(pipeline)

    assert state.answers[0].text == "84" and state.replies[0][1].code == -1
    assert trace_of(state, 0)["drafts"][1]["strategy"]["why"]
    alone = one(pipeline, by="coder@code").answers[0]
    assert (alone.text, alone.status) == ("", "failed"), "its text is no answer where there is no other"


def test_a_failed_program_that_speaks_of_numbers_is_no_answer_in_prose_either(scripted: Scripted) -> None:
    state = one(scripted.pipeline(registry("[code]", "text"), Book(general=Failure("x", "y"), coder_code="85 +")))

    assert (state.answers[0].text, state.answers[0].status) == ("", "failed")


def test_an_expert_that_calls_goes_on_with_the_value(scripted: Scripted) -> None:
    book = Book(
        general="85", coder_tool=["I add <call>47 + 38", "and check <call>85 - 38</call>, made up", "Answer: 85"]
    )
    pipeline = scripted.pipeline(registry("[tool]"), book)
    heard: list[Event] = []
    state = one(pipeline, by="coder@tool", hear=heard.append)

    assert (state.answers[0].text, state.answers[0].status) == ("85", "ok")
    first, second, third = book.prompts("coder@tool")
    assert second[:-2] == first and second[-2] == "I add <call>47 + 38</call>" and "`47 + 38` is 85" in second[-1]
    assert third[-2] == "and check <call>85 - 38</call>" and "made up" not in str(third)
    assert [request.role for request in book.asked] == ["draft", "tool", "tool"]
    assert [event.role for event in heard if isinstance(event, Drafted)] == ["draft", "tool", "tool"]
    trace = trace_of(state, 0)
    assert [call["role"] for call in calls_of(trace)] == ["tool", "tool", "draft"], "every call once"
    assert trace["drafts"][0]["draft"] == "Answer: 85"
    shown = drafts_text(trace)
    assert "strategy tool, 2 programs were run" in shown and "> 47 + 38\n         = 85" in shown


def test_the_rows_of_a_batch_go_on_together_each_at_most_three_times(scripted: Scripted) -> None:
    book = Book(
        general="85",
        coder_tool=["<call>1</call>", "<call>2</call>", "<call>3</call>", "<call>4</call>", "<call>5</call>"],
    )
    pipeline = scripted.pipeline(registry("[tool]"), book)
    queries = [Query(name, f"{SUM} {name}") for name in ("a", "b", "c")]
    state = asyncio.run(pipeline.astate(queries, by="coder@tool"))

    assert [request.parent for request in book.asked].count("a") == 4, "the draft, and three turns"
    assert [answer.status for answer in state.answers] == ["failed"] * 3
    assert all("more than 3" in reply.worked.why for [reply] in state.replies if reply.worked)
    assert len(scripted.engines) == 1, "one pass over the hosts"


def test_turns_cut_by_a_budget_leave_the_row_for_the_next_start(scripted: Scripted) -> None:
    book = Book(general="85", coder_tool=["<call>47 + 38</call>", "Answer: 85"])
    pipeline = scripted.pipeline(registry("[tool]"), book)

    assert one(pipeline, by="coder@tool", budget=Budget(Limits(calls=1))).withheld == (True,)
    again = one(pipeline, by="coder@tool")
    assert (again.answers[0].text, again.withheld) == ("85", (False,))
    assert [request.role for request in book.asked].count("draft") == 1, "drafts are in the store"


def test_what_no_longer_fits_into_the_context_ends_the_calls(scripted: Scripted) -> None:
    book = Book(general="85", coder_tool=["then " * 600 + "<call>47 + 38</call>", "Answer: 85"])
    text = registry("[tool]").replace("memory: 1MiB", "memory: 1MiB, context: 1024")
    state = one(scripted.pipeline(text, book), by="coder@tool")

    assert len(book.asked) == 1 and state.answers[0].status == "failed"
    assert "context" in trace_of(state, 0)["drafts"][0]["strategy"]["why"]


def test_a_question_that_asks_for_a_program_is_answered_by_it(scripted: Scripted) -> None:
    book = Book(general="x", coder_code="```python\ndef f():\n    return 1\n```")
    pipeline = scripted.pipeline(registry("[code]"), book)
    state = asyncio.run(pipeline.astate([Query("q", "Write f.", kind="code")], by="coder@code"))

    assert state.answers[0].text == "def f():\n    return 1" and state.replies[0][0].worked is None


def test_a_pipeline_that_runs_no_program_is_refused(scripted: Scripted) -> None:
    with pytest.raises(ConfigError, match="coder@code writes programs, and nothing runs them"):
        scripted.pipeline(registry("[code]", steps=STEPS.replace("  - use: execute\n", "")), Book())


def test_programs_settle_nothing(scripted: Scripted) -> None:
    steps = STEPS.replace("  - {use: agg", "  - {use: merge, options: {by: coder@code}}\n  - {use: agg")
    with pytest.raises(ConfigError, match="answers by programs"):
        scripted.pipeline(registry(steps=steps), Book())


def test_a_merger_sees_what_programs_gave(scripted: Scripted) -> None:
    steps = STEPS.replace("  - {use: agg", "  - {use: merge, options: {by: general}}\n  - {use: agg")
    book = Book(general=["It is 84.", "It is 85."], coder="It is 83.", coder_code="47 + 38")
    state = one(scripted.pipeline(registry(steps=steps), book))

    shown = book.prompts("general")[-1][-1]
    assert "\n85\n" in shown and "47 + 38\n" not in shown.replace(SUM, "") and state.answers[0].text == "85"


def test_who_discusses_answers_in_prose(scripted: Scripted) -> None:
    steps = STEPS.replace("  - {use: agg", "  - {use: discuss, options: {reroute: false}}\n  - {use: agg")
    book = Book(general=["It is 84.", "It is 85."], coder_code="47 + 38")
    one(scripted.pipeline(registry("[code]", steps=steps), book))

    assert [request.arm for request in book.asked if request.role == "discuss"] == ["general"]


class Judge:
    """A router with the scores of one question for these arms."""

    def __init__(self, scores: dict[str, float]) -> None:
        self.arms = tuple(map(Arm, scores))
        self.scores = np.array([list(scores.values())], dtype=np.float32)

    def score(self, questions: Questions) -> Array:
        return np.repeat(self.scores, len(questions), axis=0)

    def explain(self, questions: Questions) -> list[Reason]:
        return [Reason()] * len(questions)


@pytest.mark.parametrize(
    ("scores", "asked", "text"),
    [
        ((0.9, 0.4, 0.1), ("coder",), "86"),
        ((0.5, 0.6, 0.1), ("coder@code", "coder"), "85"),  # they differ: the first one's
        ((0.4, 0.39, 0.38), ("coder", "coder@code", "coder@tool"), "85"),  # outvoted
    ],
)
@pytest.mark.parametrize("by", ["prism", "ordered"])
def test_prism_asks_one_two_or_all_strategies_of_the_best_expert(
    scripted: Scripted,
    monkeypatch: pytest.MonkeyPatch,
    scores: tuple[float, ...],
    asked: tuple[str, ...],
    text: str,
    by: str,
) -> None:
    judge = Judge(dict(zip(("general", "coder", "coder@code", "coder@tool"), (0.35, *scores), strict=True)))
    monkeypatch.setattr(Pipeline, "router", lambda self, name: judge)
    encoder = f"encoder: {{sources: [encoder.onnx], sha256: {'e' * 64}, tokenizer: tokenizer.json}}\n"
    steps = STEPS.replace("{k: 8}", "{policy: prism}").replace("majority", by)
    book = Book(
        general="It is 84.", coder="It is 86.", coder_code="47 + 38", coder_tool=["<call>47 + 38</call>", "Answer: 85"]
    )
    state = one(scripted.pipeline(registry("[prose, code, tool]", steps=steps) + encoder, book))

    assert state.asked[0] == asked, "strategies of another expert are not weighed"
    assert (state.answers[0].text, state.answers[0].status) == (text, "ok")


def test_an_arm_with_a_strategy_is_measured_by_what_its_programs_give(scripted: Scripted) -> None:
    found = measured(scripted)

    rows = {row["arm"]: (row["answer"], row["score"]) for row in found.table.to_pylist()}
    assert rows == {"general": ("5", 0), "coder": ("5", 0), "coder@code": ("85", 1), "coder@tool": ("85", 1)}


@pytest.mark.parametrize(("strategies", "author"), [("[prose, code]", ["coder"]), ("[code]", [])])
def test_who_answers_a_remark_on_a_program_answers_in_prose(
    scripted: Scripted, strategies: str, author: list[str]
) -> None:
    steps = STEPS.replace("  - {use: agg", "  - {use: refine, options: {by: general, vote: ordered}}\n  - {use: agg")
    book = Book(general=["It is 84.", "WRONG. Add them.", "RIGHT"], coder="It is 85.", coder_code="47 + 39")
    state = one(scripted.pipeline(registry(strategies, steps=steps.replace("majority", "ordered")), book))

    assert [request.arm for request in book.asked if request.role == "refine"] == author
    assert state.answers[0].text == ("85" if author else "86")


def test_a_round_of_calls_costs_one_pass_over_the_hosts(scripted: Scripted) -> None:
    """Two models of which one fits into memory."""
    models = "".join(
        f"  {name}: {{sources: [small.gguf], sha256: {SHA}, memory: 6MiB}}\n" for name in ("small", "tiny")
    )
    text = (
        f"memory: 8MiB\nmodels:\n{models}experts:\n  general: {{model: small, strategies: [prose, tool]}}\n"
        f"  coder: {{model: tiny, answers: number, system: C., strategies: [tool]}}\n{STEPS}"
    )

    def say(request: Request) -> str:
        calls = len(request.streams[0].prompt) > 2
        return "Answer: 85" if calls or request.arm == "general" else f"{request.parent} <call>47 + 38</call>"

    scripted.delay = 0.01  # drafts land one after the other
    pipeline = scripted.pipeline(text, say)
    alone = [f"{arm}@tool" for arm in ("general", "coder")]
    judge = Judge(dict.fromkeys(("general", *alone), 0.5))
    pipeline.router = lambda name: judge  # type: ignore[assignment,method-assign,return-value]
    pipeline.encoder = HashEncoder  # type: ignore[method-assign,assignment]
    state = asyncio.run(pipeline.astate([Query(str(i), f"{SUM} {i}") for i in range(60)]))

    assert {answer.agreement for answer in state.answers} == {1.0}
    assert all(len(own) == 2 for own in state.beside), "each of both called once"
    assert len(scripted.engines) <= 3, "both for the drafts; the turn after the call begins with the host that is open"


@pytest.mark.parametrize(
    ("by", "words"),
    [
        ("planner", r"'planner' writes plans and answers nothing\n  next: name one that answers: general"),
        ("only", r"'only' answers only as only@code\n  next: name one that answers in prose: general"),
    ],
)
def test_who_cannot_settle_is_told_why(scripted: Scripted, by: str, words: str) -> None:
    text = f"{MODEL}experts:\n  general: {{model: small}}\n  planner: {{model: small, writes: plans, system: P.}}\n"
    text += f"  only: {{model: small, system: C., strategies: [code]}}\n{STEPS}"
    with pytest.raises(ConfigError, match=words):
        scripted.pipeline(text.replace("  - {use: agg", f"  - {{use: refine, options: {{by: {by}}}}}\n  - {{use: agg"))

    wanted = words.replace("general", "auto, general").replace(
        "name one that answers in prose: auto, general", "write only@code"
    )
    with pytest.raises(InputError, match=wanted):
        scripted.pipeline(text).check_model(by)
