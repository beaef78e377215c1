"""Event streams are the same however they arrive, packed or not."""

from __future__ import annotations

import gzip
import random
from typing import Any

import pytest

from composer.engines.sse import Corrupt, Events, Gunzip

WHOLE = b": hello\n\ndata: Gr\xc3\xbc\xc3\x9fe\n\nevent: x\nid: 7\ndata:two\ndata: lines\n\n\n\ndata\n\ndata: left"
EVENTS = ["Grüße", "two\nlines", ""]


def read(raw: bytes, size: int) -> list[str]:
    events = Events()
    pieces = [raw[i : i + size] for i in range(0, len(raw), size)]
    return [event.decode() for piece in pieces for event in events.feed(piece)]


@pytest.mark.parametrize("size", [1, 2, 3, 1000])
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_events_are_the_same_whatever_ends_a_line_and_wherever_it_is_cut(end: bytes, size: int) -> None:
    assert read(WHOLE.replace(b"\n", end), size) == EVENTS


def test_a_mark_of_the_byte_order_is_no_part_of_the_first_line() -> None:
    assert read(b"\xef\xbb\xbfdata: a\n\n\xef\xbb\xbfdata: b\n\n", 1000) == ["a"]


def test_a_long_line_in_small_pieces_is_not_copied_for_each() -> None:
    events = Events()

    assert not [event for _ in range(200_000) for event in events.feed(b"data: xxxx")]
    [event] = events.feed(b"\n\n")

    assert len(event) == 2_000_000 - 6


@pytest.mark.parametrize("size", [1, 5, 1000])
def test_packed_members_are_unpacked_as_they_come(size: int) -> None:
    raw, packed = gzip.compress(b"one ") + gzip.compress(b"two"), Gunzip(100)

    told = b"".join(packed.feed(raw[i : i + size]) for i in range(0, len(raw), size))
    packed.end()

    assert told == b"one two"


@pytest.mark.parametrize("cut", [*range(1, len(gzip.compress(b"one")))])
def test_a_packed_stream_that_is_cut_does_not_end(cut: int) -> None:
    packed = Gunzip(100)
    packed.feed(gzip.compress(b"one")[:cut])

    with pytest.raises(Corrupt):
        packed.end()


@pytest.mark.parametrize(
    "raw",
    [b"plain text", gzip.compress(bytes(10**6)), gzip.compress(b"x" * 101)],
    ids=["text", "a million", "a little"],
)
def test_what_is_no_gzip_or_grows_too_large_is_refused(raw: bytes) -> None:
    with pytest.raises(Corrupt):
        Gunzip(100).feed(raw)


def test_garbage_is_unpacked_or_refused_and_nothing_else() -> None:
    chance: Any = random.Random(1)
    for _ in range(2000):
        raw = bytearray(gzip.compress(b"some text"))
        raw[chance.randrange(len(raw))] ^= 1 << chance.randrange(8)
        packed = Gunzip(100)
        try:
            packed.feed(bytes(raw))
            packed.end()
        except Corrupt:
            continue
