"""What an adapter learns from: labelled rows with their targets, and those of them that are held back."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from composer.answers.extract import words
from composer.errors import InputError
from composer.jsonl import Labelled, Question, RowError, read_questions
from composer.marks import mark
from composer.state import lettered

MOST_HELD = 60
"""Rows that are held back where nobody says how many: a fifth, and at most so many."""

_LEAST = 10  # rows of a file that can be learnt from and leave some to see whether it was
_CODE = "a program is graded by running it, which training does not do: leave `kind` and `tests` out, or train on text"
_EXAMPLE = '{"question": "Plural of mouse?", "answer": "mice"}'


@dataclass(frozen=True, slots=True)
class Lessons:
    """The rows of a file, parted: none of `held` asks what one of `train` asks. `sha256` is the file's."""

    train: tuple[Labelled, ...]
    held: tuple[Labelled, ...]
    errors: tuple[RowError, ...]
    sha256: str


def read_lessons(path: Path, *, holdout: int | None, seed: int) -> Lessons:
    """The rows `question, answer[, id, target, kind, choices]` of a JSONL file, `holdout` of them held back (None: a fifth,
    at most `MOST_HELD`). A bad line costs itself only. Raises InputError where too few rows are left."""
    read = read_questions(path, labelled=True, numbered=True, refuse=_refused)
    first = f"; the first bad one, line {read.errors[0].line}: {read.errors[0].reason}" if read.errors else ""
    if len(read.rows) < _LEAST:
        raise InputError(
            f"{len(read.rows)} rows can be used, expected at least {_LEAST}; {len(read.errors)} are bad{first}",
            where=str(path),
            remedy=f"give more rows, one per line, such as {_EXAMPLE}",
        )
    wanted = min(MOST_HELD, len(read.rows) // 5) if holdout is None else holdout
    train, held = parted(read.rows, wanted, seed)
    if not train or not held or len(held) > len(train):
        raise InputError(
            f"of {len(read.rows)} rows {len(held)} would be held back and {len(train)} be learnt from",
            where=f"{path}, --holdout {wanted}",
            remedy="hold fewer back, or give more rows whose questions differ",
        )
    return Lessons(train, held, read.errors, hashlib.sha256(path.read_bytes()).hexdigest())


def parted(rows: Sequence[Labelled], holdout: int, seed: int) -> tuple[tuple[Labelled, ...], tuple[Labelled, ...]]:
    """The rows to learn from and at most `holdout` others, both in file order. The same seed parts alike; rows whose
    questions have the same words stay together."""
    groups: dict[tuple[str, ...], list[int]] = {}
    for number, row in enumerate(rows):
        groups.setdefault(tuple(words(row.question.text)), []).append(number)
    order = list(groups.values())
    Random(seed).shuffle(order)
    kept: set[int] = set()
    for group in order:
        if len(kept) + len(group) <= holdout:
            kept.update(group)
    chosen = [number in kept for number in range(len(rows))]
    train = tuple(row for row, away in zip(rows, chosen, strict=True) if not away)
    return train, tuple(row for row, away in zip(rows, chosen, strict=True) if away)


def target_of(row: Labelled) -> str:
    """What the model is to write: the row's target, else its answer (of alternatives the first)."""
    if row.target is not None:
        return row.target
    return row.answer.split("|")[0].strip() if row.question.kind == "text" else row.answer


def asked(row: Labelled) -> str:
    """The question as it is sent: with its options where it has some."""
    return lettered(row.question.text, row.question.choices)


def right(row: Labelled, reply: str, whole: bool = True) -> bool:
    """Whether a reply is right, read and graded as everywhere else; one that was cut off is not."""
    return whole and mark(row, reply, whole)[1] == 1.0


def strays(rows: Sequence[Labelled]) -> list[int]:
    """The lines whose target would be graded wrong: who has learnt it will never be right there."""
    return [row.question.line for row in rows if row.target is not None and not right(row, row.target)]


def _refused(question: Question) -> str | None:
    return _CODE if question.kind == "code" else None
