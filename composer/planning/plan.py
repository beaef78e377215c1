"""What a plan is, how one is read out of a planner's text, and what is checked before any of it runs. Pure.

A step's `ask` is a question of its own; `{2}` in it is what step 2 gave, `{2.age}` the field of a JSON object that it gave.
The text is a model's: it is data, and nothing of it is ever run.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from composer.errors import ComposerError

Gives = Literal["number", "text", "list", "json"]
"""The kinds that a step may give: those that can stand in the next step's question, or whose fields can."""
GIVES: tuple[Gives, ...] = get_args(Gives)
MOST = 6
"""Steps of a plan."""
LONGEST = 2_000
"""Characters of a step's question, filled in."""
_PLACE = re.compile(r"\{(\d{1,2})(?:\.([^{}\s.]{1,60}))?\}")

SCHEMA = json.dumps(
    {
        "type": "object",
        "properties": {
            "steps": {
                "type": "array",
                "maxItems": MOST,
                "items": {
                    "type": "object",
                    "properties": {"ask": {"type": "string"}, "gives": {"enum": list(GIVES)}},
                    "required": ["ask", "gives"],
                    "additionalProperties": False,
                },
            }
        },
        "required": ["steps"],
        "additionalProperties": False,
    }
)
"""The JSON schema of a plan, for engines that write by one."""


class PlanError(ComposerError):
    """A text that is no plan, or a plan whose steps do not fit together."""

    code = "plan"


@dataclass(frozen=True, slots=True)
class Step:
    """A question, with places for what earlier steps gave, and what kind of answer it gives."""

    ask: str
    gives: Gives

    @property
    def places(self) -> tuple[tuple[int, str | None], ...]:
        """The steps (from 1) whose answers it uses, and of JSON which field."""
        return tuple((int(found[1]), found[2]) for found in _PLACE.finditer(self.ask))


@dataclass(frozen=True, slots=True)
class Plan:
    """Steps in order; the last one gives the answer. Without steps the question is asked as it stands."""

    steps: tuple[Step, ...] = ()

    @property
    def text(self) -> str:
        """The plan as a planner writes it.

        >>> Plan((Step("3 + 4", "number"),)).text
        '{"steps":[{"ask":"3 + 4","gives":"number"}]}'
        """
        steps = [{"ask": step.ask, "gives": step.gives} for step in self.steps]
        return json.dumps({"steps": steps}, ensure_ascii=False, separators=(",", ":"))


def read(text: str) -> Plan:
    """The plan in a planner's text, checked. Raises PlanError, which says what was found and what was expected."""
    try:
        told = json.loads(text)
    except ValueError as why:
        raise PlanError(f"the planner wrote no JSON: {why}") from why
    if not isinstance(told, dict) or set(told) != {"steps"} or not isinstance(told["steps"], list):
        raise PlanError("a plan is an object with a list of `steps` and nothing else")
    plan = Plan(tuple(_step(number, one) for number, one in enumerate(told["steps"], 1)))
    check(plan)
    return plan


def check(plan: Plan) -> None:
    """See that every place is filled by an earlier step that gives something of the kind, and that nothing is asked in vain.
    Raises PlanError."""
    if len(plan.steps) > MOST:
        raise PlanError(f"a plan has at most {MOST} steps, and this one {len(plan.steps)}")
    used: set[int] = set()
    for number, step in enumerate(plan.steps, 1):
        for place, field in step.places:
            _check_place(plan, number, place, field)
            used.add(place)
    if idle := set(range(1, len(plan.steps))) - used:
        raise PlanError(f"nobody uses what step {min(idle)} gives")


def _check_place(plan: Plan, number: int, place: int, field: str | None) -> None:
    at = f"step {number}"
    if not 1 <= place < number:
        raise PlanError(f"{{{place}}} is no earlier step", where=at)
    source = plan.steps[place - 1]
    if field is None and source.gives == "json":
        raise PlanError(f"step {place} gives an object: name the field, as {{{place}.name}}", where=at)
    if field is not None and source.gives != "json":
        raise PlanError(f"step {place} gives a {source.gives}, which has no field {field!r}", where=at)
    if field is not None and re.search(rf"\b{re.escape(field)}\b", source.ask) is None:
        raise PlanError(f"step {place} was not asked for {field!r}", where=at)


def _step(number: int, told: Any) -> Step:
    at = f"step {number}"
    if not isinstance(told, dict) or set(told) != {"ask", "gives"}:
        raise PlanError("a step has `ask` and `gives`, and nothing else", where=at)
    ask, gives = told["ask"], told["gives"]
    if not isinstance(ask, str) or not ask.strip() or len(ask) > LONGEST:
        raise PlanError(f"`ask` is a text of 1 to {LONGEST} characters", where=at)
    if gives not in GIVES:
        raise PlanError(f"`gives` is one of {', '.join(GIVES)}, not {str(gives)[:40]!r}", where=at)
    return Step(ask, gives)


def fill(step: Step, answers: Sequence[str]) -> str:
    """The question of a step; `answers` are those of the steps before it, as they were read out of the drafts. Raises PlanError
    where one is not of its kind after all."""

    def put(found: re.Match[str]) -> str:
        answer, field = answers[int(found[1]) - 1], found[2]
        return answer if field is None else _field(answer, field)

    asked = _PLACE.sub(put, step.ask)
    if len(asked) > LONGEST:
        raise PlanError(f"filled in, the question has {len(asked)} characters, and at most {LONGEST} are asked")
    return asked


def _field(answer: str, field: str) -> str:
    try:
        told = json.loads(answer)
    except ValueError:
        told = None
    if not isinstance(told, dict) or field not in told:
        raise PlanError(f"the answer has no field {field!r}: {answer[:80]!r}")
    value = told[field]
    if isinstance(value, list) and all(isinstance(one, str | int | float) for one in value):
        return ", ".join(map(str, value))
    if isinstance(value, dict | list) or value is None:
        raise PlanError(f"the field {field!r} holds no number or text: {answer[:80]!r}")
    return str(value)
