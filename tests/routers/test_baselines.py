"""The references: what they know, and what they leave to the generalist."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from routers.baselines import BestSingle, KeywordRouter, RandomRouter, TfidfRouter, Unprofiled
from routers.errors import RouterError
from routers.testing import GENERALIST, SKILLS, simulate
from routers.types import Arm, Questions, Router

RULES = {"cooking": ("bake", "oven", "a to z"), "sailing": ("sail", "mast", "+"), "stars": ("planet",), "empty": ()}


@pytest.fixture
def keywords() -> KeywordRouter:
    return KeywordRouter(RULES, GENERALIST).fit(*simulate(300))


def named(router: Router, questions: Questions) -> list[str]:
    return [router.arms[place].name for place in router.score(questions).argmax(axis=1)]


@pytest.mark.parametrize(
    ("text", "arm"),
    [
        ("Bake it in the oven", "cooking"),
        ("from A to Z", "cooking"),
        ("2 + 3", "sailing"),
        ("sailing and baking", GENERALIST),  # whole words only
        ("bake the mast", GENERALIST),  # a tie
        ("bake the oven mast", "cooking"),
        ("which planet", GENERALIST),  # a rule, but nobody's record
        ("hello", GENERALIST),
    ],
)
def test_the_rule_with_most_of_its_words_decides(
    text: str, arm: str, keywords: KeywordRouter, asking: Callable[..., Questions]
) -> None:
    assert named(keywords, asking([text])) == [arm]


def test_keywords_say_which_rule_decided(keywords: KeywordRouter, asking: Callable[..., Questions]) -> None:
    known, unknown = keywords.explain(asking(["bake", "hello"]))

    assert known.skills == (("cooking", 1.0),)
    assert unknown.fallback == "no rule decides"


def test_words_tell_skills_apart_for_the_classifier() -> None:
    questions, outcomes = simulate(300)
    asked, _ = simulate(60, seed=1)

    router = TfidfRouter(GENERALIST).fit(questions, outcomes)

    assert named(router, asked) == [own[0] for own in asked.skills]
    assert router.explain(asked)[0].skills[0][0] == asked.skills[0][0]


def test_the_classifier_needs_two_skills() -> None:
    questions, outcomes = simulate(30)
    alone = Questions(questions.ids, questions.text, questions.vectors, (("cooking",),) * 30)

    with pytest.raises(RouterError, match="two skills"):
        TfidfRouter().fit(alone, outcomes)


def test_chance_asks_all_arms_alike_and_changes_with_the_seed() -> None:
    questions, outcomes = simulate(30)
    asked = Questions(
        tuple(map(str, range(2000))), tuple(f"text {place}" for place in range(2000)), np.zeros((2000, 1), np.float32)
    )

    first, second = (RandomRouter(seed=seed).fit(questions, outcomes).score(asked) for seed in (0, 1))

    shares = np.bincount(first.argmax(axis=1)) / 2000
    assert np.abs(shares - 1 / 4).max() < 0.04
    assert (first.argmax(axis=1) == second.argmax(axis=1)).mean() < 0.35


def test_the_best_single_arm_is_the_same_for_every_question() -> None:
    questions, outcomes = simulate(300)
    best = int(np.nanmean(outcomes.matrix(300), axis=0).argmax())

    router = BestSingle().fit(questions, outcomes)

    assert set(router.score(questions).argmax(axis=1)) == {best}
    assert set(router.records()) == {GENERALIST, *SKILLS}


def test_where_records_decide_nothing_the_generalist_gets_all_and_no_vector_is_looked_at() -> None:
    arms = (Arm("law"), Arm("plain"))
    blind = Questions(("a", "b"), ("one", "two"), np.zeros((2, 0), dtype=np.float32))

    router = Unprofiled(arms, "plain", "it is the only one that was measured")

    assert named(router, blind) == ["plain", "plain"]
    assert router.score(blind).tolist() == [[0, 1], [0, 1]]
    assert [reason.fallback for reason in router.explain(blind)] == ["it is the only one that was measured"] * 2


def test_chance_and_the_best_single_arm_need_no_labels() -> None:
    questions, outcomes = simulate(30)
    unlabelled = Questions(questions.ids, questions.text, questions.vectors)

    assert BestSingle().fit(unlabelled, outcomes).score(unlabelled).shape == (30, 4)
    assert RandomRouter().fit(unlabelled, outcomes).score(unlabelled).shape == (30, 4)
    with pytest.raises(RouterError, match="labelled"):
        KeywordRouter(RULES).fit(unlabelled, outcomes)
