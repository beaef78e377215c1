"""Whose scores may be summed."""

import pytest

from composer.decoding.vocabulary import shared
from composer.errors import RequestError

BASE = ["<s>", "the", " a", "</s>"]


@pytest.mark.parametrize(
    ("other", "common"),
    [
        (BASE, 4),
        ([*BASE, "[PAD4]", "[PAD5]"], 4),
        ([*BASE, "<unused_0>"], 4),
        ([*BASE, "<|reserved_special_token_7|>"], 4),
    ],
)
def test_the_same_tokens_and_rows_of_padding(other: list[str], common: int) -> None:
    assert shared([("one", BASE), ("two", other)]) == common
    assert shared([("two", other), ("one", BASE)]) == common


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (
            ["<s>", " a", "the", "</s>"],
            "token 1 is 'the' to one and ' a' to two",
        ),  # as many, the same strings, other ids
        ([*BASE[:3], "<|end|>"], "token 3 is '</s>' to one and '<|end|>' to two"),
        ([*BASE, "<|im_start|>"], "two has a token 4, '<|im_start|>'"),
        (BASE[:3], "one has a token 3"),
    ],
)
def test_others_are_refused_with_the_first_difference_and_what_to_do(other: list[str], words: str) -> None:
    with pytest.raises(RequestError) as refused:
        shared([("one", BASE), ("two", other)])
    assert words in refused.value.what
    assert "one family" in str(refused.value)


def test_three_are_compared_with_the_first() -> None:
    with pytest.raises(RequestError, match="three"):
        shared([("one", BASE), ("two", BASE), ("three", ["<s>", "die"])])
