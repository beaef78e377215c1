"""Documents into passages: whole sentences up to a number of tokens, each with its place in the document."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from composer.retrieval.documents import Document

Offsets = Callable[[Sequence[str]], Sequence[Sequence[int]]]
"""For each text, where its tokens end (characters, ascending)."""

_SENTENCE = re.compile(r"(?<=[.!?])[\"')\]]*\s+(?=[\"'(\[]?[A-Z0-9])|\n\s*\n\s*")
_HEADING = re.compile(r"^#{1,6}[ \t]+(.+?)[ \t]*#*[ \t]*$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Passage:
    """A part of a document: characters `start` to `end` of its text. `id` is `document#number`; `title` is the heading
    above it, or the document's."""

    id: str
    document: str
    start: int
    end: int
    title: str
    text: str


def split(document: Document, offsets: Offsets, *, most: int = 180, least: int = 60) -> list[Passage]:
    """Passages of at most `most` tokens, in order and without overlap. A passage ends with a sentence, and with a
    paragraph from `least` tokens on; only a sentence that is longer than `most` is cut. Headings begin a passage."""
    text = document.text
    pieces = list(_sentences(text))
    tokens = offsets([text[start:end] for start, end, _ in pieces])
    headings = [(found.start(), found[1]) for found in _HEADING.finditer(text)] if document.markdown else []
    passages: list[Passage] = []
    held: tuple[int, int, int] | None = None  # start, end, tokens

    def close() -> None:
        nonlocal held
        if held is not None and text[held[0] : held[1]].strip():
            title = _above(headings, held[0]) or document.title
            name = f"{document.name}#{len(passages)}"
            passages.append(Passage(name, document.name, held[0], held[1], title, text[held[0] : held[1]]))
        held = None

    for (start, end, ends_block), own in zip(pieces, tokens, strict=True):
        heading = document.markdown and _HEADING.fullmatch(text, start, end) is not None
        if heading:
            close()
        for first, last, count in _parts(start, end, own, most):
            if held is not None and held[2] + count > most:
                close()
            held = (first, last, count) if held is None else (held[0], last, held[2] + count)
        if ends_block and not heading and held is not None and held[2] >= least:
            close()
    close()
    return passages


def sentences(text: str) -> list[str]:
    """The sentences of a text.

    >>> sentences("It opens at 7.5 bar. Who knows?  Nobody.")
    ['It opens at 7.5 bar.', 'Who knows?', 'Nobody.']
    """
    return [text[start:end] for start, end, _ in _sentences(text)]


def _sentences(text: str) -> Iterator[tuple[int, int, bool]]:
    """(start, end, whether a paragraph ends here) of the sentences, without the white space between them."""
    start = len(text) - len(text.lstrip())
    for gap in _SENTENCE.finditer(text):
        if gap.start() > start:
            mark = len(gap[0]) - len(gap[0].lstrip("\"')]"))  # closing quotes belong to the sentence
            yield start, gap.start() + mark, "\n\n" in re.sub(r"[^\S\n]", "", gap[0])
            start = gap.end()
    end = len(text.rstrip())
    if end > start:
        yield start, end, True


def _parts(start: int, end: int, tokens: Sequence[int], most: int) -> Iterator[tuple[int, int, int]]:
    """(start, end, tokens) of a sentence: itself, or where it is too long, pieces that end with a token."""
    if len(tokens) <= most:
        yield start, end, len(tokens)
        return
    at = 0
    for first in range(0, len(tokens), most):
        last = min(first + most, len(tokens))
        until = end - start if last == len(tokens) else tokens[last - 1]
        yield start + at, start + until, last - first
        at = until


def _above(headings: Sequence[tuple[int, str]], start: int) -> str:
    place = bisect_left(headings, (start + 1, ""))
    return headings[place - 1][1] if place else ""
