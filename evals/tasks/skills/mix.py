"""What a specialist is taught: training questions in shares, some of them as drills, and their rows for `coe experts train`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from random import Random

from evals.tasks.skills import SKILLS, Item, Lesson, split_of, teach
from evals.tasks.skills.item import Problem

_THREE_DIGIT = 0.08  # of the arithmetic lessons
_DRILLS = 0.4  # of the lessons of skills that have a bare form: several problems teach more per token
_PROBLEMS = 4  # in a drill


def mix(skills: Sequence[str], n: int, seed: int) -> list[Lesson]:
    """`n` training lessons in equal shares of the skills, shuffled."""
    found: list[Lesson] = []
    for place, skill in enumerate(skills):
        share = n // len(skills) + (place < n % len(skills))
        if SKILLS[skill].bare:
            found += drills(skill, drilled := round(share * _DRILLS), seed)
            share -= drilled
        if skill == "arithmetic":
            found += teach("arithmetic-3digit", "train", extra := round(share * _THREE_DIGIT), seed)
            share -= extra
        found += teach(skill, "train", share, seed)
    Random(seed).shuffle(found)
    return found


def drills(skill: str, n: int, seed: int) -> list[Lesson]:
    """`n` lessons of several problems almost without words, each solved in turn.

    `47 + 36; 9 - 4` -> `47 + 36 = 83; 9 - 4 = 5`
    """
    taught, rng = SKILLS[skill], Random(f"drills of {skill}/{seed}")

    def problems() -> Iterator[Problem]:
        while True:
            problem = taught.draw(rng, "train")
            if split_of(problem.key) == "train":
                yield problem

    drawn, made = problems(), []
    for number in range(n):
        group = list(islice(drawn, _PROBLEMS))
        question = "; ".join(taught.bare.format_map(problem.slots) for problem in group)
        last = group[-1]
        item = Item(f"{skill}-drill-{number:04d}", question, last.answer, last.kind, taught.task, "train")
        made.append(Lesson(item, "; ".join(problem.target for problem in group)))
    return made


def rows(lessons: Sequence[Lesson]) -> Iterator[dict[str, str]]:
    """Lessons as rows of labelled JSONL with their targets. Questions that come twice keep one row: a row is counted, and
    may be held back, once."""
    seen: set[str] = set()
    for lesson in lessons:
        item = lesson.item
        if item.question not in seen:
            seen.add(item.question)
            yield {
                "id": item.id,
                "question": item.question,
                "answer": item.answer,
                "kind": item.kind,
                "task": item.task,
                "target": lesson.target,
            }
