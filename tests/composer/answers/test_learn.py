"""The learnt aggregator: better than counting where who says it matters, and the same trees as scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest

from composer.answers.ballots import Ballots, traits
from composer.answers.learn import Learnt
from composer.answers.vote import Majority
from composer.errors import InputError
from routers.types import Arm

Table = np.ndarray


def simulated(n: int, seed: int) -> tuple[Ballots, Table]:
    """A simulation: three arms that copy each other's mistakes, and one that is right more often than they are."""
    rng = np.random.default_rng(seed)
    mistake = rng.integers(1, 5, (n, 1))
    right = np.hstack([np.tile(rng.random((n, 1)) < 0.5, (1, 3)), rng.random((n, 1)) < 0.8])
    code = np.where(right, 0, np.hstack([np.tile(mistake, (1, 3)), rng.integers(1, 5, (n, 1))]))
    code[rng.random((n, 4)) < 0.05] = -1
    shape = code.shape
    arm = np.tile(np.arange(4), (n, 1))
    ballots = Ballots(
        tuple(Arm(name) for name in "abcd"),
        arm,
        code,
        np.full(shape, 0.5),
        rng.integers(10, 1000, shape),
        np.full(n, 5),
        np.zeros((*shape, 4)),
    )
    return ballots, (code == 0).astype(float)


def share(ballots: Ballots, right: Table, slot: np.ndarray) -> float:
    return float(np.where(slot >= 0, right[np.arange(len(slot)), np.maximum(slot, 0)], 0).mean())


def test_one_that_knows_is_believed_against_three_that_copy() -> None:
    model = Learnt().fit(*simulated(800, 0))
    asked, right = simulated(800, 1)

    verdicts = model.combine(asked)

    assert share(asked, right, verdicts.slot) > share(asked, right, Majority().combine(asked).slot) + 0.1


def test_how_sure_it_is_is_how_often_it_is_right() -> None:
    model = Learnt().fit(*simulated(2000, 0))
    asked, right = simulated(2000, 1)

    verdicts = model.combine(asked)

    hits = right[np.arange(len(asked)), np.maximum(verdicts.slot, 0)]
    for part in np.array_split(np.argsort(verdicts.sure), 4):
        assert abs(verdicts.sure[part].mean() - hits[part].mean()) < 0.08


def test_it_may_be_asked_after_any_number_of_drafts() -> None:
    model = Learnt().fit(*simulated(600, 0))
    asked, right = simulated(600, 1)

    shares = [share(asked, right, model.combine(asked.until(np.full(600, seen))).slot) for seen in (1, 2, 3, 4)]

    assert shares[3] > shares[0]
    assert all(0.3 < one < 1 for one in shares)


def test_the_trees_say_what_scikit_learn_says(monkeypatch: pytest.MonkeyPatch) -> None:
    from sklearn import ensemble

    made: list[ensemble.GradientBoostingClassifier] = []
    real = ensemble.GradientBoostingClassifier

    class Kept(real):  # type: ignore[misc,valid-type]
        def fit(self, *args: object, **kwargs: object) -> Kept:
            made.append(self)
            super().fit(*args, **kwargs)
            return self

    monkeypatch.setattr(ensemble, "GradientBoostingClassifier", Kept)
    model = Learnt().fit(*simulated(300, 0))
    asked, _ = simulated(100, 1)
    _, _, rows = model._rows(asked)

    assert model._probable(rows) == pytest.approx(made[0].predict_proba(rows)[:, 1], abs=1e-6)


def test_a_question_alone_has_the_verdict_it_has_in_a_batch() -> None:
    model = Learnt().fit(*simulated(300, 0))
    asked, _ = simulated(20, 1)

    together = model.combine(asked)

    for row in range(20):
        alone = model.combine(asked.take(np.array([row])))
        assert (alone.slot[0], alone.sure[0]) == (together.slot[row], together.sure[row])


def test_the_order_of_the_arms_does_not_matter_but_strangers_are_refused() -> None:
    ballots, right = simulated(300, 0)
    model = Learnt().fit(ballots, right)
    asked, _ = simulated(50, 1)
    turned = Ballots(
        asked.arms[::-1], 3 - asked.arm, asked.code, asked.score, asked.length, asked.options, asked.traits
    )

    assert (model.combine(turned).slot == model.combine(asked).slot).all()
    with pytest.raises(InputError, match="has not seen nobody"):
        model.combine(
            Ballots(
                (Arm("nobody"),),
                *(getattr(asked, name) for name in ("arm", "code", "score", "length", "options", "traits")),
            )
        )


def test_without_learning_nothing_is_combined_and_without_mistakes_nothing_is_learnt() -> None:
    ballots, right = simulated(50, 0)

    with pytest.raises(InputError, match="has not been fitted"):
        Learnt().combine(ballots)
    with pytest.raises(InputError, match="nothing to learn from"):
        Learnt().fit(ballots, np.ones_like(right))


def test_an_option_is_told_by_its_place_its_length_and_what_it_sweeps_up() -> None:
    found = traits("Which?\nA) a cat\nB) none of these", ["B", "A", None, "C", "cat"])

    assert found[0, 0] == 1 and found[0, 3] == 1
    assert found[1, 1] < 0 < found[0, 1]
    assert (found[2:] == 0).all()
    assert traits("What is 2 + 2?", ["4", "'four'", "[4]", "None", "four", None])[:, -1].tolist() == [1, 2, 3, 4, 0, 0]


def test_numbers_are_told_by_their_rank_and_words_are_not() -> None:
    found = traits("How much?\nA) 1,000 J\nB) 20 J\nC) -3e2 J\nD) nothing", list("ABCD"))

    assert found[:, 4].round(2).tolist() == [0.67, 0.33, 0.0, 0.0]
    assert found[:, 5].round(2).tolist() == [0.33, 0.0, 0.33, 0.0]
    assert (traits("Who?\nA) Ann\nB) Bob\nC) 3 others", list("ABC"))[:, 4:] == 0).all()
