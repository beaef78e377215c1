"""What a planner and a coder are taught, and the questions of `coe eval live`."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest

from composer.answers.grade import grade
from composer.errors import InputError
from composer.planning.plan import read
from evals.live_questions import BBH, GROUPS, questions
from evals.tasks import bbh
from evals.tasks.coder import TAUGHT, programs, teach
from evals.tasks.planner import USUAL, WAYS, plans, put
from evals.tasks.twoskill import FORMS
from evals.tasks.twoskill import teach as teach_two
from evals.tasks.twoskill_new import NEW
from evals.tasks.twoskill_new import teach as teach_new
from tests.evals.test_recorded_data import DATA, needs_data


def test_every_plan_holds_together_and_some_follow_examples() -> None:
    lessons = plans(600, 1)
    shown = [one for one in lessons if one.item.question.startswith('"')]
    assert 0.3 < len(shown) / len(lessons) < 0.6
    assert len({one.item.id for one in lessons}) == len(lessons)
    for one in lessons:
        read(one.target)
    empty = [one for one in lessons if not json.loads(one.target)["steps"]]
    assert 0.25 < len(empty) / len(lessons) < 0.42


def test_a_plan_put_another_way_asks_the_same() -> None:
    for lesson in teach_two("train", 60, 3):
        plan = read(lesson.target)
        assert put(lesson.target, USUAL) == lesson.target
        for way in WAYS[1:]:
            other = read(put(lesson.target, way))
            assert [step.places for step in other.steps] == [step.places for step in plan.steps]
            assert other.steps[0].ask != plan.steps[0].ask


@pytest.mark.parametrize("form", NEW)
def test_forms_never_taught_have_plans_that_lead_to_their_answers(form: str) -> None:
    for lesson in teach_new(form, "test", 40, 1):
        plan = read(lesson.target)
        assert len(plan.steps) == 2
        assert lesson.item.answer.isdigit()
    assert form not in FORMS


@pytest.mark.parametrize("skill", TAUGHT)
def test_a_program_is_the_answer(skill: str) -> None:
    for lesson in teach(skill, "test", 40, 1):
        worth = _value(lesson.target)
        told = ", ".join(worth) if isinstance(worth, list) else str(worth)
        assert grade(told, lesson.item.answer, lesson.item.kind, (), told) == 1.0, lesson


def _value(program: str) -> object:
    """Of a sum, a product, a quotient or a sorted text: nothing else is computed here."""
    tree = ast.parse(program, mode="eval").body
    if isinstance(tree, ast.Call):
        inner = tree.args[0]
        assert isinstance(inner, ast.Call)
        assert isinstance(inner.func, ast.Attribute)
        return sorted(str(ast.literal_eval(inner.func.value)).split())
    assert isinstance(tree, ast.BinOp)
    left, right = ast.literal_eval(tree.left), ast.literal_eval(tree.right)
    return {ast.Add: left + right, ast.Sub: left - right, ast.Mult: left * right, ast.FloorDiv: left // right}[
        type(tree.op)
    ]


def test_lessons_of_programs_are_training_questions_of_all_skills() -> None:
    made = programs(200, 1)
    assert len(made) == 200
    assert {one.item.split for one in made} == {"train"}
    assert sum("sorted" in one.target for one in made) > 40


@pytest.mark.parametrize("group", [group for group in GROUPS if group != BBH])
def test_what_is_chosen_on_is_not_what_is_tested(group: str) -> None:
    tuning, asked = questions(group, "calibration", 24), questions(group, "test", 24)
    assert len(asked) == 24
    assert not {one.question.text for one in tuning} & {one.question.text for one in asked}


def test_bbh_without_its_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="COE_DATA"):
        questions(BBH, "test", 8, tmp_path)


@needs_data
def test_tasks_of_bbh_are_cut_once_and_can_be_graded() -> None:
    assert DATA is not None
    for task in bbh.TASKS:
        tuning, asked = (bbh.questions(DATA, task, split, 250, 1) for split in ("calibration", "test"))  # type: ignore[arg-type]
        assert len(tuning) == pytest.approx(0.4 * (len(tuning) + len(asked)), abs=1)
        assert not {one.question.id for one in tuning} & {one.question.id for one in asked}
        for one in asked[:20]:
            assert grade(one.answer, one.answer, one.question.kind or "text", one.question.choices, one.answer) == 1.0
        assert 0 < bbh.chance(DATA, task) < 0.7
