"""Judging: each two answers in both orders, who wins, and when the vote stands."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from composer.pipeline import Pipeline
from composer.state import Query, State
from composer.traced import trace_of
from composer.types import Draft, Failure, Request
from tests.composer.scripted import MODEL, Scripted

REGISTRY = (
    f"{MODEL}experts:\n  general: {{model: small, answers: number}}\n  sums: {{model: small, answers: number, system: S.}}\n"
    "  law: {model: small, answers: number, system: L.}\n"
    "pipeline:\n  - {use: decide, options: {k: 8}}\n  - use: generate\n  - use: verify\n"
    "  - {use: judge, options: {by: general}}\n  - {use: aggregate, options: {by: majority}}\n"
)


class Book:
    """Experts say what is theirs; the judge answers by `verdict`, given the texts in the places A and B."""

    def __init__(self, verdict: Callable[[str, str], str], **said: str) -> None:
        self.verdict, self.said, self.asked = verdict, said, list[Request]()

    def __call__(self, request: Request) -> str | Draft | Failure:
        self.asked.append(request)
        if request.role != "judge":
            return self.said[request.arm]
        prompt = request.streams[0].prompt
        text = prompt if isinstance(prompt, str) else prompt[-1].content
        places = {text.index(said): said for said in set(self.said.values()) if said in text}
        return self.verdict(*(places[place] for place in sorted(places)))

    @property
    def judged(self) -> int:
        return sum(request.role == "judge" for request in self.asked)


def one(pipeline: Pipeline) -> State:
    return asyncio.run(pipeline.astate([Query("q", "What is 2 + 3?")]))


def fair(first: str, second: str) -> str:
    return "A" if "5" in first else "B" if "5" in second else "neither"


def test_every_two_answers_meet_in_both_orders_and_the_winner_is_taken(scripted: Scripted) -> None:
    book = Book(fair, general="It is 4.", sums="It is 5.", law="It is 6.")
    state = one(scripted.pipeline(REGISTRY, book))

    assert book.judged == 6
    assert (state.answers[0].text, state.answers[0].chosen) == ("5", "sums")
    duels = trace_of(state, 0)["merge"]["duels"]
    assert [won for *_, won in duels].count("sums") == 2


def test_equal_answers_meet_once(scripted: Scripted) -> None:
    book = Book(fair, general="It is 4.", sums="It is 5.", law="It is 4.")
    state = one(scripted.pipeline(REGISTRY, book))

    assert book.judged == 2 and state.answers[0].text == "5"


@pytest.mark.parametrize("verdict", [lambda *_: "A", lambda *_: "B", lambda *_: "I like both"])
def test_a_judge_that_prefers_a_place_leaves_it_to_the_vote(
    scripted: Scripted, verdict: Callable[[str, str], str]
) -> None:
    book = Book(verdict, general="It is 4.", sums="It is 5.", law="It is 5.")
    state = one(scripted.pipeline(REGISTRY, book))

    assert book.judged == 2 and state.answers[0].text == "5"
    assert trace_of(state, 0)["merge"]["why"] == "it prefers none of them"


def test_where_all_agree_nobody_judges(scripted: Scripted) -> None:
    book = Book(fair, general="It is 5.", sums="5", law="It is 5.")
    state = one(scripted.pipeline(REGISTRY, book))

    assert book.judged == 0 and state.answers[0].text == "5"
