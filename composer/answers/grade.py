"""Scores an extracted answer against a labelled one."""

from __future__ import annotations

import re
import string
from collections.abc import Sequence

from composer.answers.equal import close, compare
from composer.answers.extract import agree, conclusion, extract, holds, words
from composer.answers.formula import labelled
from composer.answers.program import Verdict
from composer.errors import InputError
from composer.types import Kind

HEAD_SENTENCES = 2
HEAD_CHARACTERS = 200

# A full stop after an initial or a title ends no sentence: "J. K. Rowling", "Dr. Watson".
_SENTENCE_END = re.compile(r"(?<!\b\w)(?<!\bMr)(?<!\bMrs)(?<!\bDr)(?<!\bSt)[.!?]+(?:\s+|\Z)|\n\s*")


def grade(
    extracted: str | None,
    gold: str,
    kind: Kind,
    choices: Sequence[str] = (),
    text: str = "",
    verdicts: Sequence[Verdict] = (),
) -> float:
    """How right `extracted` is, in [0, 1]; None is 0.

    number: equal to 1e-9, relatively. math: equal formulas, as `compare` decides. choice: `gold` is a letter or a choice's text. list, set, json: equal canonical
    forms. text: `gold` may hold alternatives ("colour|color"); one of them must stand, as whole words, in the first two
    sentences or 200 characters of the draft (`text`; without it, of `extracted`), whichever end first. That allows a
    full sentence and a restated question, and gives nothing for a ramble that mentions everything. code: all its tests
    passed, as `verdicts` says; raises InputError where they were not run, since nobody knows.

    >>> grade("paris", "Paris", "text", text="The capital of France is Paris."), grade("5", "5.0", "number")
    (1.0, 1.0)
    """
    if extracted is None:
        return 0.0
    match kind:
        case "number":
            return float(_close(extract(extracted, "number"), extract(gold, "number")))
        case "math":
            form = labelled(gold)
            return float(form is not None and compare(extracted, form).equal)
        case "code":
            return float(_all_passed(verdicts))
        case "text":
            said = words(_head(conclusion(text) if text else extracted))
            return float(any(holds(said, words(phrase)) for phrase in _alternatives(gold)))
        case _:
            return float(agree(extracted, canonical_gold(gold, kind, choices)))


def canonical_gold(gold: str, kind: Kind, choices: Sequence[str] = ()) -> str | None:
    """The labelled answer as `extract` would give it (text: its first alternative); None: no draft can ever match it."""
    if kind == "text":
        return next((phrase for phrase in _alternatives(gold) if words(phrase)), None)
    if kind == "choice":
        letter = gold.strip().upper()
        if len(letter) == 1 and letter in (string.ascii_uppercase[: len(choices)] if choices else "ABCDEFGHIJ"):
            return letter
        same = [i for i, choice in enumerate(choices) if extract(choice, "text") == extract(gold, "text")]
        return string.ascii_uppercase[same[0]] if len(same) == 1 else None
    return labelled(gold) if kind == "math" else extract(gold, kind)


def _alternatives(gold: str) -> list[str]:
    return [phrase for part in gold.split("|") if (phrase := extract(part, "text"))]


def _all_passed(verdicts: Sequence[Verdict]) -> bool:
    if not verdicts or "refused" in verdicts:
        raise InputError(
            "a program is graded by its tests, and they were not run",
            where="kind `code`",
            remedy="give the questions `tests`, and allow that what models wrote is run",
        )
    return all(verdict == "passed" for verdict in verdicts)


def _close(a: str | None, b: str | None) -> bool:
    return a is not None and b is not None and close(a, b)


def _head(text: str) -> str:
    head = text.lstrip()[:HEAD_CHARACTERS]
    ends = [match.end() for match in _SENTENCE_END.finditer(head)]
    return head[: ends[HEAD_SENTENCES - 1]] if len(ends) >= HEAD_SENTENCES else head
