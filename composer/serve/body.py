"""The body of a chat request to the door: its bytes, its depth, and what only somebody who waits can ask for."""

from __future__ import annotations

import re
import secrets
from dataclasses import replace
from typing import Any

from pydantic_core import from_json

from composer.chat import Chat as Asked
from composer.chat import ChatError, read_chat, wrong
from composer.serve.limits import Limits
from composer.serve.refusal import Refused

__all__ = ["Asked", "parse"]

_STRING = re.compile(
    rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL
)  # one without an end is the rest, so that all is looked at once


def parse(raw: bytes, limits: Limits) -> Asked:
    """The request in `raw`. Raises Refused with status 400 and the field that is wrong."""
    data = _data(raw, limits)
    try:
        asked = read_chat(data, messages=limits.messages, stops=limits.stops, max_tokens=limits.max_tokens)
        if asked.n > limits.n:
            raise wrong("n", f"{asked.n} answers, at most {limits.n} are given")
        if asked.n > 1 and not asked.wishes.temperature:
            raise wrong("n", "several answers at temperature 0 would be equal: send a `temperature` above 0")
    except ChatError as why:
        raise Refused(400, why.message, code=why.code, param=why.param) from why
    wishes = replace(asked.wishes, priority=1)  # somebody waits for it: a file does not
    if wishes.seed is None and wishes.temperature:
        # Who asks for chance and names no seed wants another text each time, not the one in the store.
        wishes = replace(wishes, seed=secrets.randbelow(2**31))
    return replace(asked, wishes=wishes)


def _data(raw: bytes, limits: Limits) -> dict[str, Any]:
    if _has_more(raw, limits.values):  # asked before it is read, because reading holds up everything else
        raise Refused(400, f"the body has more than {limits.values} values", code="invalid_json")
    try:
        data = from_json(raw, allow_inf_nan=False)
    except ValueError as why:
        raise Refused(400, f"the body is no JSON: {str(why)[:200]}", code="invalid_json") from why
    if not isinstance(data, dict):
        raise Refused(400, "the body is no JSON object", code="invalid_json")
    level: list[Any] = [data]
    depth = 0
    while level:
        depth += 1
        if depth > limits.depth:
            raise Refused(400, f"the body is nested deeper than {limits.depth} levels", code="invalid_json")
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
    return data


def _has_more(raw: bytes, values: int) -> bool:
    """Whether there are more values: before each stands one of `[{,`. What stands inside texts does not count.

    >>> _has_more(b'{"a": ",,,,"}', 1), _has_more(b'{"a": [0, 1]}', 2)
    (False, True)
    """
    if _before(raw, 0, len(raw)) <= values:
        return False
    found = at = 0
    for text in _STRING.finditer(raw):
        found += _before(raw, at, text.start())
        if found > values:
            return True
        at = text.end()
    return found + _before(raw, at, len(raw)) > values


def _before(raw: bytes, start: int, end: int) -> int:
    return sum(raw.count(mark, start, end) for mark in (b"[", b"{", b","))
