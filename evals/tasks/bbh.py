"""Tasks of BIG-Bench Hard (Suzgun et al. 2022) with short questions, cut into questions to choose on and test questions.

The files lie in `benchmarks/bbh` of the recorded data and are nobody's training data.
"""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from pathlib import Path
from random import Random
from typing import Literal

from composer.errors import InputError
from composer.jsonl import Labelled, Question

TASKS = (
    "word_sorting",
    "object_counting",
    "multistep_arithmetic_two",
    "boolean_expressions",
    "navigate",
    "sports_understanding",
    "web_of_lies",
    "hyperbaton",
)
"""Those whose questions are short enough for a small model's context and our patience."""
_CHOSEN_ON = 0.4  # of a task's questions are for choosing
_OPTION = re.compile(r"^\(([A-Z])\) (.+)$", re.MULTILINE)
_TWO = {
    "boolean_expressions": ("True", "False"),
    "navigate": ("Yes", "No"),
    "sports_understanding": ("yes", "no"),
    "web_of_lies": ("Yes", "No"),
}


def questions(folder: Path, task: str, split: Literal["calibration", "test"], n: int, seed: int = 0) -> list[Labelled]:
    """At most `n` questions of a task. Raises InputError where its file is not there, or is none."""
    path = folder / "benchmarks" / "bbh" / f"{task}.json"
    try:
        told = json.loads(path.read_text(encoding="utf-8"))["examples"]
        rows = [_labelled(task, place, str(one["input"]), str(one["target"])) for place, one in enumerate(told)]
    except (OSError, ValueError, KeyError, TypeError) as why:
        raise InputError(
            f"this task of BIG-Bench Hard cannot be read: {why}",
            where=str(path),
            remedy="set COE_DATA to the recorded data, or leave the group out with --benchmark",
        ) from why
    order = sorted(range(len(rows)), key=lambda place: Random(f"{seed}/{rows[place].question.id}").random())
    cut = round(len(rows) * _CHOSEN_ON)
    return [rows[place] for place in (order[:cut] if split == "calibration" else order[cut:])][:n]


def chance(folder: Path, task: str) -> float:
    """How often one is right who always gives the commonest answer, of all the task's questions to choose on. Raises InputError."""
    rows = questions(folder, task, "calibration", sys.maxsize)
    return max(Counter(row.answer for row in rows).values()) / len(rows)


def _labelled(task: str, place: int, asked: str, target: str) -> Labelled:
    name = f"bbh-{task}-{place:03d}"
    if task == "word_sorting":
        words = ", ".join(target.split())
        return Labelled(Question(name, asked, (), "list", 1), words, task, "test")
    if task in _TWO:
        choices = _TWO[task]
        return Labelled(
            Question(name, asked, choices, "choice", 1), chr(ord("A") + choices.index(target)), task, "test"
        )
    if options := _OPTION.findall(asked):
        text = asked[: asked.index("Options:")].rstrip()
        return Labelled(
            Question(name, text, tuple(told for _, told in options), "choice", 1), target.strip("()"), task, "test"
        )
    return Labelled(Question(name, asked, (), "number", 1), target, task, "test")
