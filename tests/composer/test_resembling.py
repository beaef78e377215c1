"""Rows to train on: those that resemble the examples, each thing said once."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from composer.cli import app
from composer.config import PACKAGED
from composer.errors import InputError
from composer.resembling import TWINS, resembling


def plainly(examples: np.ndarray, rows: np.ndarray, count: int) -> list[int]:
    """METHODS H as it is written, row by row."""
    alike = (rows @ examples.T).max(axis=1)
    kept: list[int] = []
    for i in np.argsort(-alike, kind="stable")[: 5 * count]:
        if len(kept) < count and all(rows[i] @ rows[j] <= TWINS for j in kept):
            kept.append(int(i))
    return kept


@pytest.mark.parametrize("count", [1, 7, 300])
def test_in_blocks_as_row_by_row(count: int) -> None:
    numbers = np.random.default_rng(count)
    rows = numbers.normal(size=(4000, 6)).astype(np.float32)  # of few dimensions: many are alike
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    examples = rows[numbers.integers(0, 4000, 5)]

    _, found = resembling(examples, rows, count)

    assert found == plainly(examples, rows, count) and len(found) <= count


def test_diversity_never_brings_in_what_is_not_alike() -> None:
    examples = np.array([[1.0, 0, 0]])
    rows = np.array([[1.0, 0, 0]] * 20 + [[0, 1, 0]])

    assert resembling(examples, rows, 2)[1] == [0]  # the five times two most alike are all the same


def test_rows_of_the_same_skill_are_taken_as_they_stand(tmp_path: Path) -> None:
    rows = [json.loads(line) for line in (PACKAGED / "items.jsonl").read_text().splitlines()]
    units = [row for row in rows if row["task"] == "units"]
    pool = [row | {"note": "kept"} for row in rows if row not in units[:5]]
    pool.insert(3, units[10] | {"id": "again"})
    files = {"few": units[:5], "pool": pool}
    for name, own in files.items():
        (tmp_path / name).write_text("".join(json.dumps(row) + "\r\n" for row in own) + "{bad\n")
    few, many, out = (str(tmp_path / name) for name in ("few", "pool", "out.jsonl"))

    done = CliRunner().invoke(app, ["experts", "select", "--data", few, "--pool", many, "--take", "20", "--out", out])

    taken = [json.loads(line) for line in Path(out).read_text().splitlines()]
    assert done.exit_code == 0 and done.stdout.strip() == out and "line " in done.stderr
    assert len(taken) == 20 and all(row in pool for row in taken)
    assert sum(row["task"] == "units" for row in taken) >= 18
    assert len({row["question"] for row in taken}) == 20, "a twin is taken once"


def test_what_belongs_together_is_asked_for_together(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["experts", "select", "--data", "x", "--pool", "y"])

    assert isinstance(done.exception, InputError) and "--pool, --take and --out go together" in str(done.exception)
