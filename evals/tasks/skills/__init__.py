"""The skills of the default specialists: questions made by rule, split by problem."""

from composer.types import Kind
from evals.tasks.skills import arithmetic, dates, extraction, numerals, sorting, units, wordforms
from evals.tasks.skills.item import SPLITS, Item, Lesson, Split, lessons, split_of

__all__ = [
    "DEFAULT",
    "SKILLS",
    "SPLITS",
    "Item",
    "Kind",
    "Lesson",
    "Split",
    "items",
    "split_of",
    "teach",
]

SKILLS = {
    skill.prefix: skill
    for skill in (
        arithmetic.SKILL,
        arithmetic.THREE_DIGIT,
        dates.SKILL,
        extraction.SKILL,
        numerals.SKILL,
        sorting.SKILL,
        units.SKILL,
        wordforms.SKILL,
    )
}
#: the skills whose specialists are in the packaged configuration
DEFAULT = ("arithmetic", "extraction", "sorting", "units")


def items(task: str, split: Split, n: int, seed: int = 0) -> list[Item]:
    """`n` labelled questions of a skill (`arithmetic-3digit` names the extra group).

    >>> [item.kind for item in items("sorting", "test", 1)]
    ['list']
    """
    return [lesson.item for lesson in teach(task, split, n, seed)]


def teach(task: str, split: Split, n: int, seed: int = 0) -> list[Lesson]:
    """The same questions with the text the specialist learns to write."""
    return lessons(SKILLS[task], split, n, seed)
