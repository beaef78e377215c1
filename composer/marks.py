"""What a draft is worth where the right answer is known, or where tests say whether a program is right."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from composer.answers.extract import extract, infer_kind
from composer.answers.grade import grade
from composer.answers.program import Verdict
from composer.errors import InputError

if TYPE_CHECKING:
    from composer.jsonl import Labelled


def mark(item: Labelled, text: str, complete: bool, *, run_code: bool = False) -> tuple[str | None, float | None]:
    """The answer in a draft (None: it is not `complete`, or holds none), and what it is worth in [0, 1] (None: nobody
    knows, since it is a program whose tests were not run; `run_code` allows that)."""
    question = item.question
    kind = question.kind or infer_kind(item.answer, question.choices)
    answer = extract(text, kind, question.choices) if complete else None
    verdicts: tuple[Verdict, ...] = ()
    if answer is not None and question.tests:
        from composer.answers.trial import run_tests  # noqa: PLC0415 only where there are programs

        verdicts = run_tests(answer, question.tests, execute=run_code).verdicts
        if "refused" in verdicts:
            return answer, None
    return answer, grade(answer, item.answer, kind, question.choices, text, verdicts)


def check_programs(items: Iterable[Labelled], place: str, *, run_code: bool) -> None:
    """Raise InputError at the first question of `place` that asks for a program, unless programs may (`run_code`) and
    can be run here."""
    first = next((item.question for item in items if item.question.tests), None)
    if first is None:
        return
    from composer.answers.trial import run_tests  # noqa: PLC0415 only where there are programs

    trial = run_tests("pass", ["pass"], execute=run_code)
    if trial.verdicts != ("passed",):
        why = (trial.why or f"one that does nothing {trial.verdicts[0]}") if run_code else "that was not allowed"
        raise InputError(
            f"question {first.id!r} asks for a program, and programs are graded by running them: {why}",
            where=f"{place}, line {first.line}",
            remedy=f"{'' if run_code else 'allow it with --run-code, or '}leave out the rows of kind code",
        )
