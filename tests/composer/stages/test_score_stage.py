"""Scoring: what is rated, how ratings become a score, which answer is taken, and when nobody is asked."""

from __future__ import annotations

import pytest

from composer.answers.capabilities import CAPABILITIES
from composer.answers.rating import Scorer
from composer.budget import Budget, Limits
from composer.errors import ConfigError
from composer.pipeline import Pipeline
from composer.places import scorers_folder
from composer.records.scorer import ScorerRecord, write_scorers
from composer.show import drafts_text
from composer.traced import calls_of, trace_of
from composer.types import Failure, Request
from tests.composer.scripted import Scripted
from tests.composer.stages.settling import Book, one, registry, shown

STEP = "use: score, options: {by: general}"
DIFFER = {"general": "It is 4.", "sums": "It is 5.", "law": "It is 6."}
NUMBER = CAPABILITIES["number"]


def rates(**ratings: str) -> object:
    """A scorer that gives each answer (`four`, `five`, `six`) a digit per capability question."""
    words = {"It is 4.": ratings["four"], "It is 5.": ratings["five"], "It is 6.": ratings["six"]}

    def say(request: Request) -> str:
        [own] = [digits for text, digits in words.items() if text in shown(request)]
        [place] = [place for place, question in enumerate(NUMBER) if question in shown(request)]
        return own[place]

    return say


def book(**ratings: str) -> Book:
    return Book(DIFFER, score=rates(**ratings))  # type: ignore[arg-type]


def test_each_different_answer_is_rated_on_every_question_and_the_best_is_taken(scripted: Scripted) -> None:
    asked = Book({**DIFFER, "law": "It is 4."}, score=rates(four="2222", five="3332", six="1111"))  # type: ignore[arg-type]
    state = one(scripted.pipeline(registry(STEP), asked))

    assert len(asked.of("score")) == 2 * len(NUMBER), "two different answers"
    assert (state.answers[0].text, state.answers[0].chosen) == ("5", "sums")
    trace = trace_of(state, 0)
    assert {rated["answer"]: rated["score"] for rated in trace["merge"]["ratings"]} == {"4": 2.0, "5": 2.75}
    assert "no ridge is fitted" in trace["merge"]["note"]
    assert [call["role"] for call in calls_of(trace)].count("score") == 8
    text = drafts_text(trace)
    assert "score    2.75 by general for sums: 5 (3 3 3 2)" in text and "no ridge is fitted" in text


def test_who_wrote_a_draft_is_not_told(scripted: Scripted) -> None:
    asked = book(four="1111", five="2222", six="3333")
    one(scripted.pipeline(registry(STEP), asked))

    assert not any(name in shown(request) for request in asked.of("score") for name in ("sums", "law"))


def test_equal_scores_are_left_to_the_vote_among_them(scripted: Scripted) -> None:
    said = {"general": "It is 6.", "sums": "It is 5.", "law": "It is 5."}
    asked = Book(said, score=rates(four="1111", five="4343", six="3434"))  # type: ignore[arg-type]

    assert one(scripted.pipeline(registry(STEP), asked)).answers[0].text == "5"


@pytest.mark.parametrize("reply", ["I like it", Failure("refused", "out of order")])
def test_ratings_that_cannot_be_read_leave_it_to_the_vote(scripted: Scripted, reply: str | Failure) -> None:
    asked = Book({**DIFFER, "law": "It is 5."}, score=lambda _: reply)
    state = one(scripted.pipeline(registry(STEP), asked))

    assert state.answers[0].text == "5"
    told = trace_of(state, 0)["merge"]
    assert told["why"] == "none of its ratings could be read" + (": out of order" if reply != "I like it" else "")
    assert [rated["score"] for rated in told["ratings"]] == [None, None]


def test_where_all_agree_nobody_is_asked(scripted: Scripted) -> None:
    asked = Book(dict.fromkeys(DIFFER, "It is 5."), score=lambda _: "5")
    state = one(scripted.pipeline(registry(STEP), asked))

    assert asked.of("score") == [] and trace_of(state, 0)["merge"]["why"] == "all drafts say the same"


def fitted(pipeline: Pipeline, weights: tuple[float, ...], print_: str | None = None) -> None:
    own = pipeline.registry.prints()["general"] if print_ is None else print_
    scorer = Scorer({"number": NUMBER}, {"number": weights})
    write_scorers(scorers_folder(pipeline.registry), [ScorerRecord("general", own, scorer, 0.1, 0.05, 0.15, 60)])


def test_a_fitted_ridge_weighs_the_ratings(scripted: Scripted) -> None:
    asked = book(four="5551", five="1115", six="3333")
    pipeline = scripted.pipeline(registry(STEP), asked)
    fitted(pipeline, (0.0, 0.0, 0.0, 1.0))
    state = one(pipeline)

    assert state.answers[0].text == "5", "the mean would have taken 4"
    told = trace_of(state, 0)["merge"]
    assert "note" not in told and max(rated["score"] for rated in told["ratings"]) == 5.0


def test_a_ridge_of_another_expert_or_of_other_questions_is_not_used(scripted: Scripted) -> None:
    pipeline = scripted.pipeline(registry(STEP), book(four="5551", five="1115", six="3333"))
    fitted(pipeline, (0.0, 0.0, 0.0, 1.0), "0" * 64)
    state = one(pipeline)
    assert state.answers[0].text == "4" and "no ridge is fitted" in trace_of(state, 0)["merge"]["note"]
    assert any("scorers of general" in text and "left out" in text for text in scripted.said)

    own = "[Is it short?, Is it whole?, Is it right?]"
    other = registry(f"use: score, options: {{by: general, questions: {{number: {own}}}}}")
    asked = Book(DIFFER, score=lambda request: "5" if "It is 6." in shown(request) else "2")
    pipeline = scripted.pipeline(other, asked)
    fitted(pipeline, (0.0, 0.0, 0.0, 1.0))
    state = one(pipeline)
    assert len(asked.of("score")) == 9 and state.answers[0].text == "6"
    assert "no ridge is fitted" in trace_of(state, 0)["merge"]["note"]


def test_a_budget_that_ends_before_the_ratings_leaves_the_row_for_the_next_start(scripted: Scripted) -> None:
    asked = book(four="1111", five="5555", six="1111")
    pipeline = scripted.pipeline(registry(STEP), asked)

    assert one(pipeline, budget=Budget(Limits(calls=9))).withheld == (True,)
    again = one(pipeline)
    assert (again.answers[0].text, again.withheld) == ("5", (False,))
    assert len(asked.of("draft")) == 3 and len(asked.of("score")) == 12, "what was paid for is in the store"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("by: nobody", "no expert is called 'nobody'"),
        ("by: genral", "did you mean `general`"),
        ("by: general, questions: {number: [One?]}", "expected 3 to 5"),
        ("by: general, questions: {numbre: [A?, B?, C?]}", r"numbre is no skill .*\n.*did you mean `number`"),
    ],
)
def test_options_that_cannot_be_are_refused_by_their_line(scripted: Scripted, options: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as refused:
        scripted.pipeline(registry(f"use: score, options: {{{options}}}"), book(four="1", five="1", six="1"))
    assert "experts.yaml:" in str(refused.value)


def test_a_skill_of_the_registry_may_have_questions_of_its_own(scripted: Scripted) -> None:
    text = registry("use: score, options: {by: general, questions: {sums: [A?, B?, C?]}}")
    scripted.pipeline(text.replace("system: S.", "system: S., skills: [sums]"), book(four="1", five="1", six="1"))
