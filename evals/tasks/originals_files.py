"""What every reader of originals needs: replies as they are found, files and their rows, checked fields."""

from __future__ import annotations

import ast
import json
import math
import string
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


class BadRow(ValueError):
    """The reason why a row is refused."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A question as one file has it; `gold` is canonical, None where nothing is right or wrong."""

    id: str
    benchmark: str
    category: str
    text: str
    options: tuple[str, ...] = ()
    gold: str | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """What `model` replied. `mark` in [0, 1] where the original's own score is taken (then no `answer` was looked for),
    else None; `chars`: its length; `price`: USD per million tokens in and out; it stood in `file`, row `row` from 1."""

    model: str
    asked: Asked
    answer: str | None
    mark: float | None
    chars: int
    price: tuple[float, float] | None
    file: str
    row: int


@dataclass(slots=True)
class Found:
    """What a reader found: replies, what was refused ((file, reason) -> rows; none: the whole file), and remarks."""

    replies: list[Reply] = field(default_factory=list)
    refused: dict[tuple[str, str], list[int]] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    _known: dict[Asked, Asked] = field(default_factory=dict)

    def add(
        self,
        model: str,
        asked: Asked,
        file: str,
        row: int,
        *,
        chars: int,
        answer: str | None = None,
        mark: float | None = None,
        price: tuple[float, float] | None = None,
    ) -> None:
        """Keep a reply; equal questions are kept once, whichever files they are in."""
        asked = self._known.setdefault(asked, asked)
        self.replies.append(Reply(model, asked, answer, mark, chars, price, file, row))

    def refuse(self, file: str, reason: str, row: int | None = None) -> None:
        """Note why a row, or a whole file, is not used."""
        self.refused.setdefault((file, reason), []).extend([] if row is None else [row])


def documents(path: Path, found: Found) -> Iterator[tuple[str, Any]]:
    """(name, content) of a JSON file, or of every JSON file in a zip; what cannot be read is refused."""
    try:
        if path.suffix != ".zip":
            parts = [(str(path), path.read_bytes())]
        else:
            with zipfile.ZipFile(path) as archive:
                names = [name for name in archive.namelist() if name.endswith(".json") and "__MACOSX" not in name]
                parts = [(f"{path}:{name}", archive.read(name)) for name in names]
    except (OSError, zipfile.BadZipFile, zlib.error, RuntimeError, EOFError) as why:
        found.refuse(str(path), f"cannot be read: {why}")
        return
    if not parts:
        found.refuse(str(path), "there is no JSON file in it")
    for name, raw in parts:
        try:
            content = json.loads(raw)
        except (ValueError, RecursionError) as why:
            found.refuse(name, f"is no JSON: {why}")
        else:
            yield name, content


def rows_of(path: Path, found: Found) -> Iterator[tuple[str, int, dict[str, Any]]]:
    """(file, row number from 1, row) of JSON files that are lists of objects; other rows are refused."""
    for file, content in documents(path, found):
        if not isinstance(content, list):
            found.refuse(file, "is no list of rows")
            continue
        for number, row in enumerate(content, 1):
            if isinstance(row, dict):
                yield file, number, row
            else:
                found.refuse(file, "the row is no object", number)


def lines_of(path: Path, found: Found) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number from 1, row) of a JSONL file; lines that are no JSON objects are refused."""
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                try:
                    row = json.loads(line)
                except (ValueError, RecursionError):
                    row = None
                if isinstance(row, dict):
                    yield number, row
                else:
                    found.refuse(str(path), "the line is no JSON object", number)
    except OSError as why:
        found.refuse(str(path), f"cannot be read: {why.strerror}")


def text_of(row: Mapping[str, Any], key: str, *, empty: bool = False) -> str:
    """The text under `key`. Raises BadRow where there is none, or where it is empty and may not be."""
    value = row.get(key)
    if not isinstance(value, str):
        raise BadRow(f"`{key}` is {'missing' if value is None else 'no text'}")
    if not empty and not value.strip():
        raise BadRow(f"`{key}` is empty")
    return clean(value)


def number_of(row: Mapping[str, Any], key: str, low: float, high: float = math.inf) -> float:
    """The finite number under `key`. Raises BadRow where there is none from `low` to `high`."""
    value = row.get(key)
    if not isinstance(value, int | float) or not low <= value <= high or math.isinf(value):
        raise BadRow(f"`{key}` is {str(value)[:40]}, expected a number from {low:g} to {high:g}")
    return float(value)


def choices_of(value: Any) -> tuple[str, ...]:
    """Options as a list, as {"text": [...], "label" or "labels": ["A", ...]}, or as the text of either, in JSON or Python,
    even twice. Raises BadRow for anything else."""
    for _ in range(2):
        if isinstance(value, str):
            try:
                value = json.loads(value)
            except (ValueError, RecursionError):
                value = evaluated(value)
    if isinstance(value, dict):
        labels, value = value.get("labels", value.get("label")), value.get("text")
        if isinstance(value, list) and labels != list(string.ascii_uppercase[: len(value)]):
            raise BadRow("the options' labels are not A, B, C …")
    if not isinstance(value, list) or len(value) < 2 or not all(isinstance(option, str) for option in value):
        raise BadRow("the options are no list of texts")
    return tuple(map(clean, value))


def evaluated(text: str) -> Any:
    """The Python list or dict that `text` is; None where it is none."""
    try:
        return ast.literal_eval(text) if text.lstrip()[:1] in ("[", "{") else None
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None


def clean(text: str) -> str:
    """`text` without halves of surrogate pairs, which JSON may hold and UTF-8 does not."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()
