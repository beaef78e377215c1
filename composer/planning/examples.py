"""Solved questions that a planner is shown before the one it is to split: the text of it, which planners are trained on too. Pure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import NamedTuple

MOST = 3
"""Examples before a question."""


class Example(NamedTuple):
    """A question, and the text of a plan that solved it."""

    question: str
    plan: str


def shown(question: str, examples: Sequence[Example]) -> str:
    """What the planner is asked: the question, after the examples where there are any. They are what others have asked, so each stands on
    one line as JSON, where no line of it can look like another example.

    >>> print(shown("3 h and 5 min in min?", [Example("2 h in min, plus 4?", '{"steps":[]}')]))
    "2 h in min, plus 4?"
    {"steps":[]}
    "3 h and 5 min in min?"
    """
    if not examples:
        return question
    lines = [line for one in examples for line in (_line(one.question), one.plan)]
    return "\n".join([*lines, _line(question)])


def _line(question: str) -> str:
    return json.dumps(question, ensure_ascii=False)
