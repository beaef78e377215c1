"""Text that is written token by token: characters whole, stop texts out, pieces that join to the text."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from composer.engines.written import Written
from composer.types import Delta


def write(pieces: list[bytes], *stop: str) -> tuple[Written, list[Delta], bool]:
    told: list[Delta] = []
    written = Written(stop, told.append)
    ended = any(written.add(piece) for piece in pieces)
    written.end()
    return written, told, ended


@given(st.text(), st.lists(st.integers(0, 40), max_size=8))
def test_pieces_of_any_bytes_join_to_the_text_and_none_ends_within_a_character(text: str, cuts: list[int]) -> None:
    raw = text.encode("utf-8", "ignore")
    at = sorted({0, len(raw), *(cut for cut in cuts if cut < len(raw))})
    written, told, ended = write([raw[a:b] for a, b in pairwise(at)])

    assert written.text == raw.decode() and not ended
    assert "".join(delta.text for delta in told) == written.text
    assert [delta.at for delta in told] == [sum(len(one.text) for one in told[:i]) for i in range(len(told))]


@pytest.mark.parametrize("size", [1, 2, 3, 50])
def test_a_stop_text_ends_the_text_before_it_and_nothing_of_it_is_told(size: int) -> None:
    raw = b"one two THE END and more"
    written, told, ended = write([raw[i : i + size] for i in range(0, len(raw), size)], "END", "THE END", "never")

    assert ended and written.text == "one two " and written.met == "THE END"
    assert "".join(delta.text for delta in told) == written.text


def test_what_only_began_like_a_stop_text_is_told_at_the_end() -> None:
    written, told, ended = write([b"a", b"b<", b"/s"], "</s>")

    assert not ended and written.text == "ab</s" and "".join(delta.text for delta in told) == "ab</s"
    assert told[-1] == Delta("</s", 2)


def test_a_character_that_never_ends_is_one_that_stands_for_it() -> None:
    written, told, _ = write([b"a", "😀".encode()[:2]])

    assert written.text == "a\ufffd" and [delta.text for delta in told] == ["a", "\ufffd"]
