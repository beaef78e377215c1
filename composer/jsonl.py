"""The one reader of JSONL files, and the one way to write a file whole or not at all."""

from __future__ import annotations

import errno
import json
import math
import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import TextIOWrapper
from pathlib import Path
from typing import Any, BinaryIO, Generic, Literal, TypeVar, cast, get_args, overload

from composer.answers.equal import check_installed
from composer.answers.extract import infer_kind
from composer.answers.grade import canonical_gold
from composer.answers.program import syntax_error
from composer.errors import InputError, OutputFullError
from composer.faults import kill_point
from composer.openai_batch import is_batch_line, plain_row
from composer.types import Kind

MAX_LINE = 10_000_000  # bytes; a longer line is one bad row, and is never held in memory
MAX_CHOICES = 26
_EXCERPT = 80
_NAMED = 100  # so many duplicate ids are spelt out in the message
_KINDS: tuple[Kind, ...] = get_args(Kind)
_NAMES: dict[Kind, str] = {"math": "formula"}
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@dataclass(frozen=True, slots=True)
class Question:
    """A row of a questions file. `kind` None: the file does not say; `line` counts from 1; `numeric`: the id was written
    as a number, and is given back as one; `tests`: what a program that answers it has to pass."""

    id: str
    text: str
    choices: tuple[str, ...]
    kind: Kind | None
    line: int
    numeric: bool = False
    tests: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Labelled:
    """A question whose right answer is known; its `question.kind` is never None, inferred where the file is silent.
    `answer` may be "" where there are tests."""

    question: Question
    answer: str
    task: str | None
    split: str | None


@dataclass(frozen=True, slots=True)
class RowError:
    """A line that cannot be used: its number from 1, why, and the start of the line with unprintable characters hidden."""

    line: int
    reason: str
    raw: str


Row = TypeVar("Row")


@dataclass(frozen=True, slots=True)
class Read(Generic[Row]):
    """What a file holds: the usable rows and the bad lines, both in file order."""

    rows: tuple[Row, ...]
    errors: tuple[RowError, ...]


class DuplicateIds(InputError):
    """Several rows have the same id. `lines` maps each such id to its lines, in file order."""

    code = "duplicate_ids"

    def __init__(self, lines: dict[str, tuple[int, ...]], *, where: str) -> None:
        self.lines = lines
        named = [f"{id!r} on lines {', '.join(map(str, at))}" for id, at in list(lines.items())[:_NAMED]]
        more = f"; and {len(lines) - _NAMED} more" if len(lines) > _NAMED else ""
        super().__init__(
            f"{len(lines)} id(s) come more than once: {'; '.join(named)}{more}",
            where=where,
            remedy='give every row its own id (1 and "1" are the same); nothing was run',
        )


class _BadRow(ValueError):
    """The reason why a line is refused."""


@overload
def read_questions(path: Path, *, labelled: Literal[False] = False) -> Read[Question]: ...
@overload
def read_questions(path: Path, *, labelled: Literal[True]) -> Read[Labelled]: ...
def read_questions(path: Path, *, labelled: bool = False) -> Read[Question] | Read[Labelled]:
    """Read rows `id, question[, choices, kind, tests]`, with `labelled` also `answer[, task, split]`; other keys are ignored.
    Without `labelled` they may be lines of an OpenAI batch (`openai_batch.py` says which).

    One bad line costs itself only: it becomes a RowError, and so does a label that no draft could ever match. Blank
    lines and a byte order mark are skipped. Raises DuplicateIds before anything is run, and InputError where there is
    no such file, it cannot be read as UTF-8 text at all, or it has no rows; ConfigError where a row is of kind `math`
    and what compares formulas is not installed.
    """
    rows: list[Labelled] = []
    errors: list[RowError] = []
    places: dict[str, list[int]] = {}
    for line, raw in _lines(path):
        try:
            row = _row(raw, line, labelled=labelled)
        except _BadRow as why:
            errors.append(RowError(line, str(why), _excerpt(raw)))
        else:
            rows.append(row)
            places.setdefault(row.question.id, []).append(line)
    if not rows and not errors:
        raise InputError("the file has no rows", where=str(path), remedy=_wanted(labelled))
    twice = {id: tuple(lines) for id, lines in places.items() if len(lines) > 1}
    if twice:
        raise DuplicateIds(twice, where=str(path))
    if any(row.question.kind == "math" for row in rows):
        check_installed(f"{path}: kind `math`")
    if labelled:
        return Read(tuple(rows), tuple(errors))
    return Read(tuple(row.question for row in rows), tuple(errors))


