"""The training recipe: lessons, and how replies are judged."""

from __future__ import annotations

from pathlib import Path

import pytest

from evals.tasks.skills import SKILLS, items, split_of
from evals.tasks.skills.mix import drills, mix, rows
from evals.train.measure import base_gguf, handwritten, right, shown


def test_a_mix_has_equal_shares_and_only_training_items() -> None:
    lessons = mix(["sorting", "units", "arithmetic"], 301, 5)

    tasks = [lesson.item.task for lesson in lessons]
    assert sorted(tasks.count(task) for task in set(tasks)) == [100, 100, 101]
    assert {lesson.item.split for lesson in lessons} == {"train"}
    assert lessons == mix(["sorting", "units", "arithmetic"], 301, 5)


@pytest.mark.parametrize("skill", [name for name, taught in SKILLS.items() if taught.bare])
def test_a_drill_solves_several_training_problems_in_order(skill: str) -> None:
    for lesson in drills(skill, 40, 3):
        asked, solved = lesson.item.question.split("; "), lesson.target.split("; ")

        assert len(asked) == len(solved) == 4 and lesson.item.split == "train"
        assert right(lesson.item.kind, solved[-1], lesson.item.answer)


def test_a_drill_has_no_problem_of_another_split() -> None:
    for lesson in drills("arithmetic", 60, 4):
        for solved in lesson.target.split("; "):
            a, sign, b = solved.split(" ")[:3]
            key = {"+": "{0}plus{1}", "-": "{1}-{0}", "*": "{0}times{1}"}[sign]
            assert split_of(key.format(*sorted((int(a), int(b))))) == "train"


def test_rows_hold_what_training_reads_and_no_question_twice() -> None:
    lessons = mix(["wordforms"], 400, 0)

    made = list(rows([*lessons, *lessons]))

    assert len({row["question"] for row in made}) == len(made)
    assert {row["question"]: row["target"] for row in made} == {
        lesson.item.question: lesson.target for lesson in reversed(lessons)
    }
    assert all({"id", "question", "answer", "kind", "target"} <= row.keys() for row in made)


def test_a_missing_base_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="pass --base"):
        base_gguf(tmp_path / "none.gguf")


@pytest.mark.parametrize(
    ("kind", "reply", "answer", "verdict"),
    [
        ("number", "64 * 7 = 420 + 28 = 448", "448", True),
        ("number", "420 minutes", "420", True),
        ("number", "none", "4", False),
        ("list", "a, b, c", "a, b, c", True),
        ("list", "b, a, c", "a, b, c", False),
        ("json", '{"age":3,"name":"Al"}', '{"name":"Al","age":3}', True),
        ("json", '{"age":', '{"age":3}', False),
        ("text", "1 Monday, 2 Tuesday\nAnswer: Tuesday", "Tuesday", True),
        ("text", "April 7.", "7 April|April 7", True),
    ],
)
def test_replies_are_judged_by_kind(kind: str, reply: str, answer: str, verdict: bool) -> None:
    assert right(kind, reply, answer) is verdict  # type: ignore[arg-type]


def test_the_base_is_told_the_form_and_shown_three_examples() -> None:
    [item] = items("units", "test", 1)

    messages = shown(item, items("units", "train", 3))

    assert [turn["role"] for turn in messages] == ["user", "assistant"] * 3 + ["user"]
    assert messages[-1]["content"] == f"{item.question}\nAnswer with the number only."
    assert len(handwritten("units")) == 25
