"""Outcomes out of the draft store: nobody is asked again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from composer.errors import InputError
from composer.jsonl import Labelled, Question
from composer.learning.graded import audit, from_runs
from composer.store import DraftStore


def draft(name: str, text: str, *, sample: int = 0, stop: str = "stop", error: object = None) -> dict[str, Any]:
    return {"name": name, "sample": sample, "draft": text, "stop": stop, "error": error}


def trace(number: int, question: str, *drafts: dict[str, Any]) -> dict[str, Any]:
    return {"trace_id": f"t{number}", "id": str(number), "question": question, "drafts": list(drafts)}


LABELLED = [
    Labelled(Question("sum", "1 + 1?", (), "number", 1), "2", "sums", None),
    Labelled(Question("pick", "Which?", ("left", "right"), "choice", 2), "B", "words", "calibration"),
]
TRACES = [
    trace(1, "1 + 1?", draft("a", "1 + 1 = 2"), draft("b", "3"), draft("c", "2", error={"kind": "host_died"})),
    trace(2, "Which?", draft("a", "The answer is B", stop="length"), draft("b", "B"), draft("b", "A", sample=1)),
    trace(3, "never labelled", draft("a", "2")),
]


def test_answers_are_graded_and_what_nobody_asked_stays_open() -> None:
    record = from_runs(TRACES, LABELLED, {"a": 2.0})

    found = record.outcomes.matrix(2)
    assert [(arm.name, arm.price) for arm in record.outcomes.arms] == [("a", 2.0), ("b", 1.0)]
    assert found[0].tolist() == [1.0, 0.0]
    assert found[1].tolist() == [0.0, 0.5]  # cut off is wrong; two samples count as their mean
    assert record.category == ("sums", "words")
    assert record.split == ("profile", "calibration")
    assert record.options.tolist() == [0, 2]
    assert set(record.outcomes.answer) == {"2", "3", None, "B", "A"}


def test_the_same_draft_in_two_runs_counts_once() -> None:
    record = from_runs([*TRACES, TRACES[0]], LABELLED)

    assert len(record.outcomes.question) == len(from_runs(TRACES, LABELLED).outcomes.question)
    assert not np.isnan(record.outcomes.matrix(2)).any()


def test_without_a_common_question_the_user_is_told() -> None:
    with pytest.raises(InputError, match="no run in the store asked any"):
        from_runs(TRACES[2:], LABELLED)


def test_a_draft_with_a_contrast_is_no_outcome_of_the_arm_as_it_is() -> None:
    def with_one(name: str, text: str, why: str) -> dict[str, Any]:
        told = {"partner": "law", "chosen": "named", "beta": 0.5, "alpha": 0.1, "why": why}
        return {**draft(name, text), "contrast": told}

    put_on = with_one("a", "1 + 1 = 3", "right +3.1 points more often")
    by_name = with_one("a~law", "1 + 1 = 5", "")
    heard: list[str] = []

    record = from_runs([trace(0, "1 + 1?", put_on, by_name), *TRACES], LABELLED, say=heard.append)

    assert [arm.name for arm in record.outcomes.arms] == ["a", "a~law", "b"]
    assert record.outcomes.matrix(2)[0].tolist() == [1.0, 0.0, 0.0]  # `a` as it is was asked later, and was right
    assert "1 of a" in heard[0] and len(heard) == 1
    with pytest.raises(InputError, match="all drafts have a contrast"):
        from_runs([trace(0, "1 + 1?", put_on)], LABELLED)


async def test_the_store_gives_back_what_runs_finished(tmp_path: Path) -> None:
    with DraftStore.open(tmp_path / "drafts.sqlite") as store:
        for name, own in (("r1", TRACES[:2]), ("r2", TRACES[2:])):
            with await store.begin(name, "config", "1", [(each["id"], 1, "sha") for each in own]) as run:
                for each in own:
                    await run.finish(each["id"], 0, each, "ok")

        assert await store.traces("r1") == TRACES[:2]
        assert await store.traces() == TRACES
        assert from_runs(await store.traces(), LABELLED).outcomes.arms[0].name == "a"


def test_equal_formulas_of_runs_are_one_answer() -> None:
    item = Labelled(Question("half", "1/4 as a decimal or fraction?", (), "math", 1), r"\frac{1}{4}", "sums", None)
    drafts = [draft("a", r"$\frac{1}{4}$"), draft("b", "The answer is $0.25$"), draft("c", "$3$")]

    record = from_runs([trace(1, item.question.text, *drafts)], [item])

    a, b, c = record.outcomes.answer
    assert a == b != c


def test_an_expert_that_was_sure_and_wrong_in_runs_raises_an_alarm() -> None:
    def answered(n: int, answer: str) -> dict[str, Any]:
        item = f"{n} + 1?"
        own = trace(n, item, draft("a", answer))
        reason = {"skills": [["sums", 1.0]]}
        return {**own, "answer": answer, "chosen": "a", "sure": 0.9, "calibrated": True, "route": {"reason": reason}}

    labelled = [Labelled(Question(str(n), f"{n} + 1?", (), "number", n), str(n + 1), "sums", None) for n in range(60)]
    wrong = [answered(n, "0" if n % 2 else str(n + 1)) for n in range(60)]
    right = [answered(n, str(n + 1)) for n in range(60)]

    [alarm] = audit(wrong, labelled)

    assert (alarm.arm, alarm.domain, alarm.questions) == ("a", "sums", 60)
    assert alarm.excess == pytest.approx(0.4)
    assert audit(right, labelled) == ()
    assert audit([{**each, "sure": None} for each in wrong], labelled) == ()
    assert audit([{**each, "calibrated": False} for each in wrong], labelled) == ()


def test_a_program_is_graded_by_what_it_gave() -> None:
    def ran(use: str, text: str, gave: str, why: str = "") -> dict[str, Any]:
        calls = [{"program": text, "gave": gave, "why": why}]
        return draft(f"a@{use}{why}", text) | {"strategy": {"use": use, "calls": calls, "why": why}}

    own = [ran("code", "3 - 1", "2"), ran("code", "2", "", "it failed"), ran("tool", "Answer: 2", "7")]
    record = from_runs([trace(1, "1 + 1?", *own)], LABELLED)

    rows = zip((arm.name for arm in record.outcomes.arms), record.outcomes.matrix(2)[0].tolist(), strict=True)
    assert dict(rows) == {"a@code": 1.0, "a@codeit failed": 0.0, "a@tool": 1.0}


@pytest.mark.parametrize("how", [{"plan": {"planner": "p", "steps": [], "why": ""}}, {"discussed": [{"drafts": []}]}])
def test_the_last_step_of_a_plan_or_a_discussion_is_no_outcome_of_who_wrote_it(how: dict[str, Any]) -> None:
    helped = {**trace(0, "1 + 1?", draft("c", "2")), **how}

    assert [arm.name for arm in from_runs([helped, *TRACES], LABELLED).outcomes.arms] == ["a", "b"]
    broken = {
        **trace(0, "1 + 1?", draft("c", "2")),
        "plan": {"planner": "p", "steps": [], "why": "step 1 has no answer"},
    }
    assert [arm.name for arm in from_runs([broken], LABELLED).outcomes.arms] == ["c"], "it was asked as it stands"
