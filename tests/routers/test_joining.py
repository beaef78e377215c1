"""An arm that joins with few outcomes: what is foretold of it, and what the stacked router makes of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from routers.family import stacked
from routers.joining import foretold
from routers.testing import SKILLS, outcomes_of, simulate
from routers.types import Arm

NEW = Arm("newcomer")


def test_what_was_shown_stays_and_the_rest_is_a_probability() -> None:
    rng = np.random.default_rng(0)
    others = (rng.random((100, 3)) < 0.5).astype(float)
    own = np.full(100, np.nan)
    own[:20] = others[:20, 0]

    whole = foretold(own, others, np.full((100, 3), 0.5), np.zeros((100, 0)))

    assert np.array_equal(whole[:20], own[:20])
    assert np.isfinite(whole).all() and whole.min() >= 0 and whole.max() <= 1


def test_an_arm_that_does_as_another_one_is_foretold_to_go_on_like_that() -> None:
    rng = np.random.default_rng(1)
    others = (rng.random((2000, 3)) < 0.5).astype(float)
    own = np.full(2000, np.nan)
    own[:200] = others[:200, 1]

    whole = foretold(own, others, np.full((2000, 3), 0.5), np.zeros((2000, 0)))

    assert np.corrcoef(whole[200:], others[200:, 1])[0, 1] > 0.95


def test_a_lucky_start_is_shrunk_towards_a_pool_of_equals_and_not_towards_a_pool_of_all_kinds() -> None:
    rng = np.random.default_rng(2)
    own = np.full(2000, np.nan)
    own[:50] = rng.random(50) < 0.9
    equals = (rng.random((2000, 4)) < 0.5).astype(float)
    kinds = (rng.random((2000, 4)) < np.array([0.1, 0.4, 0.6, 0.9])).astype(float)

    among_equals = foretold(own, equals, np.full((2000, 4), 0.5), np.zeros((2000, 0)))[50:].mean()
    among_kinds = foretold(own, kinds, np.tile([0.1, 0.4, 0.6, 0.9], (2000, 1)), np.zeros((2000, 0)))[50:].mean()

    assert among_equals < 0.6 < 0.8 < among_kinds


def test_a_specialist_that_joins_with_few_outcomes_finds_its_own_questions() -> None:
    questions, outcomes = simulate(600)
    late = SKILLS[0]
    early = outcomes.only([arm.name for arm in outcomes.arms if arm.name != late])
    router = stacked().fit(questions, early)
    some = list(range(0, 600, 10))

    router.add_arm(questions.take(some), outcomes.only([late]).take(some))

    asked, _ = simulate(90, seed=5)
    names = [router.arms[int(i)].name for i in router.score(replace(asked, skills=())).argmax(axis=1)]
    assert np.mean([name == own[0] for name, own in zip(names, asked.skills, strict=True)]) > 0.85


def test_questions_that_only_the_newcomer_was_asked_count_too() -> None:
    questions, outcomes = simulate(300)
    router = stacked().fit(questions, outcomes)
    other, _ = simulate(40, seed=9)
    both = replace(
        questions,
        ids=(*questions.ids[:40], *other.ids),
        text=(*questions.text[:40], *other.text),
        vectors=np.concatenate([questions.vectors[:40], other.vectors]),
        skills=(*questions.skills[:40], *other.skills),
    )

    router.add_arm(both, outcomes_of([NEW], [(row, 0) for row in range(80)], [1.0] * 80))

    assert router.learnt("newcomer")["overall"] > 0.5
    assert router.remove_arm("newcomer").arms == outcomes.arms
