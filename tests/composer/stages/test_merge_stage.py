"""Merging: who is asked, when nobody is, whose answer is taken, and what is told of it."""

from __future__ import annotations

import asyncio

import pytest

from composer.budget import Budget, Limits
from composer.errors import ConfigError
from composer.pipeline import Pipeline
from composer.state import Query, State
from composer.traced import calls_of, trace_of
from composer.types import Draft, Failure, Request
from tests.composer.scripted import MODEL, Scripted


def registry(options: str = "by: general") -> str:
    return (
        f"{MODEL}experts:\n  general: {{model: small, answers: number}}\n  sums: {{model: small, answers: number, system: S.}}\n"
        "  law: {model: small, answers: number, system: L.}\n"
        "pipeline:\n  - {use: decide, options: {k: 8}}\n  - use: generate\n  - use: verify\n"
        f"  - {{use: merge, options: {{{options}}}}}\n  - {{use: aggregate, options: {{by: majority}}}}\n"
    )


class Book:
    """Experts say what is theirs, the merger `merged`."""

    def __init__(self, merged: str | Failure = "It is 5.", **said: str | Failure) -> None:
        self.merged, self.said, self.asked = merged, said, list[Request]()

    def __call__(self, request: Request) -> str | Draft | Failure:
        self.asked.append(request)
        return self.merged if request.role == "merge" else self.said[request.arm]

    @property
    def merges(self) -> list[str]:
        prompts = [request.streams[0].prompt for request in self.asked if request.role == "merge"]
        return [prompt if isinstance(prompt, str) else prompt[-1].content for prompt in prompts]


def one(pipeline: Pipeline, **more: object) -> State:
    return asyncio.run(pipeline.astate([Query("q", "What is 2 + 3?")], **more))  # type: ignore[arg-type]


def test_where_experts_differ_the_merger_answers_and_sees_all_of_them(scripted: Scripted) -> None:
    book = Book(general="It is 4.", sums="It is 5.", law="It is 6.")
    state = one(scripted.pipeline(registry(), book))

    [prompt] = book.merges
    assert all(text in prompt for text in ("It is 4.", "It is 5.", "It is 6."))
    answer = state.answers[0]
    assert (answer.text, answer.status, answer.chosen) == ("5", "ok", "general")
    assert answer.agreement == pytest.approx(1 / 3)
    assert answer.sure is None, "no draft voted for what was written after them"
    assert [call["role"] for call in calls_of(trace_of(state, 0))].count("merge") == 1
    told = trace_of(state, 0)["merge"]
    assert (told["by"], told["draft"], told["answer"], told["error"]) == ("general", "It is 5.", "5", None)


def test_where_all_agree_the_merger_is_not_asked(scripted: Scripted) -> None:
    book = Book(general="5", sums="It is 5.", law="It is 5.")
    state = one(scripted.pipeline(registry(), book))

    assert book.merges == [] and state.answers[0].text == "5"
    assert trace_of(state, 0)["merge"]["why"] == "all drafts say the same"


def test_a_vote_that_is_sure_enough_needs_no_merger(scripted: Scripted) -> None:
    book = Book(general="5", sums="It is 5.", law="It is 6.")
    state = one(scripted.pipeline(registry("by: general, sure: 0.6"), book))

    assert book.merges == [] and state.answers[0].text == "5"
    assert "sure enough (0.67)" in trace_of(state, 0)["merge"]["why"]


@pytest.mark.parametrize("merged", ["I cannot tell.", Failure("refused", "out of order")])
def test_a_merger_without_an_answer_leaves_it_to_the_vote(scripted: Scripted, merged: str | Failure) -> None:
    book = Book(merged, general="It is 5.", sums="It is 5.", law="It is 6.")
    state = one(scripted.pipeline(registry(), book))

    assert len(book.merges) == 1 and state.answers[0].text == "5"
    assert trace_of(state, 0)["merge"]["answer"] is None


def test_one_answer_is_nothing_to_merge(scripted: Scripted) -> None:
    book = Book(general="It is 5.", sums="no idea", law=Failure("refused", "out of order"))
    state = one(scripted.pipeline(registry(), book))

    assert book.merges == [] and state.answers[0].text == "5"


def test_a_budget_that_ends_before_the_merge_leaves_the_row_for_the_next_start(scripted: Scripted) -> None:
    book = Book(general="It is 4.", sums="It is 5.", law="It is 6.")
    pipeline = scripted.pipeline(registry(), book)

    assert one(pipeline, budget=Budget(Limits(calls=3))).withheld == (True,)
    again = one(pipeline)
    assert (again.answers[0].text, again.withheld) == ("5", (False,))
    assert len([request for request in book.asked if request.role == "draft"]) == 3, "drafts are in the store"


def test_the_merger_has_to_be_an_expert(scripted: Scripted) -> None:
    with pytest.raises(ConfigError, match="nobody"):
        scripted.pipeline(registry("by: nobody"), Book())


def test_digits_of_the_fence_are_no_answer(scripted: Scripted) -> None:
    def say(request: Request) -> str:
        if request.role != "merge":
            return "It is 5." if request.arm == "sums" else "It is 4."
        prompt = request.streams[0].prompt
        text = prompt if isinstance(prompt, str) else prompt[-1].content
        return f"The answer is: {text[text.index('==') :].split()[0].strip('=')}"

    state = one(scripted.pipeline(registry("by: general, sure: 0.99"), say))
    told = trace_of(state, 0)["merge"]
    assert (state.answers[0].text, told["answer"], told["draft"]) == ("4", None, "The answer is:")
