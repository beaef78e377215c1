"""Whether models share a vocabulary: the same strings under the same ids, without which their scores cannot be summed."""

from __future__ import annotations

import re
from collections.abc import Sequence

from composer.errors import RequestError

_PADDING = re.compile(
    r"(\[PAD\d*\]|<(unused|pad|extra|reserved)[\w-]*\d+>|<\|(unused|reserved|extra)[\w-]*\d+\|>|)", re.IGNORECASE
)
"""Rows that only fill a table up: nothing is ever written with them."""


def shared(vocabularies: Sequence[tuple[str, Sequence[str]]]) -> int:
    """How many tokens all have in common, from id 0 on; each is a name and its tokens by id.

    Sizes may differ by rows of padding at the end of a table, and by nothing else. Raises RequestError naming the first id
    that is not the same to all, what each says there, and what can be done instead.
    """
    name, tokens = vocabularies[0]
    least = min(len(own) for _, own in vocabularies)
    for other, own in vocabularies[1:]:
        for place, (one, two) in enumerate(zip(tokens, own, strict=False)):
            if one != two:
                raise _apart(f"token {place} is {one!r} to {name} and {two!r} to {other}")
    for other, own in vocabularies:
        for place in range(least, len(own)):
            if not _PADDING.fullmatch(own[place]):
                raise _apart(f"{other} has a token {place}, {own[place]!r}, that not all have")
    return least


def _apart(what: str) -> RequestError:
    return RequestError(
        f"their vocabularies differ: {what}",
        where="streams that are decoded together",
        remedy="combine models of one family, or adapters of one base; others can vote, or be merged as text",
    )
