"""Finding the skills of a text among the profile's labelled questions."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from routers.errors import NotFittedError, RouterError
from routers.skills import SkillFinder
from routers.testing import HashEncoder, simulate
from routers.types import Questions


def test_skills_of_unseen_questions_are_found() -> None:
    questions, asked = simulate(120)[0], simulate(60, seed=1)[0]

    found = SkillFinder().fit(questions).find(asked.vectors)

    named = [found.skills[place] for place in found.weights.argmax(axis=1)]
    assert np.mean([name == own[0] for name, own in zip(named, asked.skills, strict=True)]) > 0.95


def test_weights_are_shares() -> None:
    questions, asked = simulate(60)[0], simulate(60, seed=1)[0]

    found = SkillFinder().fit(questions).find(asked.vectors)

    assert bool(np.all(found.weights >= 0))
    assert bool(np.all(found.weights.sum(axis=1) <= 1 + 1e-12))


def test_a_text_of_two_skills_has_a_share_of_each(asking: Callable[..., Questions]) -> None:
    questions = asking(
        ["bake flour", "boil soup", "anchor mast", "sail rope", "flour soup mast sail"],
        [("cooking",), ("cooking",), ("sailing",), ("sailing",), ("cooking", "sailing")],
    )

    found = SkillFinder().fit(questions).find(asking(["flour soup mast sail"]).vectors)

    assert found.weights[0].min() > 0.3


def test_a_text_is_judged_alone_whatever_its_neighbours(asking: Callable[..., Questions]) -> None:
    questions, asked = simulate(300)[0], simulate(200, seed=1)[0]
    finder = SkillFinder().fit(questions)

    together = finder.find(asked.vectors).weights.astype(np.float32)
    alone = np.concatenate([finder.find(asked.vectors[[row]]).weights.astype(np.float32) for row in range(200)])

    assert np.abs(together - alone).max() < 1e-6


def test_under_the_floor_there_are_no_skills(asking: Callable[..., Questions]) -> None:
    questions = asking(["bake flour", "sail rope"], [("cooking",), ("sailing",)])
    asked = asking(["xylophone zebra", "bake flour"])

    found = SkillFinder(floor=0.9).fit(questions).find(asked.vectors)

    assert found.near.tolist() == [False, True]
    assert found.weights[0].tolist() == [0.0, 0.0]


def test_similarity_and_nearest_point_at_profile_questions(asking: Callable[..., Questions]) -> None:
    texts = ["bake flour", "boil soup", "sail rope"]
    questions = asking(texts, [("cooking",), ("cooking",), ("sailing",)])
    vectors = asking(["boil soup"]).vectors

    found = SkillFinder().fit(questions).find(vectors, nearest=2)

    cosines = (vectors @ questions.vectors.T)[0]
    assert found.nearest.shape == (1, 2)
    assert found.nearest[0, 0] == 1
    assert found.cosine[0, 0] == pytest.approx(1.0)
    assert found.similarity[0].tolist() == pytest.approx([cosines[:2].max(), cosines[2]])


def test_a_profile_of_one_question_knows_one_skill(asking: Callable[..., Questions]) -> None:
    finder = SkillFinder().fit(asking(["bake flour"], [("cooking",)]))

    found = finder.find(asking(["bake flour"]).vectors)

    assert found.weights[0, 0] > 0.5
    assert found.nearest.tolist() == [[0]]


def test_near_copies_do_not_raise_the_floor_to_what_no_user_would_write() -> None:
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(30, 64))
    copies = np.repeat(centres, 2, axis=0) + rng.normal(scale=0.01, size=(60, 64))
    vectors = (copies / np.linalg.norm(copies, axis=1, keepdims=True)).astype(np.float32)
    names = tuple(str(place) for place in range(60))

    finder = SkillFinder().fit(Questions(names, names, vectors, (("one",),) * 60))

    nearest = np.sort(vectors @ vectors.T, axis=1)[:, -2]
    assert nearest.min() > 0.95
    assert finder.floor_ < 0.5


def test_a_large_profile_is_thinned_evenly_and_small_skills_are_kept_whole() -> None:
    texts = [f"bake number {place}" for place in range(100)] + [f"sail number {place}" for place in range(10)]
    names = tuple(str(place) for place in range(110))
    questions = Questions(
        names, tuple(texts), HashEncoder().encode(texts), (("cooking",),) * 100 + (("sailing",),) * 10
    )

    finder = SkillFinder(most=30).fit(questions)

    assert len(finder.rows_) == 30
    assert set(range(100, 110)) <= set(finder.rows_.tolist())
    assert {0, 99} <= set(finder.rows_.tolist())
    assert finder.find(questions.vectors[[105]]).nearest[0, 0] == 105


def test_finding_before_fitting_is_refused(asking: Callable[..., Questions]) -> None:
    with pytest.raises(NotFittedError):
        SkillFinder().find(asking(["bake"]).vectors)


def test_a_profile_without_labels_is_refused(asking: Callable[..., Questions]) -> None:
    with pytest.raises(RouterError, match="labelled"):
        SkillFinder().fit(asking(["bake"]))


def test_a_skill_that_thinning_leaves_without_a_question_is_never_found(asking: Callable[..., Questions]) -> None:
    questions = asking(["bake", "boil", "sail", "anchor"], [("bake",), ("boil",), ("sail",), ("anchor",)])

    found = SkillFinder(most=2).fit(questions).find(questions.vectors)

    assert (found.similarity == -1).all(axis=0).sum() == 2
    assert np.isfinite(found.weights).all()
