"""What the routers' tests share: questions made of words, their vectors, and tables of outcomes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import pytest

from routers.testing import HashEncoder, outcomes_of
from routers.types import Arm, Outcomes, Questions

Asking = Callable[..., Questions]


@pytest.fixture
def asking() -> Asking:
    """Make questions out of texts, with or without their skills."""

    def make(texts: Sequence[str], skills: Sequence[Sequence[str]] = ()) -> Questions:
        ids = tuple(f"q{place}" for place in range(len(texts)))
        return Questions(ids, tuple(texts), HashEncoder().encode(texts), tuple(tuple(own) for own in skills))

    return make


@pytest.fixture
def results() -> Callable[[Mapping[str, Mapping[int, float]]], Outcomes]:
    """Make outcomes out of {arm: {question: score}}."""

    def make(table: Mapping[str, Mapping[int, float]]) -> Outcomes:
        cells = [(question, arm) for arm, own in enumerate(table.values()) for question in own]
        scores = [score for own in table.values() for score in own.values()]
        return outcomes_of([Arm(name) for name in table], cells, scores)

    return make
