"""The promises every router keeps, as one function; `simulate` makes the labelled questions it uses (a simulation)."""

from __future__ import annotations

import copy
import hashlib
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Protocol, runtime_checkable

import numpy as np

from routers.errors import NotFittedError, RouterError
from routers.store import fingerprint, load, save
from routers.types import Arm, Array, Outcomes, Questions, Router, Weighing

SKILLS = ("cooking", "sailing", "music")
GENERALIST = "generalist"
_WORDS = {
    "cooking": ("bake", "boil", "flour", "onion", "oven", "pepper", "salt", "soup", "stir", "taste"),
    "sailing": ("anchor", "boat", "deck", "harbour", "knot", "mast", "port", "rope", "sail", "wind"),
    "music": ("chord", "drum", "flute", "melody", "note", "piano", "rhythm", "scale", "sing", "tune"),
}
_COMMON = ("a", "and", "explain", "for", "how", "is", "the", "to", "what", "with")
_TOLERANCE = 1e-6


class HashEncoder:
    """Words hashed to the places of a vector: an encoder for tests of logic, exact and without a model."""

    dim = 64
    fingerprint = "hash-64"

    def encode(self, texts: Sequence[str]) -> Array:
        """float32 [len(texts), 64] with unit rows."""
        vectors = np.zeros((len(texts), self.dim), dtype=np.float32)
        for row, text in enumerate(texts):
            for word in ("", *text.lower().split()):  # the empty word keeps an empty text from having no length
                digest = hashlib.sha256(word.encode()).digest()
                vectors[row, digest[0] % self.dim] += 1 if digest[1] % 2 else -1
                vectors[row, digest[2] % self.dim] += 1 if digest[3] % 2 else -1
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        vectors[norms[:, 0] == 0, 0] = 1  # words that cancel each other
        unit: Array = (vectors / np.where(norms == 0, 1, norms)).astype(np.float32)
        return unit


@runtime_checkable
class KeepsRecords(Protocol):
    """A router that can show what it knows of each arm."""

    def records(self) -> dict[str, dict[str, tuple[float, float]]]:
        """Per arm and skill (sum of scores, questions observed)."""
        ...


def simulate(n: int = 90, *, seed: int = 0, skills: Sequence[str] = SKILLS) -> tuple[Questions, Outcomes]:
    """A simulation: questions of one skill each, a specialist per skill (right on 90 % of its own, 10 % of the
    others) and a generalist (40 %); outcomes of all arms on all questions."""
    rng = Random(seed)
    labels = [skills[i % len(skills)] for i in range(n)]
    texts = tuple(" ".join([*rng.sample(_COMMON, 3), *rng.sample(_WORDS[skill], 3)]) for skill in labels)
    arms = tuple(Arm(name) for name in (GENERALIST, *skills))
    rows = [(question, arm) for question in range(n) for arm in range(len(arms))]
    chance = [
        0.4 if arms[arm].name == GENERALIST else 0.9 if arms[arm].name == labels[question] else 0.1
        for question, arm in rows
    ]
    score = np.array([float(rng.random() < p) for p in chance], dtype=np.float32)
    questions = Questions(
        ids=tuple(f"{seed}-{i}" for i in range(n)),
        text=texts,
        vectors=HashEncoder().encode(texts),
        skills=tuple((label,) for label in labels),
    )
    return questions, outcomes_of(arms, rows, score)


def outcomes_of(arms: Sequence[Arm], cells: Sequence[tuple[int, int]], score: Sequence[float] | Array) -> Outcomes:
    """Outcomes of (question, arm) cells with nothing known but their score."""
    where = np.array(cells, dtype=np.int64).reshape(len(cells), 2)
    return Outcomes.scored(arms, where[:, 0], where[:, 1], np.asarray(score, dtype=np.float32))


