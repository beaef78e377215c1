"""Doubting: no flagged question goes on the word of one domain."""

from __future__ import annotations

import doctest
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from routers import doubting
from routers.coverage import BOUNDARY, GAP, Coverage
from routers.doubting import Doubting, disagreement
from routers.neighbours import NeighbourRouter
from routers.policy import Fixed
from routers.records import at_home
from routers.rules import NullArm
from routers.select import TopK, ranked
from routers.stopping import rehearse
from routers.testing import GENERALIST, outcomes_of, simulate
from routers.types import Arm, Array, Ask, Indices, Outcomes, Questions, Seen, Stop

ARMS = (Arm("algebra", 1, "maths"), Arm("calculus", 1, "maths"), Arm("law", 1, "law"), Arm("chat", 1, None))
SCORES = np.array([[0.9, 0.8, 0.3, 0.2]], dtype=np.float32)


def said(*answers: tuple[str, str | None], flags: tuple[str, ...] = (BOUNDARY,)) -> Seen:
    return Seen(tuple(name for name, _ in answers), answers, flags=flags)


def test_the_examples_in_the_docstrings_hold() -> None:
    assert doctest.testmod(doubting).failed == 0


@pytest.mark.parametrize("flag", [BOUNDARY, GAP])
def test_a_flagged_question_is_put_to_the_second_best_and_to_an_outsider(flag: str) -> None:
    policy = Doubting(Fixed(TopK(1)), "chat")

    assert policy.next(SCORES, ARMS, [Seen(flags=(flag,))]) == [Ask(("algebra",))], "the policy begins"
    assert policy.next(SCORES, ARMS, [said(("algebra", "4"), flags=(flag,))]) == [Ask(("calculus", "law"))]


def test_what_is_not_flagged_goes_on_as_the_policy_says() -> None:
    policy = Doubting(Fixed(TopK(1)), "chat")

    assert policy.next(SCORES, ARMS, [said(("algebra", "4"), flags=())]) == [Stop()]


def test_where_the_second_best_is_the_outsider_nobody_else_is_asked() -> None:
    policy = Doubting(Fixed(TopK(1)))
    scores = np.array([[0.9, 0.2, 0.8, 0.1]], dtype=np.float32)

    assert policy.next(scores, ARMS, [said(("algebra", "4"))]) == [Ask(("law",))]


def test_the_generalist_is_heard_where_they_disagree_and_only_there() -> None:
    policy = Doubting(Fixed(TopK(1)), "chat")
    agree = said(("algebra", "4"), ("calculus", "4"), ("law", "5"))
    disagree = said(("algebra", "4"), ("calculus", "3"), ("law", "5"))
    silent = said(("algebra", "4"), ("calculus", None), ("law", None))
    heard = said(("algebra", "4"), ("calculus", "3"), ("law", "5"), ("chat", "6"))

    found = policy.next(np.repeat(SCORES, 4, axis=0), ARMS, [agree, disagree, silent, heard])

    assert found == [Stop(), Ask(("chat",)), Ask(("chat",)), Stop()]


def test_one_word_alone_is_no_disagreement() -> None:
    assert disagreement(said(("algebra", None))) == 0


def test_arms_are_at_home_where_they_are_furthest_ahead() -> None:
    questions, outcomes = simulate(300)

    found = {arm.name: arm.domain for arm in at_home(questions, outcomes).arms}

    assert {name: found[name] for name in ("cooking", "sailing", "music")} == {
        "cooking": "cooking",
        "sailing": "sailing",
        "music": "music",
    }
    assert found[GENERALIST] is not None


def test_without_two_skills_nobody_has_a_home() -> None:
    questions, outcomes = simulate(30, skills=("cooking",))

    assert {arm.domain for arm in at_home(questions, outcomes).arms} == {None}


def unit(rows: NDArray[np.float64]) -> Array:
    found: Array = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return found


