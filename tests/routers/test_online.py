"""Routers that go on learning while they serve: what they forget, add, remove, log and notice."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from routers.errors import RouterError
from routers.online import OnlineRouter, PageHinkley, inverse_propensity
from routers.ridge import RidgeRouter
from routers.testing import GENERALIST, outcomes_of, simulate


def test_after_a_swap_of_skills_the_forgetting_router_recovers_and_the_frozen_one_does_not() -> None:
    """A simulation: two specialists swap their skills in mid-stream; prequential: scored first, then learnt from."""
    questions, outcomes = simulate(300)
    names = [arm.name for arm in outcomes.arms]
    swap = np.arange(4)
    swap[[names.index("cooking"), names.index("sailing")]] = [names.index("sailing"), names.index("cooking")]
    live = OnlineRouter(explore=0.2, forget=0.98).fit(questions, outcomes)
    frozen = RidgeRouter(penalty=10.0).fit(questions, outcomes)
    found: dict[str, list[float]] = {"live": [], "frozen": []}
    for step in range(30):
        asked, results = simulate(30, seed=100 + step)
        asked = replace(asked, ids=tuple(f"{step}-{name}" for name in asked.ids))
        truth = replace(results, arm=swap[results.arm]).matrix(30)
        rows = np.arange(30)
        choices = live.choose(asked)
        found["live"].append(float(truth[rows, live.score(asked).argmax(axis=1)].mean()))
        found["frozen"].append(float(truth[rows, frozen.score(asked).argmax(axis=1)].mean()))
        cells = [(row, names.index(choice.arm)) for row, choice in enumerate(choices)]
        live.update(asked, outcomes_of(outcomes.arms, cells, [truth[cell] for cell in cells]))

    assert np.mean(found["live"][-8:]) > np.mean(found["frozen"][-8:]) + 0.2


def test_an_arm_added_while_serving_starts_with_all_it_was_given() -> None:
    questions, outcomes = simulate(90)
    early = outcomes.only([GENERALIST])
    fresh = OnlineRouter().fit(questions, early)
    live = OnlineRouter().fit(questions, early).update(questions, early)

    fresh.add_arm(questions, outcomes.only(["music"]))
    live.add_arm(questions, outcomes.only(["music"]))

    assert all(np.array_equal(value, live.learnt("music")[key]) for key, value in fresh.learnt("music").items())


def test_an_arm_that_is_removed_takes_its_alarms_along() -> None:
    questions, outcomes = simulate(90)
    right = outcomes.only(["music"])
    router = OnlineRouter().fit(questions, outcomes).update(questions, right)
    router.update(questions, replace(right, score=1 - right.score))
    assert router.alarms_["music"] > 0

    router.remove_arm("music")

    assert "music" not in router.alarms_


def test_the_log_says_what_another_policy_would_have_been_right() -> None:
    questions, outcomes = simulate(600)
    router = OnlineRouter(explore=0.5).fit(questions, outcomes)
    asked, results = simulate(1500, seed=8)
    truth = results.matrix(1500)
    names = [arm.name for arm in outcomes.arms]
    log = router.choose(asked)
    score = [truth[row, names.index(choice.arm)] for row, choice in enumerate(log)]

    estimate = inverse_propensity(log, score, [GENERALIST] * 1500)

    assert estimate.low <= truth[:, 0].mean() <= estimate.high
    assert 0 < estimate.effective < 1500
    assert log == router.choose(asked)
    with pytest.raises(RouterError, match="no choice of the target"):
        inverse_propensity(log, score, ["nobody"] * 1500)


def test_a_rise_is_noticed_and_noise_is_not() -> None:
    rng = np.random.default_rng(0)
    alarm = PageHinkley()

    assert not any(alarm.seen(float(value)) for value in rng.random(500) * 0.4)
    assert any(alarm.seen(float(value)) for value in 0.6 + rng.random(200) * 0.4)
