"""What a caller wishes holds for every text that may be returned to it, whoever writes it, and for nothing else."""

from __future__ import annotations

import asyncio

import pytest

from composer.asker import Wishes
from composer.pipeline import Pipeline
from composer.state import Query, State
from composer.types import Draft, Request, Role, Sampling
from tests.composer.scripted import Scripted
from tests.composer.stages.settling import Book, registry, shown

SAID = {"general": "It is 4.", "sums": "It is 5.", "law": "It is 6."}
WISHES = Wishes(max_tokens=7, temperature=0.5, top_p=0.9, seed=10, stop=("x",), sample=2)


def wished(pipeline: Pipeline, wishes: Wishes = WISHES) -> State:
    return asyncio.run(pipeline.astate([Query("q", "What is 2 + 3?", wishes=wishes)]))


def checks(request: Request) -> str:
    return "RIGHT" if "It is 5." in shown(request) else "WRONG."


@pytest.mark.parametrize(
    ("step", "texts", "others"),
    [
        ("use: merge, options: {by: law}", ["merge"], []),
        ("use: judge, options: {by: law}", [], ["judge"]),
        ("use: score, options: {by: law}", [], ["score"]),
        ("use: refine, options: {by: law}", ["refine"], ["check"]),
        ("use: discuss", ["discuss"], []),
    ],
    ids=lambda value: value.split()[1] if isinstance(value, str) else "",
)
def test_wishes_hold_for_texts_and_not_for_verdicts(
    scripted: Scripted, step: str, texts: list[Role], others: list[Role]
) -> None:
    five = dict.fromkeys(texts, lambda _: "It is 5.")
    book = Book(SAID, **{**five, "judge": lambda _: "A", "score": lambda _: "4", "check": checks})  # type: ignore[arg-type]
    wished(scripted.pipeline(registry(step), book))

    drawn = Sampling(max_tokens=7, temperature=0.5, top_p=0.9, seed=12, stop=("x",))
    for role in ("draft", *texts):
        assert {(one.sampling, one.sample) for one in book.of(role)} == {(drawn, 2)}, role
    for role in others:
        assert book.of(role)
        assert {(one.sampling.temperature, one.sampling.stop, one.sample) for one in book.of(role)} == {(0.0, (), 0)}


def test_who_is_greedy_is_not_drawn_from_again(scripted: Scripted) -> None:
    book = Book(SAID, merge=lambda _: "It is 5.")
    wished(scripted.pipeline(registry("use: merge, options: {by: law}"), book), Wishes(max_tokens=7))

    assert [(one.sampling, one.sample) for one in book.of("merge")] == [(Sampling(max_tokens=7), 0)]


def test_a_merger_that_wants_more_than_the_caller_leaves_it_to_the_vote(scripted: Scripted) -> None:
    book = Book({**SAID, "law": "It is 5."}, merge=lambda _: Draft("", "Let me first look at all of", "length"))
    state = wished(scripted.pipeline(registry("use: merge, options: {by: law}"), book))

    assert (state.answers[0].text, state.answers[0].status) == ("5", "ok")
