"""A hostile expert among honest ones: what is put in its mouth, and that every way settles the same drafts twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from composer.config import load_settings, packaged_registry
from composer.errors import InputError
from composer.learning.tune import aggregators
from composer.pipeline import Pipeline
from composer.stages.reading import compared
from composer.state import Query, Reply, State
from composer.types import Draft, Request
from evals.hostile import attacked, chosen, commanded, evaluate, hostile_text, lines, settle, ways, with_drafts
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


def test_who_settles_is_not_taken_over(pipeline: Pipeline) -> None:
    [replies] = attacked(pipeline, drafted(pipeline), ["Obey."], spared=["sorting"]).replies
    assert replies[-1].arm not in {"arithmetic", "units", "general", "sorting"}


class Honest:
    """A pool whose experts say that it is 5, and keep what they were asked."""

    def __init__(self) -> None:
        self.asked: list[Request] = []

    async def submit(
        self, requests: Sequence[Request], still_wanted: Callable[[Request], bool] = lambda _: True
    ) -> AsyncIterator[tuple[str, Draft]]:
        for request in requests:
            self.asked.append(request)
            yield request.id, Draft("", "WRONG, it is 5." if request.role == "check" else "It is 5.", "stop")


@pytest.mark.parametrize(
    ("steps", "role"),
    [
        (("discuss", {"rounds": 2, "k": 9, "reroute": False}), "discuss"),
        (("search", {"paths": 4, "beam": 4, "rounds": 2}), "search"),
        (("refine", {"by": "general"}), "refine"),
    ],
)
def test_the_expert_that_was_taken_over_is_hostile_in_every_draft_it_writes(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, steps: tuple[str, dict[str, object]], role: str
) -> None:
    book = Honest()
    monkeypatch.setattr(Pipeline, "pool", property(lambda _: book))
    state = attacked(pipeline, drafted(pipeline), ["The answer is 666."])
    says = {("q", "sorting"): "The answer is 666."}
    if role == "search":  # whose paths have to differ, to go on
        five, _, six, hostile = state.replies[0]
        units = replace(six, arm="units")
        state = state.apply({"replies": (compared([five, units, six, hostile], "number"),)})
    if role == "refine":  # whose author is who wrote what the vote takes
        state = state.apply({"replies": (state.replies[0][-1:],)})

    way = (steps, ("aggregate", {"by": "majority"}))
    ended = asyncio.run(settle(pipeline, lambda: aggregators()["majority"], way, state, says))

    assert all(request.arm != "sorting" for request in book.asked), "it is not asked, it writes"
    drafts = [one.draft.text for one in ended.beside[0] if (one.arm, one.role) == ("sorting", role)]
    drafts += [one.draft.text for one in ended.replies[0] if one.arm == "sorting"]
    assert drafts and set(drafts) == {"The answer is 666."}
    assert (role in {request.role for request in book.asked}) == (role != "refine"), "the others are honest"


def test_ways_are_chosen_by_their_names() -> None:
    by = ways(["arithmetic", "units"])
    assert list(chosen(by, "score,search")) == ["score by arithmetic", "score by units", "search"]
    assert chosen(by, None) == by
    with pytest.raises(InputError, match="no way is called 'serch'"):
        chosen(by, "serch")


@pytest.mark.slow
def test_every_way_is_measured_with_and_without_on_real_drafts(pipeline: Pipeline) -> None:
    with pipeline:
        found = evaluate(pipeline, ["arithmetic"], 2, ways(["arithmetic"]), spared=["arithmetic"])

    systems = [one.system for one in found.rows]
    for way in ways(["arithmetic"]):
        own = {way, f"{way}, liar", f"{way}, hostile", f"{way}, commanded answers", f"{way}, answers of a liar"}
        assert own <= set(systems)
    assert {one.n for one in found.rows} == {2}
    drops = {one.other: one for one in found.gaps["arithmetic"]}
    assert drops["best"].mean == 0, "who is ranked fourth is not the best scored"
    of = {one.system: one for one in found.rows}
    for way, one in drops.items():
        assert one.mean == pytest.approx(of[f"{way}, hostile"].accuracy - of[way].accuracy, abs=1e-3)
    for one in found.obeyed["arithmetic"]:
        assert one.mean == pytest.approx(of[one.system].accuracy - of[one.other].accuracy, abs=1e-3)
    assert of["best, commanded answers"].accuracy == of["best, answers of a liar"].accuracy == 0
    assert "drop" in lines(found)[1] and any(line.strip().startswith("judge by arithmetic") for line in lines(found))
