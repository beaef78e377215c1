"""The fields of one row of JSONL: each read out of its line, or the reason why the line is refused."""

from __future__ import annotations

import json
import math
from typing import Any, cast, get_args

from composer.answers.program import syntax_error
from composer.types import Kind

MAX_CHOICES = 26
_KINDS: tuple[Kind, ...] = get_args(Kind)


class BadRow(ValueError):
    """The reason why a line is refused."""


def object_of(raw: bytes) -> dict[str, Any]:
    """The JSON object that a line holds. Raises BadRow, as all that follow."""
    try:
        row = _DECODER.decode(raw.decode("utf-8"))
    except UnicodeDecodeError as why:
        raise BadRow(f"not UTF-8 at byte {why.start}") from why
    except json.JSONDecodeError as why:
        raise BadRow(f"not JSON: {why.msg} at character {why.pos}") from why
    except RecursionError as why:
        raise BadRow("not readable: nested too deeply") from why
    except BadRow:
        raise
    except ValueError as why:  # an integer of thousands of digits
        raise BadRow("not readable: a number is too long") from why
    if not isinstance(row, dict):
        raise BadRow("not a JSON object")
    return cast(dict[str, Any], row)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        raise BadRow("a key comes twice")
    return row


_DECODER = json.JSONDecoder(object_pairs_hook=_once)  # built once: `json.loads` would build one per line


def id_of(row: dict[str, Any]) -> str:
    """The id as text."""
    value = row.get("id")
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return text_of(row, "id", "text or a whole number")


def text_of(row: dict[str, Any], key: str, wanted: str = "text") -> str:
    """A text that has to be there."""
    value = row.get(key)
    if value is None:
        raise BadRow(f"`{key}` is missing")
    if not isinstance(value, str):
        raise BadRow(f"`{key}` must be {wanted}")
    if not value.strip():
        raise BadRow(f"`{key}` is empty")
    return clean(value, key)


def optional_of(row: dict[str, Any], key: str) -> str | None:
    """A text that may be there."""
    return None if row.get(key) is None else text_of(row, key)


def clean(value: str, key: str) -> str:
    """`value`, unless it holds what cannot be kept."""
    # Neither survives the way through the store, and both are how other programs are attacked.
    if "\0" in value:
        raise BadRow(f"`{key}` holds a NUL character")
    if not value.isascii() and any("\ud800" <= char <= "\udfff" for char in value):
        raise BadRow(f"`{key}` holds half a surrogate pair")
    return value


def choices_of(row: dict[str, Any]) -> tuple[str, ...]:
    """The options of a multiple choice; none where there are none."""
    value = row.get("choices")
    if value is None or value == []:
        return ()
    if not isinstance(value, list) or not all(isinstance(choice, str) and choice.strip() for choice in value):
        raise BadRow("`choices` must be a list of texts")
    if not 2 <= len(value) <= MAX_CHOICES:
        raise BadRow(f"`choices` must hold 2 to {MAX_CHOICES} texts, not {len(value)}")
    return tuple(clean(choice, "choices") for choice in value)


def tests_of(row: dict[str, Any]) -> tuple[str, ...]:
    """The tests of a program, each of them Python."""
    value = row.get("tests")
    if value is None or value == []:
        return ()
    if not isinstance(value, list) or not all(isinstance(test, str) and test.strip() for test in value):
        raise BadRow("`tests` must be a list of texts")
    for number, test in enumerate(value, 1):
        if why := syntax_error(clean(test, "tests")):
            raise BadRow(f"`tests`: number {number} is not Python: {why}")
    return tuple(value)


def kind_of(row: dict[str, Any]) -> Kind | None:
    """How its answers are read; None where the row does not say."""
    value = row.get("kind")
    if value is None:
        return None
    if value not in _KINDS:
        raise BadRow(f"`kind` must be one of {', '.join(_KINDS)}")
    return cast(Kind, value)


def answer_of(row: dict[str, Any], kind: Kind | None) -> str:
    """The label as text: numbers as they are written, JSON values as JSON, items of a list joined by commas."""
    value = row.get("answer")
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return str(value)
    if isinstance(value, list) and kind in ("list", "set"):
        return clean(", ".join(str(item) for item in value), "answer")
    if isinstance(value, dict | list):
        try:
            return json.dumps(value)
        except RecursionError as why:
            raise BadRow("`answer` is nested too deeply") from why
    return text_of(row, "answer", "text, a number, a list or an object")
