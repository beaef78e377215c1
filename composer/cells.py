"""Cells of other people's tables, read strictly: numbers, marks, options, ids."""

from __future__ import annotations

import ast
import json
import math
from collections.abc import Sequence
from typing import Any

from composer.errors import InputError


def whole(values: Sequence[Any], where: str, column: str) -> list[int]:
    """Whole numbers of at least 0; nothing is 0. Raises InputError naming the row."""
    return [
        0 if value is None else int(number(value, f"{where}, row {row}", column)) for row, value in enumerate(values)
    ]


def marks(values: Sequence[Any], where: str, column: str) -> list[float]:
    """Marks from 0 to 1 (true and false too). Raises InputError naming the row."""
    return [number(value, f"{where}, row {row}", column, high=1.0) for row, value in enumerate(values)]


def number(value: Any, where: str, column: str, *, low: float = 0.0, high: float = float("inf")) -> float:
    """A number in [low, high]. Raises InputError for anything else."""
    try:
        found = float(value)
    except (TypeError, ValueError):
        found = float("nan")
    if not low <= found <= high or math.isinf(found):
        limits = f"from {low:g} to {high:g}" if high < float("inf") else f"of at least {low:g}"
        raise InputError(f"`{column}` is {str(value)[:40]!r}", where=where, remedy=f"give a number {limits}")
    return found


def options(value: Any) -> tuple[str, ...]:
    """What there is to choose from: a list, a mapping with a list under `text`, or one of these written as text (JSON or
    Python, also JSON in which a Python list stands as text), or one option per line; nothing where there are fewer than
    two, or where they are assertions, which are the tests of a program.

    >>> options('"[\\'red\\', \\'green\\']"'), options({"label": ["A", "B"], "text": ["x", "y"]}), options(["assert f() == 1"] * 3)
    (('red', 'green'), ('x', 'y'), ())
    """
    for _ in range(2):
        if isinstance(value, str):
            value = _told(value)
    if isinstance(value, dict):
        value = value.get("text")
    found = tuple(map(str, value)) if isinstance(value, list | tuple) else ()
    tests = all(option.lstrip().startswith("assert") for option in found)
    return () if len(found) < 2 or tests else found


def _told(text: str) -> Any:
    for parse in (json.loads, ast.literal_eval):
        try:
            return parse(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
    return text.splitlines()