def check_outputs(outputs: Sequence[Path], inputs: Sequence[Path]) -> None:
    """Raise InputError where an output could not be written, or would replace an input or another output: before the
    work is done, not after."""
    taken = {Path(os.path.realpath(path)): "is read by this command" for path in inputs}
    for path in outputs:
        place = Path(os.path.realpath(path))
        if place in taken:
            raise InputError(f"this file {taken[place]}", where=str(path), remedy="write to another file")
        if not path.name or (place.exists() and not place.is_file()):
            raise InputError("this is no regular file", where=str(path), remedy="name a file to write to")
        if not place.parent.is_dir():
            raise InputError(f"there is no folder {place.parent}", where=str(path), remedy="make the folder first")
        if not os.access(place.parent, os.W_OK):
            raise InputError(
                f"the folder {place.parent} may not be written to", where=str(path), remedy="check its permissions"
            )
        taken[place] = "is written by this command already"


@contextmanager
def write_atomic(path: Path) -> Iterator[TextIOWrapper]:
    """Open a UTF-8 file that appears at `path`, complete and on disk, when the block ends well; otherwise nothing changes.

    Bytes go through `.buffer`. Raises InputError where `path` cannot be written, or the disk is full.
    """
    place = Path(os.path.realpath(path))  # a link stays a link
    if place.exists() and not place.is_file():
        raise InputError("this is no regular file", where=str(path), remedy="name a file to write to")
    try:
        draft = place.with_name(f".{place.name}.{secrets.token_hex(4)}.tmp")
        file = draft.open("x", encoding="utf-8", newline="\n")
    except OSError as why:
        raise _unwritable(path, why) from why
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        kill_point("export.before_rename")
        draft.replace(place)
        _sync_folder(place.parent)
    except BaseException as why:
        with suppress(OSError):
            draft.unlink()
        if isinstance(why, OSError) and (why.errno in _FULL or why.filename == str(draft)):
            raise _unwritable(path, why) from why
        raise


# --- lines


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """(number, bytes) of every line that is not blank; of a line over the cap only its start, longer than MAX_LINE."""
    try:
        with path.open("rb") as file:
            for number, raw in _capped(file):
                if number == 1:
                    raw = _without_mark(raw, path)
                if raw.strip():
                    yield number, raw
    except OSError as why:
        remedy = "name a JSONL file" if isinstance(why, FileNotFoundError | IsADirectoryError) else None
        raise InputError(f"cannot be read: {why.strerror}", where=str(path), remedy=remedy) from why


