"""What is a plan, what is refused before anything runs, and what is put where."""

import json

import pytest
from jsonschema import validate

from composer.planning.plan import MOST, SCHEMA, Plan, PlanError, Step, fill, read


def plan(*steps: tuple[str, str]) -> str:
    return json.dumps({"steps": [{"ask": ask, "gives": gives} for ask, gives in steps]})


GOOD = plan(
    ("Extract name and age as JSON: Ann is 7.", "json"), ("{1.age} + 2", "number"), ("{2} days in hours", "number")
)


def test_a_plan_is_read_as_it_is_written() -> None:
    found = read(GOOD)

    assert [step.places for step in found.steps] == [(), ((1, "age"),), ((2, None),)]
    assert read(found.text) == found
    assert read('{"steps":[]}') == Plan()
    validate(json.loads(GOOD), json.loads(SCHEMA))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("7", "an object with a list"),
        ("I would add them.", "no JSON"),
        ('{"steps":[{"ask":"a"}]}', "`ask` and `gives`"),
        (plan(("a", "picture")), "`gives` is one of"),
        (plan(("", "text")), "`ask` is a text"),
        (plan(("a", "text"), ("{2} b", "text")), "no earlier step"),
        (plan(("a", "text"), ("{3} b", "text")), "no earlier step"),
        (plan(("a", "text"), ("{0} b", "text")), "no earlier step"),
        (plan(("Name and age as JSON", "json"), ("{1} + 1", "number")), "name the field"),
        (plan(("3 + 4", "number"), ("{1.age} + 1", "number")), "has no field"),
        (plan(("Name and age as JSON", "json"), ("{1.size} + 1", "number")), "was not asked for"),
        (plan(("a", "text"), ("b", "text")), "nobody uses what step 1 gives"),
        (plan(*[("a", "text")] * (MOST + 1)), "at most 6 steps"),
        (json.dumps({"steps": [], "then": "x"}), "nothing else"),
    ],
)
def test_what_does_not_fit_together_is_refused_before_it_runs(text: str, why: str) -> None:
    with pytest.raises(PlanError, match=why):
        read(text)


def test_answers_stand_where_they_are_wanted() -> None:
    steps = read(GOOD).steps

    assert fill(steps[1], ['{"name":"Ann","age":7}']) == "7 + 2"
    assert fill(steps[2], ["", "9"]) == "9 days in hours"
    assert fill(Step("sort {1.words}", "list"), ['{"words":["b","a"]}']) == "sort b, a"


@pytest.mark.parametrize("answer", ["no JSON", '{"name":"Ann"}', "[7]", '{"age":{"years":7}}', '{"age":null}'])
def test_an_answer_without_the_field_ends_the_plan(answer: str) -> None:
    with pytest.raises(PlanError, match="age"):
        fill(read(GOOD).steps[1], [answer])


def test_braces_of_an_answer_are_no_places() -> None:
    """What an expert writes is put in once and not looked at again."""
    assert fill(Step("{1} and {2}", "text"), ["{2}", "x"]) == "{2} and x"


def test_an_endless_answer_is_not_asked() -> None:
    with pytest.raises(PlanError, match="characters"):
        fill(Step("{1}", "text"), ["x" * 5000])
