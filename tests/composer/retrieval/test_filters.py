"""The filters of passages that experts write: what they keep, and what they can and cannot tell."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from composer.retrieval.filters import LONG, agreed, brief, checked, compared, drawn, likely, relevant
from composer.retrieval.knowledge import Written, distinct, enough, named, passages, whole
from composer.types import Draft, Failure, Request, Stream

ASKED = "Which river flows through Norwick?"
TAS, YARE = "Norwick lies on the river Tas.", "Norwick lies on the river Yare."


def written(*texts: str, card: str = "towns") -> list[Written]:
    return [Written(card, sample, text) for sample, text in enumerate(texts)]


def test_relevance_takes_the_largest_dot_products_and_of_equal_ones_the_first() -> None:
    vectors = {"a": np.array([0.1, 1]), "b": np.array([0.9, 0]), "c": np.array([0.9, 1]), "d": np.array([0.2, 0])}
    found = relevant(written("a", "b", "c", "d"), np.array([1, 0]), vectors, 3)
    assert [one.text for one in found] == ["b", "c", "d"]


def test_brevity_keeps_whole_sentences_in_their_order_and_leaves_short_passages_alone() -> None:
    parts = ["Norwick has nine bridges over it.", "Nobody has ever counted the birds that live there.", TAS]
    long = " ".join([*parts, "Here is some more that has nothing at all to do with the question."])
    scores = dict(zip([*parts, long.removeprefix(" ".join(parts) + " ")], (0.5, 0.1, 0.9, 0.2), strict=True))
    vectors = {text: np.array([score]) for text, score in scores.items()}
    assert len(long) > LONG
    assert brief(written(long)[0], np.array([1]), vectors).text == f"{parts[0]} {TAS}"
    assert brief(written(TAS)[0], np.array([1]), {}).text == TAS
    endless = "a long sentence that has no end and " * 5
    assert brief(written(endless)[0], np.array([1]), {}).text == endless


@pytest.mark.parametrize(
    ("other", "found"),
    [
        (TAS, 1),
        (YARE, -1),
        ("Norwick: river Tas.", 1),
        ("The river Tas.", 0),  # nobody knows of what
        ("Norwick has nine bridges.", 0),
        ("Exby lies on the river Exe.", 0),  # another subject contradicts nothing
        ("Norwick does not lie on the river Tas.", -1),
        ("Norwick.", 0),
        ("", 0),
    ],
)
def test_sentences_are_compared_by_what_they_say_of_the_same(other: str, found: int) -> None:
    assert compared(TAS, other, ASKED) == found
    assert compared(other, TAS, ASKED) == found


def test_a_claim_is_checked_sentence_by_sentence() -> None:
    known = [f"{TAS} Norwick has nine bridges."]
    assert checked(TAS, known, ASKED) == 1
    assert checked(YARE, known, ASKED) == 0
    assert checked("The mayor of Norwick sings.", known, ASKED) == 0.5
    assert checked(f"Norwick has nine bridges. {YARE}", known, ASKED) == 0  # a truth beside it makes no lie true
    assert checked(TAS, [YARE, TAS], ASKED) == 1


def test_a_card_that_always_says_the_same_is_believed_more_than_one_that_wavers_and_a_lie_ties() -> None:
    steady = agreed(written(TAS, TAS, TAS), ASKED)
    assert {round(one.truth, 3) for one in steady} == {0.667}
    wavering = agreed(written(TAS, YARE, "Norwick lies on the river Exe."), ASKED)
    assert all(one.truth < 0.5 for one in wavering)
    tied = agreed([*written(TAS, TAS), *written(YARE, YARE, card="liar")], ASKED)
    assert {one.truth for one in tied} == {0.5}
    outvoted = agreed([*written(TAS), *written(TAS, card="maps"), *written(YARE, YARE, YARE, YARE, card="liar")], ASKED)
    assert [one.truth > 0.5 for one in outvoted] == [True, True, False, False, False, False]  # a card has one vote
    assert [one.text for one in likely(outvoted)] == [TAS, TAS]


def test_a_draw_goes_by_truth_never_takes_one_twice_and_is_the_same_each_time() -> None:
    pool = [Written("towns", n, f"text {n}", truth) for n, truth in enumerate((0.9, 0.3, 0.3, 0.3, 0.0, 0.0))]
    counts: Counter[str] = Counter()
    for seed in range(400):
        found = drawn(pool, 2, str(seed))
        assert len({one.text for one in found}) == 2
        assert found == drawn(pool, 2, str(seed))
        assert [one.sample for one in found] == sorted(one.sample for one in found)
        counts.update(one.text for one in found)
    assert counts["text 0"] > 1.5 * counts["text 1"] > 0
    assert counts["text 4"] + counts["text 5"] == 0  # not among the 2 k most likely
    assert drawn(pool[:2], 2, "x") == pool[:2]


@given(st.text(alphabet="ab .!?\n1A", max_size=60))
def test_cutting_an_unfinished_sentence_loses_nothing_before_it(text: str) -> None:
    assert text.startswith(whole(text))
    assert bool(whole(text).strip()) == bool(text.strip())


def test_passages_come_in_the_order_of_the_requests_without_what_failed_or_is_empty() -> None:
    requests = [Request(str(n), (Stream("towns", ""),), arm="towns") for n in range(5)]
    drafts = {
        "4": Draft("", TAS, "stop"),
        "3": Draft("", "", "error", error=Failure("refused", "no")),
        "2": Draft("", " \u200b", "stop"),
        "1": Draft("", f"{YARE} And then", "length"),
        "0": Draft("", TAS, "cancelled"),
    }
    assert [one.text for one in passages(drafts, requests)] == [YARE, TAS]


def test_equal_passages_are_one_whatever_their_case_and_signs() -> None:
    found = distinct(written(TAS, TAS.upper(), YARE, "norwick - lies on the river Yare"), but=["text"])
    assert [one.text for one in found] == [TAS, YARE]
    assert distinct(written(TAS), but=[TAS.lower()]) == []


def test_a_call_that_failed_says_neither_no_nor_a_name() -> None:
    failed = Draft("", "no towns", "error", error=Failure("timeout", "late"))
    assert not enough(failed)
    assert named(failed, ("towns",)) is None
    assert named(Draft("", "townsfolk know", "stop"), ("towns", "know")) == "know"
