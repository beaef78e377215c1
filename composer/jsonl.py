"""The one reader of JSONL files, and the one way to write a file whole or not at all."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import TextIOWrapper
from pathlib import Path
from typing import Any, BinaryIO, Generic, Literal, TypeVar, get_args, overload

from composer.answers.equal import check_installed
from composer.answers.extract import infer_kind
from composer.answers.grade import canonical_gold
from composer.asker import Wishes
from composer.errors import InputError, OutputFullError, suggest
from composer.faults import kill_point
from composer.fields import (
    BadRow,
    answer_of,
    choices_of,
    clean,
    id_of,
    kind_of,
    object_of,
    optional_of,
    tests_of,
    text_of,
)
from composer.openai_batch import is_batch_line, read_line
from composer.types import Kind, Message

Dedupe = Literal["first"]
"""What is done with an id that comes more than once: the first row that can be used is kept, and the others are errors."""

MAX_LINE = 10_000_000  # bytes; a longer line is one bad row, and is never held in memory
_EXCERPT = 80
_NONE = Wishes()
_NAMED = 100  # so many duplicate ids are spelt out in the message
_NAMES: dict[Kind, str] = {"math": "formula"}
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@dataclass(frozen=True, slots=True)
class Question:
    """A row of a questions file. `kind` None: the file does not say; `line` counts from 1; `numeric`: the id was written
    as a number, and is given back as one; `tests`: what a program that answers it has to pass; `turns`: what was said
    before it, and `wishes`: how it is to be answered, both of lines of an OpenAI batch."""

    id: str
    text: str
    choices: tuple[str, ...]
    kind: Kind | None
    line: int
    numeric: bool = False
    tests: tuple[str, ...] = ()
    turns: tuple[Message, ...] = ()
    wishes: Wishes = _NONE


@dataclass(frozen=True, slots=True)
class Labelled:
    """A question whose right answer is known; its `question.kind` is never None, inferred where the file is silent.
    `answer` may be "" where there are tests; `rationale` is how one gets there, where somebody has written it down;
    `target` is what a model is to learn to write (None: the answer)."""

    question: Question
    answer: str
    task: str | None
    split: str | None
    rationale: str | None = None
    target: str | None = None


@dataclass(frozen=True, slots=True)
class RowError:
    """A line that cannot be used: its number from 1, why, and the start of the line with unprintable characters hidden."""

    line: int
    reason: str
    raw: str


Refuse = Callable[[Question], str | None]
"""Why a row cannot be answered as it asks to be, where that is known beforehand."""

Row = TypeVar("Row")


@dataclass(frozen=True, slots=True)
class Read(Generic[Row]):
    """What a file holds: the usable rows and the bad lines, both in file order."""

    rows: tuple[Row, ...]
    errors: tuple[RowError, ...]


class DuplicateIds(InputError):
    """Several rows have the same id. `lines` maps each such id to its lines, in file order; `droppable`: the user may
    choose to leave all but the first out."""

    code = "duplicate_ids"

    def __init__(self, lines: dict[str, tuple[int, ...]], *, where: str, droppable: bool) -> None:
        self.lines = lines
        named = [f"{id!r} on lines {', '.join(map(str, at))}" for id, at in list(lines.items())[:_NAMED]]
        more = f"; and {len(lines) - _NAMED} more" if len(lines) > _NAMED else ""
        super().__init__(
            f"{len(lines)} id(s) come more than once: {'; '.join(named)}{more}",
            where=where,
            remedy='give every row its own id (1 and "1" are the same)'
            + (", or keep the first row of each with --dedupe first" if droppable else "")
            + "; nothing was run",
        )


def dedupe_of(name: str) -> Dedupe:
    """The way to treat ids that come twice which a user names. Raises InputError for any other."""
    ways: tuple[Dedupe, ...] = get_args(Dedupe)
    for way in ways:
        if name == way:
            return way
    raise InputError(
        f"{name!r} is no way to treat an id that comes twice", where="--dedupe", remedy=suggest(name, ways)
    )


@overload
def read_questions(
    path: Path, *, labelled: Literal[False] = False, dedupe: Dedupe | None = None, refuse: Refuse = ...
) -> Read[Question]: ...
@overload
def read_questions(
    path: Path, *, labelled: Literal[True], numbered: bool = False, refuse: Refuse = ...
) -> Read[Labelled]: ...
def read_questions(
    path: Path,
    *,
    labelled: bool = False,
    dedupe: Dedupe | None = None,
    numbered: bool = False,
    refuse: Refuse = lambda _: None,
) -> Read[Question] | Read[Labelled]:
    """Read rows `id, question[, choices, kind, tests]`, with `labelled` also `answer[, task, split, rationale, target]`; other
    keys are ignored. `numbered`: ids may be missing, and the number of its line then stands for one.
    Without `labelled` they may be lines of an OpenAI batch (`openai_batch.py` says which).

    One bad line costs itself only: it becomes a RowError, and so does a label that no draft could ever match, a row that
    `refuse` gives a reason against, and with `dedupe` a row whose id was there already. Blank lines and a byte order mark are skipped. Raises DuplicateIds before
    anything is run, and InputError where there is no such file, it cannot be read as UTF-8 text at all, or it has no
    rows; ConfigError where a row is of kind `math` and what compares formulas is not installed.
    """
    rows: list[Labelled] = []
    errors: list[RowError] = []
    places: dict[str, list[int]] = {}
    for line, raw in lines_of(path):
        try:
            row = _row(raw, line, labelled=labelled, numbered=numbered)
            if (reason := refuse(row.question)) is not None:
                raise BadRow(reason)
        except BadRow as why:
            errors.append(RowError(line, str(why), _excerpt(raw)))
            continue
        at = places.setdefault(row.question.id, [])
        if at and dedupe:
            told = f"the id {row.question.id!r} is on line {at[0]} already, and that row is kept (--dedupe {dedupe})"
            errors.append(RowError(line, told, _excerpt(raw)))
            continue
        rows.append(row)
        at.append(line)
    if not rows and not errors:
        raise InputError("the file has no rows", where=str(path), remedy=_wanted(labelled))
    twice = {id: tuple(lines) for id, lines in places.items() if len(lines) > 1}
    if twice:
        raise DuplicateIds(twice, where=str(path), droppable=not labelled)
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


def lines_of(path: Path) -> Iterator[tuple[int, bytes]]:
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


def _row(raw: bytes, line: int, *, labelled: bool, numbered: bool = False) -> Labelled:
    if len(raw.rstrip(b"\r\n")) > MAX_LINE:
        raise BadRow(f"longer than {MAX_LINE:,} bytes")
    row = object_of(raw)
    if numbered:
        row.setdefault("id", line)
    if not labelled and is_batch_line(row):
        return _batch_row(row, line)
    choices = choices_of(row)
    tests = tests_of(row)
    kind = kind_of(row) or ("code" if tests else None)
    if tests and kind != "code":
        raise BadRow(f"`tests` are for rows of kind code, and this is one of kind {kind}")
    id = id_of(row)
    text, numeric = text_of(row, "question"), not isinstance(row["id"], str)
    if not labelled:
        kind = kind or ("choice" if choices else None)
        return Labelled(Question(id, text, choices, kind, line, numeric, tests), "", None, None)
    task, split, rationale = (optional_of(row, name) for name in ("task", "split", "rationale"))
    if kind == "code":
        if not tests:
            raise BadRow("`tests` is missing: they say whether a program is right")
        return Labelled(
            Question(id, text, choices, kind, line, numeric, tests),
            optional_of(row, "answer") or "",
            task,
            split,
            rationale,
        )
    answer = answer_of(row, kind)
    kind = kind or infer_kind(answer, choices)
    if canonical_gold(answer, kind, choices) is None:
        expected = "a letter or the text of one of `choices`" if kind == "choice" else f"a {_NAMES.get(kind, kind)}"
        raise BadRow(f"`answer` cannot be read as {expected}")
    target = optional_of(row, "target")
    return Labelled(Question(id, text, choices, kind, line, numeric), answer, task, split, rationale, target)


def _batch_row(row: dict[str, Any], line: int) -> Labelled:
    try:
        row, chat = read_line(row)
    except ValueError as why:
        raise BadRow(str(why)) from why
    for number, turn in enumerate(chat.turns):
        clean(turn.content, f"body.messages[{number}]")
    for text in chat.wishes.stop or ():
        clean(text, "body.stop")
    question = Question(id_of(row), text_of(row, "question"), (), None, line, turns=chat.turns, wishes=chat.wishes)
    return Labelled(question, "", None, None)


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
