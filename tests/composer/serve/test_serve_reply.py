"""Passing a draft on while it is written: nothing twice, nothing left out, and no join of two replies."""

from __future__ import annotations

import pytest

from composer.serve.refusal import Refused
from composer.serve.reply import Passing


def test_pieces_and_the_rest_are_the_whole_text() -> None:
    passing = Passing()

    told = [passing.take("one ", 0), passing.take("two", 4), passing.rest("one two three")]

    assert told == ["one ", "two", " three"]


def test_a_draft_that_is_begun_again_is_heard_once() -> None:
    passing = Passing()
    passing.take("one ", 0)
    passing.take("two", 4)

    assert [passing.take(text, at) for text, at in (("one", 0), (" two th", 3), ("ree", 10))] == ["", " th", "ree"]


def test_a_draft_that_is_heard_from_the_middle_comes_as_a_whole() -> None:
    passing = Passing()

    told = [passing.take("two ", 4), passing.take("three", 8), passing.take("?", None), passing.rest("one two three")]

    assert told == ["", "", "", "one two three"]


@pytest.mark.parametrize(("text", "at"), [("three", 0), ("x two three", 2)])
def test_another_reply_is_not_joined_to_the_first(text: str, at: int) -> None:
    passing = Passing()
    passing.take("one two", 0)

    with pytest.raises(Refused, match="another reply"):
        passing.take(text, at)
