"""Skills named by a language model; here the model is a rule, so that the logic can be tested."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from routers.errors import RouterError
from routers.keywords import KeywordFinder, keywords_of
from routers.skill import SkillRouter
from routers.testing import GENERALIST, HashEncoder, check_router, simulate
from routers.types import Array

WORDS = {
    "bake": "cooking",
    "soup": "cooking",
    "anchor": "sailing",
    "mast": "sailing",
    "piano": "music",
    "drum": "music",
}


def annotate(texts: Sequence[str]) -> list[list[str]]:
    return [[WORDS[word] for word in text.split() if word in WORDS] for text in texts]


def embed(texts: Sequence[str]) -> Array:
    return HashEncoder().encode(texts)


FINDER = KeywordFinder(annotate, embed)


def test_the_keyword_router_keeps_the_contract() -> None:
    check_router(lambda: SkillRouter(GENERALIST, keywords=FINDER))


def test_unlabelled_profiles_are_annotated_and_questions_routed_by_their_keywords() -> None:
    questions, outcomes = simulate(400)
    bare = replace(questions, skills=())

    router = SkillRouter(GENERALIST, keywords=FINDER).fit(bare, outcomes)

    asked = replace(simulate(3)[0], text=("to bake a soup", "the mast", "nothing known"))
    best = [router.arms[int(place)].name for place in router.score(asked).argmax(axis=1)]
    assert best == ["cooking", "sailing", GENERALIST]


def test_repeats_count_twice_and_unknown_keywords_are_not_bent() -> None:
    finder = replace(FINDER, floor=0.9).fit(["cooking", "sailing"])

    weights = finder.weights(["bake soup mast", "piano drum", ""])

    assert weights == pytest.approx(np.array([[2 / 3, 1 / 3], [0, 0], [0, 0]]))


def test_only_short_keywords_that_recur_are_kept() -> None:
    replies = ["Keywords: a, b.", "well\nKEYWORDS: b, A", "c", "Keywords: " + "d" * 21, "keywords: " + "d" * 21]
    assert keywords_of(replies) == ("a", "b")
    assert keywords_of([]) == ()


def test_a_profile_without_any_keyword_is_refused() -> None:
    questions, outcomes = simulate(30)
    mute = KeywordFinder(lambda texts: [[] for _ in texts], embed)
    with pytest.raises(RouterError):
        SkillRouter(keywords=mute).fit(replace(questions, skills=()), outcomes)
