"""Passages: nothing is lost, nothing is too long, and every place is exact."""

from __future__ import annotations

import re
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from composer.retrieval.documents import Document
from composer.retrieval.split import split


def words(texts: Sequence[str]) -> list[list[int]]:
    """A word is a token."""
    return [[found.end() for found in re.finditer(r"\S+", text)] for text in texts]


TEXTS = st.text(st.sampled_from('ab.!? \n"#A(0'), max_size=400)


@given(TEXTS, st.integers(1, 12), st.booleans())
def test_passages_cover_the_text_and_hold_to_the_limit(text: str, most: int, markdown: bool) -> None:
    passages = split(Document("d", text, markdown=markdown), words, most=most, least=min(3, most))
    end = 0
    for place, one in enumerate(passages):
        assert one.text == text[one.start : one.end]
        assert one.id == f"d#{place}"
        assert not text[end : one.start].strip(), "between passages is white space alone"
        assert len(one.text.split()) <= most
        assert one.text.strip()
        end = one.end
    assert not text[end:].strip()


def test_sentences_stay_whole_and_paragraphs_end_passages() -> None:
    text = "One two three. Four five six. Seven eight.\n\nNine ten. Eleven twelve thirteen fourteen."
    assert [one.text for one in split(Document("d", text), words, most=9, least=5)] == [
        "One two three. Four five six. Seven eight.",
        "Nine ten. Eleven twelve thirteen fourteen.",
    ]
    assert [one.text for one in split(Document("d", text), words, most=4, least=4)] == [
        "One two three.",
        "Four five six.",
        "Seven eight.\n\nNine ten.",
        "Eleven twelve thirteen fourteen.",
    ]


def test_a_heading_names_what_stands_below_it() -> None:
    text = "Before.\n\n# Top\n\nUnder top.\n\n## Sub\n\nUnder sub. More."
    found = split(Document("d", text, "File", markdown=True), words, most=4, least=2)
    assert [(one.title, one.text) for one in found] == [
        ("File", "Before."),
        ("Top", "# Top\n\nUnder top."),
        ("Sub", "## Sub\n\nUnder sub."),
        ("Sub", "More."),
    ]


def test_a_sentence_longer_than_a_passage_is_cut_between_tokens() -> None:
    found = split(Document("d", "a b c d e f g"), words, most=3, least=1)
    assert [one.text.split() for one in found] == [["a", "b", "c"], ["d", "e", "f"], ["g"]]
