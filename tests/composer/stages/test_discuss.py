"""Discussion: who is asked again and what each is shown, when it ends, and what stands after it."""

from __future__ import annotations

import asyncio

import pytest

from composer.budget import Budget, Limits
from composer.pipeline import Pipeline
from composer.state import Query, State
from composer.traced import calls_of, trace_of
from composer.types import Draft, Failure, Request
from tests.composer.scripted import MODEL, Scripted


def registry(options: str = "rounds: 1") -> str:
    return (
        f"{MODEL}experts:\n  general: {{model: small, answers: number}}\n  sums: {{model: small, answers: number, system: S.}}\n"
        "  law: {model: small, answers: number, system: L.}\n"
        "pipeline:\n  - {use: decide, options: {k: 8}}\n  - use: generate\n  - use: verify\n"
        f"  - {{use: discuss, options: {{{options}}}}}\n  - {{use: aggregate, options: {{by: majority}}}}\n"
    )


class Book:
    """Experts say what is theirs; in each round of discussion the next of what they say then."""

    def __init__(self, first: dict[str, str], *later: dict[str, str | Failure]) -> None:
        self.first, self.later, self.asked = first, later, list[Request]()

    def __call__(self, request: Request) -> str | Draft | Failure:
        self.asked.append(request)
        if request.role == "draft":
            return self.first[request.arm]
        return self.later[int(request.id.rsplit(":", 1)[1])][request.arm]

    @property
    def discussing(self) -> list[Request]:
        return [request for request in self.asked if request.role == "discuss"]


def shown(request: Request) -> str:
    prompt = request.streams[0].prompt
    return prompt if isinstance(prompt, str) else prompt[-1].content


def one(pipeline: Pipeline, **more: object) -> State:
    return asyncio.run(pipeline.astate([Query("q", "What is 2 + 3?")], **more))  # type: ignore[arg-type]


DIFFER = {"general": "It is 4.", "sums": "It is 5.", "law": "It is 6."}
AGREED: dict[str, str | Failure] = {"general": "It is 5.", "sums": "It is 5.", "law": "It is 6."}
ALIKE: dict[str, str | Failure] = dict.fromkeys(DIFFER, "It is 5.")


def test_who_differs_sees_what_all_said_and_answers_again(scripted: Scripted) -> None:
    book = Book(DIFFER, AGREED)
    state = one(scripted.pipeline(registry(), book))

    assert {request.arm for request in book.discussing} == set(DIFFER)
    assert all(said in shown(request) for request in book.discussing for said in DIFFER.values())
    assert state.answers[0].text == "5" and state.answers[0].agreement == pytest.approx(2 / 3)
    [told] = trace_of(state, 0)["discussed"]
    assert sorted(draft["answer"] for draft in told["drafts"]) == ["4", "5", "6"]
    assert set(told["asked"]) == set(DIFFER)
    calls = calls_of(trace_of(state, 0))
    assert [call["role"] for call in calls] == ["first round"] * 3 + ["discuss"] * 3 and len(book.asked) == 6


def test_who_agrees_is_not_asked_again(scripted: Scripted) -> None:
    book = Book(dict.fromkeys(DIFFER, "It is 5."))
    state = one(scripted.pipeline(registry("rounds: 2"), book))

    assert book.discussing == [] and state.answers[0].text == "5"
    assert "discussed" not in trace_of(state, 0)


@pytest.mark.parametrize(("second", "rounds"), [(ALIKE, 1), (AGREED, 2)])
def test_a_second_round_only_where_they_still_differ(
    scripted: Scripted, second: dict[str, str | Failure], rounds: int
) -> None:
    book = Book(DIFFER, second, ALIKE)
    state = one(scripted.pipeline(registry("rounds: 2"), book))

    assert len(book.discussing) == 3 * rounds and len(state.discussed[0]) == rounds
    assert (state.answers[0].text, state.answers[0].agreement) == ("5", 1.0)


def test_fewer_may_discuss_than_answered(scripted: Scripted) -> None:
    book = Book(DIFFER, AGREED)
    state = one(scripted.pipeline(registry("k: 1, reroute: false"), book))

    assert len(book.discussing) == 1
    assert len(state.replies[0]) == 1 and len(state.discussed[0][0].replies) == 3


def test_a_round_in_which_nobody_says_anything_changes_nothing(scripted: Scripted) -> None:
    book = Book({**DIFFER, "law": "It is 5."}, dict.fromkeys(DIFFER, Failure("refused", "out of order")))
    state = one(scripted.pipeline(registry(), book))

    assert state.answers[0].text == "5" and len(state.replies[0]) == 3
    calls = calls_of(trace_of(state, 0))
    assert [call["role"] for call in calls] == ["discuss"] * 3 + ["draft"] * 3, "what was said first stands"


def test_a_round_that_the_budget_cuts_is_left_for_the_next_start(scripted: Scripted) -> None:
    book = Book(DIFFER, AGREED)
    pipeline = scripted.pipeline(registry(), book)

    assert one(pipeline, budget=Budget(Limits(calls=4))).withheld == (True,)
    again = one(pipeline)
    assert (again.answers[0].text, again.withheld) == ("5", (False,))