def check_router(make: Callable[[], Router]) -> None:
    """Raise AssertionError, saying which promise, unless routers made by `make` keep them all.

    `make` returns a fresh, unfitted router for the arms of `simulate`. Checked: `arms`, `score` and `explain` refuse
    before `fit`; shape, type and range of the scores; the same scores again, alone, in a batch and in any order; an
    empty batch; `weigh`, if the router has it, gives what `score` and `explain` give; a second fit forgets the first;
    the order of the fitted questions does not matter, the order of the arms only orders the columns; fitting and
    scoring change neither settings nor arguments; cells nobody ran and graded scores are accepted; a new arm, whether it joins at `fit`
    or by `add_arm`, and one that leaves by `remove_arm` leave what was learnt of the others (`learnt`, and `records` if
    the router shows them) as it was; added and removed is as never added; and a saved router, loaded again, scores the
    same (unless `save` refuses it).
    """
    questions, outcomes = simulate()
    asked, _ = simulate(30, seed=1)
    asked = replace(asked, skills=())  # at serving time nobody knows them
    _refuses_before_fit(make, asked)
    router = make()
    settings = _settings(router)
    before = copy.deepcopy((questions, outcomes))
    assert router.fit(questions, outcomes) is router, "fit returns the router itself"
    scores = router.score(asked)
    _scores_are_sound(router, asked, scores, outcomes)
    _scores_are_pure(router, asked, scores)
    assert _settings(router) == settings, "fit and score leave the settings as they were given"
    _unchanged(before, (questions, outcomes))
    _fits_again(router, make, questions, outcomes, asked)
    _order_is_nothing(make, questions, outcomes, asked, scores)
    _takes_a_new_arm(make, questions, outcomes, asked)
    _arms_come_and_go(make, questions, _graded(outcomes), asked)
    _survives_the_disk(make, questions, outcomes, asked)


def _refuses_before_fit(make: Callable[[], Router], asked: Questions) -> None:
    calls: list[Callable[[Router], object]] = [
        lambda router: router.arms,
        lambda router: router.score(asked),
        lambda router: router.explain(asked),
    ]
    for call, name in zip(calls, ("arms", "score", "explain"), strict=True):
        try:
            call(make())
        except NotFittedError:
            continue
        raise AssertionError(f"{name} raises NotFittedError before fit")


def _scores_are_sound(router: Router, asked: Questions, scores: Array, outcomes: Outcomes) -> None:
    assert router.arms == outcomes.arms, "the columns are the arms of the outcomes, in their order"
    assert scores.shape == (len(asked), len(outcomes.arms)), f"scores have the shape {scores.shape}"
    assert scores.dtype == np.float32, f"scores are {scores.dtype}, not float32"
    assert bool(np.all((scores >= 0) & (scores <= 1))), "scores lie in [0, 1]"
    reasons = router.explain(asked)
    assert len(reasons) == len(asked), "explain gives a reason per question"
    if isinstance(router, Weighing):
        together, told = router.weigh(asked)
        same = np.array_equal(together, scores) and told == reasons
        assert same, "weigh gives what score and explain give"


def _scores_are_pure(router: Router, asked: Questions, scores: Array) -> None:
    assert np.array_equal(router.score(asked), scores), "scoring again gives the same"
    alone = np.concatenate([router.score(asked.take([row])) for row in range(len(asked))])
    assert _equal(alone, scores), "a question alone scores as in a batch"
    turned = list(reversed(range(len(asked))))
    assert _equal(router.score(asked.take(turned)), scores[turned]), "the order of a batch does not matter"
    empty = router.score(asked.take([]))
    assert empty.shape == (0, scores.shape[1]), f"no questions give {empty.shape}"
    assert router.explain(asked.take([])) == [], "no questions, no reasons"


def _fits_again(
    router: Router, make: Callable[[], Router], questions: Questions, outcomes: Outcomes, asked: Questions
) -> None:
    other = simulate(60, seed=7)
    fresh = make().fit(*other).score(asked)
    assert _equal(router.fit(*other).score(asked), fresh), "a second fit forgets the first"
    router.fit(questions, outcomes)


def _order_is_nothing(
    make: Callable[[], Router], questions: Questions, outcomes: Outcomes, asked: Questions, scores: Array
) -> None:
    rows = Random(3).sample(range(len(questions)), len(questions))
    again = make().fit(questions.take(rows), outcomes.take(rows)).score(asked)
    assert _equal(again, scores), "the order of the fitted questions does not matter"
    turned = list(reversed(range(len(outcomes.arms))))  # turned[new column] = old column
    arms = tuple(outcomes.arms[i] for i in turned)
    permuted = replace(outcomes, arms=arms, arm=np.array([turned.index(int(i)) for i in outcomes.arm], dtype=np.int64))
    again = make().fit(questions, permuted).score(asked)
    assert _equal(again, scores[:, turned]), "another order of the arms gives the same columns in that order"


