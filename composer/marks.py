"""What a draft is worth where the right answer is known, or where tests say whether a program is right."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from composer.answers.extract import codes, extract, infer_kind
from composer.answers.grade import grade
from composer.answers.program import Verdict
from composer.errors import InputError

if TYPE_CHECKING:
    from composer.jsonl import Labelled


def mark(item: Labelled, text: str, complete: bool, *, run_code: bool = False) -> tuple[str | None, float | None]:
    """The answer in a draft (None: it is not `complete`, holds none, or is a program that fails a test), and what it is
    worth in [0, 1] (None: nobody knows, since it is a program whose tests were not run; `run_code` allows that)."""
    question = item.question
    kind = question.kind or infer_kind(item.answer, question.choices)
    answer = extract(text, kind, question.choices) if complete else None
    verdicts: tuple[Verdict, ...] = ()
    if answer is not None and question.tests:
        from composer.answers.trial import run_tests  # noqa: PLC0415 only where there are programs

        verdicts = run_tests(answer, question.tests, execute=run_code).verdicts
        if "refused" in verdicts:
            return answer, None
    worth = grade(answer, item.answer, kind, question.choices, text, verdicts)
    return None if verdicts and worth < 1 else answer, worth


def alike(item: Labelled, answers: Sequence[str | None]) -> list[str | None]:
    """Answers to one question, equal ones in the same words: those of the first. Programs here have passed the same
    tests, so all of them are equal."""
    kind = item.question.kind or infer_kind(item.answer, item.question.choices)
    passed: list[tuple[Verdict, ...]] = [("passed",)] * len(answers) if item.question.tests else []
    words: dict[int, str | None] = {-1: None}
    return [words.setdefault(code, answer) for code, answer in zip(codes(answers, kind, passed), answers, strict=True)]


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
