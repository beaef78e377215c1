"""The questions of `coe eval live`: the skills' own, those of two skills, those of none, and tasks of BIG-Bench Hard."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from composer.jsonl import Labelled, Question, read_questions
from evals.skills import HERE
from evals.tasks import bbh
from evals.tasks.skills import DEFAULT, Item, items
from evals.tasks.twoskill import twoskill

SKILLS, TWO, NO, BBH = "skills", "twoskill", "noskill", "bbh"
GROUPS = (SKILLS, TWO, NO, BBH)
SEED = 3  # of the test questions; other evaluations ask those of 1 and 2
TUNED = 12  # questions of each task of BIG-Bench Hard that say whether anybody can do it

Half = Literal["calibration", "test"]


def questions(
    group: str, split: Half, n: int, data: Path | None = None, tasks: Sequence[str] = bbh.TASKS
) -> list[Labelled]:
    """About `n` questions of a group, of `skills` and `bbh` equally many of each skill and task; of the 50 that need no skill every
    third is for choosing. `data` is the folder of recorded data, where BIG-Bench Hard lies. Raises InputError where it does
    not."""
    if group == BBH:
        each = TUNED if split == "calibration" else -(-n // max(1, len(tasks)))
        return [one for task in tasks for one in bbh.questions(data or Path(), task, split, each, SEED)]
    if group == NO:
        found = read_questions(HERE / "noskill.jsonl", labelled=True).rows
        return [one for place, one in enumerate(found) if (place % 3 == 0) == (split == "calibration")][:n]
    if group == TWO:
        return labelled(twoskill(split, n, SEED))
    return labelled([one for skill in DEFAULT for one in items(skill, split, -(-n // len(DEFAULT)), SEED)])


def labelled(made: Sequence[Item]) -> list[Labelled]:
    """Questions made by rule, as those of a file."""
    return [Labelled(Question(one.id, one.question, (), one.kind, 1), one.answer, one.task, one.split) for one in made]