def _takes_a_new_arm(make: Callable[[], Router], questions: Questions, outcomes: Outcomes, asked: Questions) -> None:
    cells = list(zip(outcomes.question.tolist(), outcomes.arm.tolist(), strict=True))
    new = len(outcomes.arms)
    some = range(0, len(questions), 3)  # measured on a third of the questions only
    wider = outcomes_of(
        (*outcomes.arms, Arm("newcomer")),
        [*cells, *((question, new) for question in some)],
        [*outcomes.score.tolist(), *(float(question % 2) for question in some)],
    )
    before, after = make().fit(questions, outcomes), make().fit(questions, wider)
    for arm in outcomes.arms:
        _same_learnt(before, after, arm.name, "a new arm at fit")
    scores = after.score(asked)
    assert scores.shape == (len(asked), new + 1), "a new arm is a new column"
    assert bool(np.all(np.isfinite(scores))), "cells nobody ran leave the scores finite"
    if isinstance(before, KeepsRecords) and isinstance(after, KeepsRecords):
        old, now = before.records(), after.records()
        assert {arm: now[arm] for arm in old} == old, "a new arm leaves the other arms' records as they were"


def _arms_come_and_go(make: Callable[[], Router], questions: Questions, outcomes: Outcomes, asked: Questions) -> None:
    late = outcomes.arms[-1].name
    early = outcomes.only([arm.name for arm in outcomes.arms if arm.name != late])
    router = make().fit(questions, early)
    alone = router.score(asked)
    kept = {arm.name: {key: value.copy() for key, value in router.learnt(arm.name).items()} for arm in early.arms}
    some = list(range(0, len(questions), 2))
    router.add_arm(questions.take(some), outcomes.only([late]).take(some))
    assert [arm.name for arm in router.arms] == [arm.name for arm in outcomes.arms], "a new arm is the last column"
    scores = router.score(asked)
    assert scores.shape == (len(asked), len(outcomes.arms)), "an added arm is a new column"
    assert bool(np.all((scores >= 0) & (scores <= 1))), "scores with an added arm lie in [0, 1]"
    for name, own in kept.items():
        now = router.learnt(name)
        same = own.keys() == now.keys() and all(np.array_equal(own[key], now[key]) for key in own)
        assert same, f"an added arm leaves what was learnt of {name} as it was"
    try:
        router.add_arm(questions, outcomes.only([late]))
    except RouterError:
        pass
    else:
        raise AssertionError("adding an arm that is there is refused")
    assert _equal(router.remove_arm(late).score(asked), alone), "an arm that was added and removed leaves no trace"
    for name, own in kept.items():
        now = router.learnt(name)
        assert all(np.array_equal(own[key], now[key]) for key in own), f"a removed arm leaves {name} as it was"
    try:
        router.remove_arm("nobody")
    except RouterError:
        return
    raise AssertionError("removing an arm that is not there is refused")


def _graded(outcomes: Outcomes) -> Outcomes:
    """With half of the points on every fifth outcome."""
    half = np.arange(len(outcomes.score)) % 5 == 0
    return replace(outcomes, score=np.where(half, np.float32(0.5), outcomes.score))


def _same_learnt(before: Router, after: Router, name: str, what: str) -> None:
    """Shapes may differ where questions are kept; what is there of the arm may not."""
    old, new = before.learnt(name), after.learnt(name)
    same = old.keys() == new.keys() and all(np.allclose(old[key], new[key], atol=_TOLERANCE) for key in old)
    assert same, f"{what} leaves what was learnt of {name} as it was"


def _survives_the_disk(make: Callable[[], Router], questions: Questions, outcomes: Outcomes, asked: Questions) -> None:
    router = make().fit(questions, outcomes)
    with tempfile.TemporaryDirectory() as folder:
        try:
            save(router, Path(folder), keys={"outcomes": fingerprint(questions, outcomes)})
        except RouterError:
            return
        again = load(Path(folder), keys={"outcomes": fingerprint(questions, outcomes)})
    assert np.array_equal(again.score(asked), router.score(asked)), "a router loaded again scores the same"
    assert again.arms == router.arms, "a router loaded again has the same arms"


def _settings(router: Router) -> dict[str, object]:
    """The constructor's fields, copied; a router that is no dataclass shows none."""
    known = getattr(router, "__dataclass_fields__", {})
    return {name: copy.deepcopy(getattr(router, name)) for name, one in known.items() if one.init}


def _unchanged(before: tuple[Questions, Outcomes], after: tuple[Questions, Outcomes]) -> None:
    columns = [(one, name) for one in (0, 1) for name in type(before[one]).__dataclass_fields__]
    for one, name in columns:
        old, new = getattr(before[one], name), getattr(after[one], name)
        same = repr(old) == repr(new) if isinstance(old, tuple) else old.tobytes() == new.tobytes()
        assert same, f"fit and score leave `{name}` of their arguments as it was"


def _equal(a: Array, b: Array) -> bool:
    return a.shape == b.shape and bool(np.allclose(a, b, rtol=0, atol=_TOLERANCE))
