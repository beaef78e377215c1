"""Marks on answers: why one may be wrong although it is sure."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from stage_kit import Bench, after, batch, done, replied

from composer.answers.signals import Sureness
from composer.answers.trust import DISSOCIATION, OFF_DOMAIN, Alarm, Content, Trust
from composer.stages.aggregate import aggregate
from composer.stages.kit import Kit
from composer.stages.verify import verify
from composer.state import Answer, Contrasted, Discussed, Merged, Planned, Reply, State
from composer.traced import trace_of
from routers.coverage import BOUNDARY, GAP
from routers.doubting import DISAGREEMENT
from routers.testing import HashEncoder, simulate
from routers.types import Reason


def trusting(kit: Kit, *, alarms: tuple[Alarm, ...] = ()) -> Kit:
    content = Content().fit(simulate(300)[0])
    return replace(kit, trust=lambda: Trust(Sureness(), alarms, content, 300), encoder=HashEncoder)


def asked(*said: tuple[str, str], flags: tuple[str, ...] = (), skill: str | None = None) -> State:
    state = replied(batch("a", kind="text"), *((arm, done(text)) for arm, text in said))
    return state.apply({"reasons": (Reason(skills=((skill, 1.0),) if skill else (), flags=flags),)})


async def marked(state: State, kit: Kit) -> Answer:
    state = await after(state, verify(kit), aggregate(kit))
    assert trace_of(state, 0)["marks"] == list(state.answers[0].marks)
    return state.answers[0]


async def test_the_question_s_flags_stand_on_its_answer() -> None:
    answer = await marked(asked(("sums", "Paris"), flags=(BOUNDARY,)), Bench().kit)

    assert answer.marks == (BOUNDARY,)
    assert not answer.calibrated


async def test_experts_that_disagree_are_told_of() -> None:
    kit = Bench().kit

    assert (await marked(asked(("sums", "Paris"), ("base", "Rome"), ("law", "Oslo")), kit)).marks == (DISAGREEMENT,)
    assert (await marked(asked(("sums", "Paris"), ("base", "Paris"), ("law", "Oslo")), kit)).marks == ()


async def test_an_expert_known_to_be_sure_and_wrong_here_is_marked_here_alone() -> None:
    kit = trusting(Bench().kit, alarms=(Alarm("sums", "tax", 0.3, 0.2, 50),))

    assert (await marked(asked(("sums", "Paris"), skill="tax"), kit)).marks == (DISSOCIATION,)
    assert (await marked(asked(("sums", "Paris"), skill="sums"), kit)).marks == ()
    assert (await marked(asked(("law", "Paris"), skill="tax"), kit)).marks == ()


async def test_a_draft_that_speaks_of_something_else_is_marked() -> None:
    kit, text = trusting(Bench().kit), "the anchor rope and the mast of the boat"

    assert (await marked(asked(("sums", text), skill="cooking"), kit)).marks == (OFF_DOMAIN,)
    assert (await marked(asked(("sums", text), skill="sailing"), kit)).marks == ()
    assert (await marked(asked(("sums", "Paris"), skill="cooking"), kit)).marks == ()


@pytest.mark.parametrize(("flags", "calibrated"), [((), True), ((BOUNDARY,), True), ((GAP,), False)])
async def test_p_right_is_calibrated_inside_the_profile_only(flags: tuple[str, ...], calibrated: bool) -> None:
    sureness = Sureness()
    sureness.weights_ = np.array([0.5, 0.5, 0.0, 0.0])
    kit = replace(Bench().kit, trust=lambda: Trust(sureness, (), Content(), 300))

    answer = await marked(asked(("sums", "Paris"), flags=flags), kit)

    assert answer.calibrated is calibrated
    inside = 1 / (1 + np.exp(-(0.5 + 0.5 * np.log(9))))  # the router's score of `sums` is 0.9
    assert answer.sure == pytest.approx(inside if calibrated else 0.9, abs=1e-4)


@pytest.mark.parametrize(("against", "calibrated"), [("sums", False), ("law", False), ("base", True)])
async def test_p_right_is_not_calibrated_where_a_draft_has_a_contrast(against: str, calibrated: bool) -> None:
    sureness = Sureness()
    sureness.weights_ = np.array([0.5, 0.5, 0.0, 0.0])
    kit = replace(Bench().kit, trust=lambda: Trust(sureness, (), Content(), 300))
    state = asked(("sums", "Paris"), ("law", "Paris"))
    contrasted = {against: Contrasted("mini", "named", 0.5, 0.1, "right more often")}

    answer = await marked(state.apply({"contrasted": (contrasted,)}), kit)  # of these `base` has no draft

    plain = await marked(state, kit)
    assert plain.calibrated and plain.sure is not None and answer.sure is not None
    assert answer.calibrated is calibrated
    assert (answer.sure == plain.sure) is calibrated


@pytest.mark.parametrize(
    ("column", "value"),
    [("planned", Planned("planner", ())), ("merged", None), ("discussed", (Discussed((), ()),))],
)
async def test_p_right_is_calibrated_for_answers_that_were_made_as_rehearsed(column: str, value: object) -> None:
    kit = trusting(Bench().kit)
    state = asked(("sums", "Paris"), ("base", "Rome"))
    assert (await marked(state, kit)).calibrated

    if column == "merged":
        value = Merged("law", Reply("law", done("Rome"), answer="rome", code=1))
    assert not (await marked(state.apply({column: (value,)}), kit)).calibrated