def _capped(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    number = 0
    while raw := file.readline(MAX_LINE + 2):
        number += 1
        rest = raw
        while not rest.endswith(b"\n") and (rest := file.readline(1 << 20)):
            pass
        yield number, raw


def _without_mark(raw: bytes, path: Path) -> bytes:
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise InputError("the file is UTF-16, expected UTF-8", where=str(path), remedy="save it as UTF-8")
    return raw.removeprefix(b"\xef\xbb\xbf")


def _excerpt(raw: bytes) -> str:
    text = raw[: 4 * _EXCERPT].decode("utf-8", "replace").strip()[:_EXCERPT]
    return "".join(char if char.isprintable() else "\ufffd" for char in text)


# --- rows


def _row(raw: bytes, line: int, *, labelled: bool) -> Labelled:
    row = _object(raw)
    if not labelled and is_batch_line(row):
        try:
            row = plain_row(row)
        except ValueError as why:
            raise _BadRow(str(why)) from why
    choices = _choices(row)
    tests = _tests(row)
    kind = _kind(row) or ("code" if tests else None)
    if tests and kind != "code":
        raise _BadRow(f"`tests` are for rows of kind code, and this is one of kind {kind}")
    id = _id(row)
    text, numeric = _text(row, "question"), not isinstance(row["id"], str)
    if not labelled:
        kind = kind or ("choice" if choices else None)
        return Labelled(Question(id, text, choices, kind, line, numeric, tests), "", None, None)
    task, split = _optional(row, "task"), _optional(row, "split")
    if kind == "code":
        if not tests:
            raise _BadRow("`tests` is missing: they say whether a program is right")
        return Labelled(
            Question(id, text, choices, kind, line, numeric, tests), _optional(row, "answer") or "", task, split
        )
    answer = _answer(row, kind)
    kind = kind or infer_kind(answer, choices)
    if canonical_gold(answer, kind, choices) is None:
        expected = "a letter or the text of one of `choices`" if kind == "choice" else f"a {_NAMES.get(kind, kind)}"
        raise _BadRow(f"`answer` cannot be read as {expected}")
    return Labelled(Question(id, text, choices, kind, line, numeric), answer, task, split)


def _object(raw: bytes) -> dict[str, Any]:
    if len(raw.rstrip(b"\r\n")) > MAX_LINE:
        raise _BadRow(f"longer than {MAX_LINE:,} bytes")
    try:
        row = _DECODER.decode(raw.decode("utf-8"))
    except UnicodeDecodeError as why:
        raise _BadRow(f"not UTF-8 at byte {why.start}") from why
    except json.JSONDecodeError as why:
        raise _BadRow(f"not JSON: {why.msg} at character {why.pos}") from why
    except RecursionError as why:
        raise _BadRow("not readable: nested too deeply") from why
    except _BadRow:
        raise
    except ValueError as why:  # an integer of thousands of digits
        raise _BadRow("not readable: a number is too long") from why
    if not isinstance(row, dict):
        raise _BadRow("not a JSON object")
    return cast(dict[str, Any], row)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        raise _BadRow("a key comes twice")
    return row


_DECODER = json.JSONDecoder(object_pairs_hook=_once)  # built once: `json.loads` would build one per line


def _id(row: dict[str, Any]) -> str:
    value = row.get("id")
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return _text(row, "id", "text or a whole number")


def _text(row: dict[str, Any], key: str, wanted: str = "text") -> str:
    value = row.get(key)
    if value is None:
        raise _BadRow(f"`{key}` is missing")
    if not isinstance(value, str):
        raise _BadRow(f"`{key}` must be {wanted}")
    if not value.strip():
        raise _BadRow(f"`{key}` is empty")
    return _clean(value, key)


def _optional(row: dict[str, Any], key: str) -> str | None:
    return None if row.get(key) is None else _text(row, key)


def _clean(value: str, key: str) -> str:
    # Neither survives the way through the store, and both are how other programs are attacked.
    if "\0" in value:
        raise _BadRow(f"`{key}` holds a NUL character")
    if not value.isascii() and any("\ud800" <= char <= "\udfff" for char in value):
        raise _BadRow(f"`{key}` holds half a surrogate pair")
    return value


def _choices(row: dict[str, Any]) -> tuple[str, ...]:
    value = row.get("choices")
    if value is None or value == []:
        return ()
    if not isinstance(value, list) or not all(isinstance(choice, str) and choice.strip() for choice in value):
        raise _BadRow("`choices` must be a list of texts")
    if not 2 <= len(value) <= MAX_CHOICES:
        raise _BadRow(f"`choices` must hold 2 to {MAX_CHOICES} texts, not {len(value)}")
    return tuple(_clean(choice, "choices") for choice in value)


def _tests(row: dict[str, Any]) -> tuple[str, ...]:
    value = row.get("tests")
    if value is None or value == []:
        return ()
    if not isinstance(value, list) or not all(isinstance(test, str) and test.strip() for test in value):
        raise _BadRow("`tests` must be a list of texts")
    for number, test in enumerate(value, 1):
        if why := syntax_error(_clean(test, "tests")):
            raise _BadRow(f"`tests`: number {number} is not Python: {why}")
    return tuple(value)


def _kind(row: dict[str, Any]) -> Kind | None:
    value = row.get("kind")
    if value is None:
        return None
    if value not in _KINDS:
        raise _BadRow(f"`kind` must be one of {', '.join(_KINDS)}")
    return cast(Kind, value)


def _answer(row: dict[str, Any], kind: Kind | None) -> str:
    """The label as text: numbers as they are written, JSON values as JSON, items of a list joined by commas."""
    value = row.get("answer")
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return str(value)
    if isinstance(value, list) and kind in ("list", "set"):
        return _clean(", ".join(str(item) for item in value), "answer")
    if isinstance(value, dict | list):
        try:
            return json.dumps(value)
        except RecursionError as why:
            raise _BadRow("`answer` is nested too deeply") from why
    return _text(row, "answer", "text, a number, a list or an object")


def _wanted(labelled: bool) -> str:
    example = '{"id": "1", "question": "What is 2 + 2?"'
    return (
        f'one row per line, such as {example}, "answer": "4"}}'
        if labelled
        else f"one row per line, such as {example}}}"
    )


# --- files


def _unwritable(path: Path, why: OSError) -> InputError:
    return (OutputFullError if why.errno in _FULL else InputError)(
        f"cannot be written: {why.strerror}", where=str(path), remedy="check the folder, its permissions and free space"
    )


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":
        return  # elsewhere folders cannot be opened, and a rename is durable by itself
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