def borderland(n: int, seed: int) -> tuple[Questions, Outcomes, Indices]:
    """A simulation (METHODS F, test): domains A and B, where a fifth of B's questions look like A's, C far away. Two
    specialists of A share the surface cue: on B's questions that look like A's they give the same wrong answer. Returns
    also everyone's answers, [n, arm]: 0 is right."""
    rng = np.random.default_rng(seed)
    domain = np.arange(n) % 2
    like_a = (domain == 1) & (rng.random(n) < 0.2)
    centre = np.where((domain == 0) | like_a, -1.0, 1.0)
    spread = np.where(like_a, 0.9, 0.35)  # they lie at A's rim
    vectors = unit(np.column_stack([3 * (centre + spread * rng.normal(size=n)), rng.normal(size=(n, 24))]))
    right = np.array([[0.97, 0.96, 0.3, 0.7], [0.15, 0.15, 0.97, 0.7]])[domain]
    code = np.where(rng.random((n, 4)) < right, 0, rng.integers(1, 4, (n, 4)))
    fooled = like_a & (rng.random(n) < 0.9)
    code[fooled, 0] = code[fooled, 1] = 1
    arms = tuple(Arm(name) for name in ("a1", "a2", "b", "all"))
    cells = [(row, arm) for row in range(n) for arm in range(4)]
    outcomes = outcomes_of(arms, cells, (code == 0).astype(np.float32).ravel())
    text = tuple("" for _ in range(n))
    skills = tuple(("AB"[place],) for place in domain)
    return Questions(tuple(f"{seed}-{i}" for i in range(n)), text, vectors, skills), outcomes, code


def exposed(place: Indices, code: Indices, rows: Indices) -> float:
    """Among `rows`, how many have been given two different answers by those asked."""
    given = [{int(code[row, arm]) for arm in place[row] if arm >= 0} for row in rows]
    return float(np.mean([len(answers) > 1 for answers in given]))


def test_doubt_exposes_what_experts_of_one_domain_agree_on_wrongly() -> None:
    questions, outcomes, _ = borderland(1200, 0)
    asked, _, code = borderland(2000, 1)
    outcomes = at_home(questions, outcomes)
    router = NeighbourRouter().fit(questions, outcomes)
    scores = router.score(asked)
    signals = Coverage().fit(questions, router.score(questions)).signals(asked.vectors, scores)

    doubting, _ = rehearse(Doubting(Fixed(TopK(1)), "all"), scores, outcomes.arms, code, flags=signals.flags)
    doubted = (doubting >= 0).sum(axis=1) > 1
    order = ranked(scores, outcomes.arms)
    fooled = np.flatnonzero((code[:, 0] == 1) & (code[:, 1] == 1) & (order[:, 0] < 2) & doubted)
    right = np.flatnonzero((code[np.arange(2000), order[:, 0]] == 0) & ~doubted)

    assert len(fooled) > 20 and len(right) > 500
    assert exposed(order[:, :2], code, fooled) < 0.5, "two of one domain agree on the same error"
    assert exposed(doubting, code, fooled) > 0.8, "an outsider does not"


def test_questions_of_an_unknown_domain_are_flagged_and_few_others() -> None:
    questions, _, _ = borderland(1200, 0)
    asked, _, _ = borderland(1000, 1)
    rng = np.random.default_rng(3)
    elsewhere = unit(np.column_stack([rng.normal(size=500), np.full(500, 12.0), rng.normal(size=(500, 23))]))
    coverage = Coverage().fit(questions)
    nothing = np.zeros((1000, 2), dtype=np.float32)

    assert coverage.signals(elsewhere, nothing[:500]).outside.mean() >= 0.8
    assert coverage.signals(asked.vectors, nothing).outside.mean() <= 0.07


def test_a_rule_that_asks_several_is_only_completed() -> None:
    policy = Doubting(Fixed(NullArm(0.05, 2)), "chat")

    assert policy.next(SCORES, ARMS, [said(("algebra", "4"), ("calculus", "4"))]) == [Ask(("law",))]


def test_two_that_differ_disagree_and_samples_of_one_arm_are_one_voice() -> None:
    policy = Doubting(Fixed(TopK(1)), "chat")
    scores = np.array([[0.9, 0.2, 0.8, 0.1]], dtype=np.float32)
    sampled = said(("algebra", "4"), ("algebra", "4"), ("law", "5"), ("law", "5"))

    assert policy.next(scores, ARMS, [said(("algebra", "4"), ("law", "5"))]) == [Ask(("chat",))]
    assert policy.next(scores, ARMS, [replace(sampled, asked=("algebra", "law"))]) == [Ask(("chat",))]
    assert disagreement(replace(sampled, asked=("algebra", "law"))) == 0.5


def test_an_arm_without_an_outcome_is_at_home_nowhere() -> None:
    questions, outcomes = simulate(90)
    outcomes = replace(outcomes, arms=(*outcomes.arms, Arm("new")))

    assert at_home(questions, outcomes).arms[-1].domain is None
