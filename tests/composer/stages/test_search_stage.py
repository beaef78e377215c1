"""Searching: who is asked along which path, what is shared, what a verifier decides, and what is told of it."""

from __future__ import annotations

import pytest

from composer.budget import Budget, Limits
from composer.errors import ConfigError
from composer.show import drafts_text
from composer.traced import calls_of, trace_of
from composer.types import Failure, Request
from tests.composer.scripted import Scripted
from tests.composer.stages.settling import Book, one, registry, shown

STEP = "use: search, options: {paths: 3, beam: 2, rounds: 2}"
SAID: dict[str, str | Failure] = {"general": "It is 4.", "sums": "It is 5.", "law": "It is 5."}


def again(request: Request) -> str | Failure:
    """Who has seen others goes with the 5."""
    return "It is 5." if "Here are responses" in shown(request) else SAID[request.arm]


def test_paths_of_one_two_and_three_experts_go_on_having_seen_their_own_drafts(scripted: Scripted) -> None:
    book = Book(SAID, search=again)
    state = one(scripted.pipeline(registry(STEP, k=2), book))

    trace = trace_of(state, 0)
    first = [path for path in trace["merge"]["paths"] if path["round"] == 1]
    second = [path for path in trace["merge"]["paths"] if path["round"] == 2]
    assert [path["k"] for path in first] == [1, 2, 3]
    assert all(len(path["said"]) == path["k"] for path in first + second)
    kept = {path["k"] for path in first if path["kept"]}
    assert len(kept) == 2 and {path["k"] for path in second} == kept
    plain = [request for request in book.of("search") if "Here are responses" not in shown(request)]
    assert len(plain) == 1, "two of three drafts were there"
    assert state.answers[0].text == "5"
    assert len(calls_of(trace)) == len(book.asked), "every call once"
    assert "path     round 1, 1 at a time: general: 4; 4 is worth 0.33" in drafts_text(trace)


def test_at_temperature_0_paths_of_one_width_are_one(scripted: Scripted) -> None:
    book = Book(SAID, search=again)
    state = one(scripted.pipeline(registry("use: search, options: {paths: 9, beam: 3}"), book))

    paths = trace_of(state, 0)["merge"]["paths"]
    assert [path["k"] for path in paths if path["round"] == 1] == [1, 2, 3]
    assert len([path for path in paths if path["round"] == 2]) == 3
    assert {request.sample for request in book.asked} == {0}


def test_with_a_temperature_paths_of_one_width_draw_anew(scripted: Scripted) -> None:
    book = Book(SAID, search=lambda request: "It is 5." if request.sample else again(request))
    text = registry("use: search, options: {paths: 6, beam: 2, rounds: 1}", warm=True)
    state = one(scripted.pipeline(text, book))

    paths = trace_of(state, 0)["merge"]["paths"]
    assert sorted(path["k"] for path in paths) == [1, 1, 2, 2, 3, 3]
    drawn = {(request.arm, request.sample, request.sampling.seed) for request in book.of("search")}
    assert drawn == {(arm, 1, 1) for arm in SAID}, "sample 0 was there"
    assert state.answers[0].text == "5"


def test_where_all_paths_say_the_same_there_is_no_second_round(scripted: Scripted) -> None:
    book = Book(dict.fromkeys(SAID, "It is 5."), search=again)
    state = one(scripted.pipeline(registry(STEP), book))

    assert book.of("search") == [] and state.answers[0].text == "5"


def test_more_experts_than_were_asked_are_asked_by_wider_paths(scripted: Scripted) -> None:
    book = Book(SAID, search=again)
    state = one(scripted.pipeline(registry("use: search, options: {paths: 3, rounds: 1}", k=1), book))

    assert {request.arm for request in book.of("search")} == {"sums", "law"}
    assert set(state.asked[0]) == set(SAID) and state.answers[0].text == "5"


def test_an_expert_as_the_verifier_outweighs_the_many(scripted: Scripted) -> None:
    said: dict[str, str | Failure] = {"general": "It is 4.", "sums": "It is 5.", "law": "It is 5."}
    book = Book(said, check=lambda request: "RIGHT" if "It is 4." in shown(request) else "WRONG")
    text = registry("use: search, options: {paths: 3, rounds: 1, by: law}")
    state = one(scripted.pipeline(text, book))

    assert len(book.of("check")) == 2, "each answer once"
    assert state.answers[0].text == "4"
    assert trace_of(state, 0)["merge"]["by"] == "law"


def test_where_nothing_is_worth_anything_it_is_left_to_the_vote(scripted: Scripted) -> None:
    book = Book(SAID, check=lambda _: "WRONG")
    state = one(scripted.pipeline(registry("use: search, options: {paths: 3, rounds: 1, by: law}"), book))

    assert state.answers[0].text == "5" and "no path" in trace_of(state, 0)["merge"]["why"]


@pytest.mark.parametrize("calls", [2, 3, 4])
def test_a_budget_that_ends_on_the_way_leaves_the_row_for_the_next_start(scripted: Scripted, calls: int) -> None:
    book = Book(SAID, search=again)
    pipeline = scripted.pipeline(registry(STEP, k=2), book)

    assert one(pipeline, budget=Budget(Limits(calls=calls))).withheld == (True,)
    whole = one(pipeline)
    assert (whole.answers[0].text, whole.withheld) == ("5", (False,))


def test_the_verifier_has_to_be_an_expert(scripted: Scripted) -> None:
    with pytest.raises(ConfigError, match="nobody"):
        scripted.pipeline(registry("use: search, options: {by: nobody}"), Book(SAID))


def test_more_paths_than_there_are_cannot_go_on(scripted: Scripted) -> None:
    with pytest.raises(ConfigError, match=r"options\.beam\): 9 paths cannot go on where 4 are followed"):
        scripted.pipeline(registry("use: search, options: {paths: 4, beam: 9}"))
