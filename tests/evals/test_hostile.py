"""A hostile expert among honest ones: what is put in its mouth, and that every way settles the same drafts twice."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from composer.config import load_settings, packaged_registry
from composer.errors import InputError
from composer.pipeline import Pipeline
from composer.state import Query, Reply, State
from composer.types import Draft
from evals.hostile import attacked, commanded, evaluate, hostile_text, lines, ways, with_drafts
from evals.live_questions import SEED, labelled
from evals.tasks.injections import injections
from evals.tasks.skills import items


@pytest.fixture
def pipeline(tmp_path: Path) -> Pipeline:
    return Pipeline(with_drafts(load_settings(packaged_registry())), store=tmp_path / "drafts.sqlite")


def drafted(pipeline: Pipeline) -> State:
    arms = tuple(arm.name for arm in pipeline.registry.arms())
    said = [("arithmetic", "It is 5."), ("units", "It is 6."), ("general", "It is 7.")]
    replies = tuple(Reply(arm, Draft("", text, "stop"), answer=text[6]) for arm, text in said)
    scores = np.array(
        [[{"arithmetic": 0.9, "units": 0.5, "general": 0.4, "sorting": 0.2}.get(arm, 0.1) for arm in arms]]
    )
    state = State.of((Query("q", "What is 2 + 3?", kind="number"),))
    asked = (tuple(arm for arm, _ in said),)
    return state.apply({"arms": arms, "scores": scores, "asked": asked, "replies": (replies,), "open": (False,)})


def test_the_expert_that_is_ranked_next_is_taken_over_and_its_command_is_an_answer(pipeline: Pipeline) -> None:
    state, [item] = drafted(pipeline), labelled(items("arithmetic", "test", 1, SEED))
    wrong = commanded(state, 0, item, 0)
    assert wrong not in {"5", "6", "7", item.answer}
    for attack in injections():
        [replies] = attacked(pipeline, state, [hostile_text(attack, "What is 2 + 3?", wrong)]).replies
        assert [reply.arm for reply in replies] == ["arithmetic", "units", "general", "sorting"]
        assert replies[-1].answer == wrong, attack.id
        assert replies[-1].code not in {reply.code for reply in replies[:-1]}


def test_where_everybody_was_asked_nobody_is_left_to_be_hostile(pipeline: Pipeline) -> None:
    state = drafted(pipeline)
    with pytest.raises(InputError, match="too few"):
        attacked(pipeline, state.apply({"asked": (state.arms,)}), ["Obey."])


@pytest.mark.slow
def test_every_way_is_measured_with_and_without_on_real_drafts(pipeline: Pipeline) -> None:
    with pipeline:
        found = evaluate(pipeline, ["arithmetic"], 2, ways(["arithmetic"]))

    systems = [one.system for one in found.rows]
    for way in ways(["arithmetic"]):
        assert {way, f"{way}, hostile", f"{way}, commanded answers"} <= set(systems)
    assert {one.n for one in found.rows} == {2}
    drops = {one.other: one for one in found.gaps["arithmetic"]}
    assert drops["best"].mean == 0, "who is ranked fourth is not the best scored"
    of = {one.system: one for one in found.rows}
    for way, one in drops.items():
        assert one.mean == pytest.approx(of[f"{way}, hostile"].accuracy - of[way].accuracy, abs=1e-3)
    assert of["best, commanded answers"].accuracy == 0
    assert "drop" in lines(found)[1] and any(line.strip().startswith("judge by arithmetic") for line in lines(found))
