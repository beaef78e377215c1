"""One answer out of several drafts."""

from __future__ import annotations

import doctest

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from composer.answers import vote as module
from composer.answers.vote import Aggregator, Candidate, Choice, best, majority

CALM = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a busy machine is no failure
CANDIDATES = st.lists(
    st.builds(
        Candidate,
        arm=st.sampled_from("abc"),
        score=st.sampled_from([0.0, 0.25, 0.5, 1.0]),
        answer=st.none() | st.sampled_from("123"),
        text=st.sampled_from(["", " ", "text"]),
    ),
    max_size=6,
)


def draft(score: float, answer: str | None, text: str = "text") -> Candidate:
    return Candidate("arm", score, answer, text)


def take(aggregator: Aggregator, *row: Candidate) -> Choice:
    [choice] = aggregator.combine([row])
    return choice


def test_the_examples_in_the_docstrings_hold() -> None:
    assert doctest.testmod(module).failed == 0


def test_the_best_scored_draft_with_an_answer_is_taken() -> None:
    choice = take(best(), draft(0.9, None), draft(0.5, "4"), draft(0.6, "5"), draft(0.1, "5"))

    assert (choice.index, choice.answer, choice.agreement) == (2, "5", 0.5)


def test_equal_scores_go_to_the_draft_planned_first() -> None:
    assert take(best(), draft(0.5, "4"), draft(0.5, "5")).index == 0


def test_most_votes_win_over_the_highest_score() -> None:
    choice = take(majority(), draft(0.9, "4"), draft(0.1, "5"), draft(0.3, "5"))

    assert (choice.index, choice.answer, choice.agreement) == (2, "5", 2 / 3)


def test_drafts_without_an_answer_never_agree_with_each_other() -> None:
    choice = take(majority(), draft(0.9, None), draft(0.9, None), draft(0.9, None), draft(0.1, "5"))

    assert (choice.index, choice.answer, choice.agreement) == (3, "5", 0.25)


def test_a_tied_vote_goes_to_the_higher_sum_of_scores() -> None:
    choice = take(majority(), draft(0.4, "4"), draft(0.5, "5"), draft(0.4, "4"), draft(0.4, "5"))

    assert (choice.index, choice.answer) == (1, "5")
    assert "tie" in choice.why


def test_a_vote_tied_in_scores_too_goes_to_the_answer_planned_first() -> None:
    assert take(majority(), draft(0.5, "4"), draft(0.5, "5")).answer == "4"


@pytest.mark.parametrize("make", [best, majority])
def test_without_any_answer_the_best_draft_is_taken_and_marked(make: type[Aggregator]) -> None:
    choice = take(make(), draft(0.9, None, text=" "), draft(0.2, None), draft(0.4, None))

    assert (choice.index, choice.answer, choice.agreement) == (2, None, 0.0)
    assert "no answer could be read" in choice.why


@pytest.mark.parametrize("make", [best, majority])
def test_nothing_is_taken_where_nothing_was_written(make: type[Aggregator]) -> None:
    assert take(make()).index is None
    assert take(make(), draft(0.9, None, text="")).index is None


@pytest.mark.parametrize("make", [best, majority])
@CALM
@given(rows=st.lists(CANDIDATES, max_size=4))
def test_every_row_gets_one_consistent_choice(make: type[Aggregator], rows: list[list[Candidate]]) -> None:
    choices = make().combine(rows)

    for row, choice in zip(rows, choices, strict=True):
        same = [c for c in row if c.answer is not None and c.answer == choice.answer]
        assert choice.index is None or row[choice.index].answer == choice.answer
        assert choice.agreement == (len(same) / len(row) if same else 0.0)
        assert (choice.answer is None) == all(c.answer is None for c in row)
