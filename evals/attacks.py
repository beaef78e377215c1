"""What `python -m evals.hostile` and `python -m evals.injections` have in common: their options, shares of questions, how they end."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from composer.errors import ComposerError
from composer.exits import INTERRUPTED
from composer.pipeline import Pipeline
from composer.settings.specs import Settings
from evals.metrics import Result, Row
from evals.report import write_json
from evals.tasks.injections import Part

ALL_PARTS = "all"


def attack_options(name: str, about: str | None) -> argparse.ArgumentParser:
    """The options of `python -m evals.NAME` that every attack has."""
    parser = argparse.ArgumentParser(
        prog=f"python -m evals.{name}", description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--part", choices=[*get_args(Part), ALL_PARTS], default="report")
    parser.add_argument(
        "--store", type=Path, help="keep drafts in this file: what is run again, or in parts, shares them"
    )
    parser.add_argument("--json", type=Path, help="write the figures there")
    return parser


def part_of(given: argparse.Namespace) -> Part | None:
    """The attacks that were asked for; None: all."""
    part: Part | None = None if given.part == ALL_PARTS else given.part
    return part


@contextmanager
def opened(settings: Settings, store: Path | None) -> Iterator[Pipeline]:
    """A pipeline with the drafts of `store`, None: with a store of its own that is gone afterwards."""
    with (
        tempfile.TemporaryDirectory() as scratch,
        Pipeline(settings, store=store or Path(scratch) / "drafts.sqlite") as pipeline,
    ):
        yield pipeline


def shares(name: str, values: NDArray[np.float64], calls: float = np.nan) -> Result:
    """What is so of each question (0 to 1), as a system's right answers are told."""
    unknown = np.full(len(values), np.nan)
    return Result(name, values, np.full(len(values), calls), unknown, unknown)


def written(given: argparse.Namespace, name: str, data: str, rows: Sequence[Row], **more: object) -> None:
    """Write the figures where `--json` says."""
    if given.json:
        told = f"{data}tasks/injections.jsonl, part {given.part}"
        write_json(given.json, f"python -m evals.{name}", told, rows, **more)


def run(measure: Callable[[], Iterable[str]]) -> int:
    """Measure and print the lines; 0, or the exit code of what went wrong."""
    try:
        lines = list(measure())
    except ComposerError as why:
        sys.stderr.write(f"{why}\n")
        return why.exit_code
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; with --store FILE the same command goes on from the drafts that are there\n")
        return INTERRUPTED
    sys.stdout.write("\n".join(lines) + "\n")
    return 0
