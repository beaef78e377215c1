"""The stacked router and its newest members: weights are what a member foretells, differences are what counts."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np
import pytest

from routers.errors import RouterError
from routers.family import stacked
from routers.form import FEATURES, FormRouter, features
from routers.neighbours import NeighbourRouter
from routers.ridge import RidgeRouter
from routers.stacked import StackedRouter
from routers.stats import differences, folds
from routers.testing import outcomes_of, simulate
from routers.types import Arm, Array, Outcomes, Questions


@dataclass(slots=True)
class Guesser(RidgeRouter):
    """Scores that have nothing to do with the question."""

    asked_: list[int] = field(default_factory=list, init=False)

    def score(self, questions: Questions) -> Array:
        self.asked_.append(len(questions))
        rng = np.random.default_rng([sum(map(ord, text)) for text in questions.text] or 0)
        return rng.random((len(questions), len(self.arms)), dtype=np.float32)

    def fit(self, questions: Questions, outcomes: Outcomes) -> Self:
        self.asked_ = []
        return super(Guesser, self).fit(questions, outcomes)


def test_a_member_that_guesses_gets_next_to_no_weight() -> None:
    router = StackedRouter((NeighbourRouter(), Guesser())).fit(*simulate(300))

    assert router.weights_[0] > 0.5
    assert router.weights_[1] < 0.1


def test_where_outcomes_say_nothing_every_arm_keeps_about_its_overall_share() -> None:
    questions, outcomes = simulate(400)
    turned = np.random.default_rng(0).permutation(len(questions))
    shuffled = replace(outcomes, question=turned[outcomes.question])

    router = stacked().fit(questions, shuffled)

    scores = router.score(replace(simulate(90, seed=5)[0], skills=()))
    overall = outcomes.matrix(len(questions)).mean(axis=0)
    assert float(np.abs(scores - overall).mean()) < 0.05


def test_a_member_without_weight_is_not_asked() -> None:
    router = StackedRouter((NeighbourRouter(), Guesser())).fit(*simulate(300))
    router.weights_ = np.array([1.0, 0.0])
    guesser: Any = router.fitted_[1]
    guesser.asked_.clear()

    router.score(simulate(9, seed=5)[0])

    assert guesser.asked_ == []


def test_few_questions_give_all_members_the_same_weight() -> None:
    router = StackedRouter((NeighbourRouter(), RidgeRouter())).fit(*simulate(30))

    assert router.weights_.tolist() == [0.5, 0.5]


def test_the_reasons_name_the_weights_and_keep_what_members_found() -> None:
    router = stacked().fit(*simulate(200))

    reason = router.explain(simulate(9, seed=5)[0])[0]

    assert reason.note is not None and reason.note.startswith("weights of ")
    assert reason.skills or reason.nearest


def test_a_stack_without_members_is_refused() -> None:
    with pytest.raises(RouterError, match="at least one member"):
        StackedRouter(())


def test_the_form_router_learns_who_is_good_at_long_questions() -> None:
    texts = tuple(f"what is {i}" if i % 2 else f"what is {i} " + "and so on " * 20 for i in range(200))
    vectors = np.tile(np.eye(1, 8, dtype=np.float32), (200, 1))  # an encoder that sees nothing
    questions = Questions(tuple(map(str, range(200))), texts, vectors)
    cells = [(question, arm) for question in range(200) for arm in (0, 1)]
    outcomes = outcomes_of([Arm("brief"), Arm("patient")], cells, [float(q % 2 != arm) for q, arm in cells])

    scores = FormRouter().fit(questions, outcomes).score(questions)

    assert (scores.argmax(axis=1) == [(i + 1) % 2 for i in range(200)]).all()


def test_the_form_of_a_text_counts_its_options_apart_from_its_question() -> None:
    [row] = features(("What is 12?\nA) 3\nB) four",))

    told = dict(zip(FEATURES, row, strict=True))

    assert told["options"] == 2
    assert told["ends with a question mark"] == 1
    assert told["share of digits in the options"] == pytest.approx(1 / 7)
    assert features(("",)).shape == (1, len(FEATURES))


def test_a_difference_is_taken_over_the_arms_that_were_asked() -> None:
    scores = np.array([[1.0, 0.0, np.nan], [np.nan, 1.0, np.nan]])

    found = differences(scores)

    assert np.array_equal(found, [[0.5, -0.5, np.nan], [np.nan, 0.0, np.nan]], equal_nan=True)


def test_where_no_question_has_two_arms_scores_stay_as_they_are() -> None:
    scores = np.array([[1.0, np.nan], [np.nan, 0.0]])

    assert np.array_equal(differences(scores), scores, equal_nan=True)


def test_folds_keep_near_duplicates_together_and_do_not_depend_on_the_order() -> None:
    questions, _ = simulate(60)
    vectors = np.concatenate([questions.vectors, questions.vectors[:10]])
    ids = (*questions.ids, *(f"copy-{i}" for i in range(10)))

    parts = folds(ids, vectors, 4)

    assert (parts[:10] == parts[60:]).all()
    assert sorted(set(parts.tolist())) == [0, 1, 2, 3]
    turned = np.random.default_rng(0).permutation(70)
    assert (folds([ids[i] for i in turned], vectors[turned], 4) == parts[turned]).all()
