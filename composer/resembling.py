"""Chooses rows of a large file that resemble a few labelled ones, and each other as little as may be: similarity first, so
that diversity removes what is there twice and never brings in what is not alike (METHODS H)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from composer.errors import InputError
from composer.jsonl import RowError, check_outputs, read_questions, write_atomic
from composer.pipeline import Pipeline
from composer.state import lettered
from routers.types import Array

TWINS = 0.9
"""The cosine above which a row says what one that is kept says already."""

_BLOCK = 512  # rows that are held against those kept at once
_FACTOR = 5  # times as many as are taken stand for choice


@dataclass(frozen=True, slots=True)
class Chosen:
    """How many rows were written of how many, the cosine of the last one to its nearest example, how many that were more
    alike were left out as twins, and the lines that could not be used."""

    written: int
    pool: int
    least: float
    twins: int
    errors: tuple[RowError, ...]

    def lines(self) -> list[str]:
        """For people."""
        told = [
            f"{self.written} of {self.pool} rows; the least alike has cosine {self.least:.2f} to its nearest example"
        ]
        told += [f"{self.twins} more alike were left out: they say what a chosen one says"] if self.twins else []
        told += [f"line {error.line}: {error.reason}" for error in self.errors[:3]]
        return told + ([f"and {len(self.errors) - 3} more bad lines"] if len(self.errors) > 3 else [])


def take(pipeline: Pipeline, data: Path, pool: Path, count: int, out: Path) -> Chosen:
    """Write the `count` rows of `pool` that resemble the examples in `data` to `out`, the most alike first, as they stand.

    Both are labelled files; vectors are of the registry's encoder. Raises InputError where either has no row that can be used,
    or `out` cannot be written.
    """
    check_outputs([out], [data, pool])
    shots, rows = read_questions(data, labelled=True), read_questions(pool, labelled=True)
    for path, read in ((data, shots), (pool, rows)):
        if not read.rows:
            raise InputError("no row can be used", where=str(path), remedy="give rows a question and its answer")

    def vectors(texts: Sequence[str]) -> Array:
        return pipeline.encoder().encode(texts)

    shown = vectors([lettered(row.question.text, row.question.choices) for row in shots.rows])
    found = vectors([lettered(row.question.text, row.question.choices) for row in rows.rows])
    alike, order = resembling(shown, found, count)
    wanted = {rows.rows[i].question.line: place for place, i in enumerate(order)}
    texts = [""] * len(order)
    with pool.open("rb") as file:
        for line, raw in enumerate(file, 1):
            if line in wanted:
                # as an object again: a byte order mark, or a line that ends in CR LF, is no part of the row
                texts[wanted[line]] = json.dumps(json.loads(raw.decode("utf-8-sig")), ensure_ascii=False)
    with write_atomic(out) as written:
        written.writelines(f"{text}\n" for text in texts)
    least = float(alike[order[-1]])
    nearer = int((alike > least).sum()) - int((alike[order] > least).sum())
    return Chosen(len(order), len(rows.rows), least, nearer, (*shots.errors, *rows.errors))


def resembling(examples: Array, rows: Array, count: int, *, twins: float = TWINS) -> tuple[Array, list[int]]:
    """The cosine of every row to its nearest example, and up to `count` rows: of the five times as many that are most alike,
    the most alike first, less those with a cosine above `twins` to one that is kept. Vectors have length 1.

    >>> examples, rows = np.array([[1.0, 0]]), np.array([[0.8, 0.6], [1, 0], [0.99, 0.141], [0, 1]])
    >>> resembling(examples, rows, 2)[1]
    [1, 0]
    """
    alike = np.concatenate([(rows[at : at + 8192] @ examples.T).max(axis=1) for at in range(0, len(rows), 8192)])
    best = np.argsort(-alike, kind="stable")[: _FACTOR * count]
    kept: list[int] = []
    for at in range(0, len(best), _BLOCK):
        block = best[at : at + _BLOCK]
        if kept:
            block = block[(rows[block] @ rows[kept].T).max(axis=1) <= twins]
        near = rows[block] @ rows[block].T > twins
        alive = np.ones(len(block), dtype=bool)
        for i in range(len(block)):  # within a block, one after the other
            if alive[i]:
                kept.append(int(block[i]))
                alive[i + 1 :] &= ~near[i, i + 1 :]
                if len(kept) == count:
                    return alike, kept
    return alike, kept
