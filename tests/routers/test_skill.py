"""The skill router: METHODS A's formulas, its fallback, its records, and what it explains."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from routers.errors import NotFittedError, RouterError
from routers.records import Records
from routers.select import top_k
from routers.skill import SkillRouter, global_competency, recruit_weights
from routers.testing import GENERALIST, SKILLS, simulate
from routers.types import Arm, Outcomes, Questions

COOK = ["bake flour oven", "boil onion soup", "stir pepper salt", "taste soup oven"]
SAIL = ["anchor boat deck", "mast rope sail", "port wind harbour", "knot deck sail"]
TEXTS = COOK + SAIL
LABELS = [("cooking",)] * 4 + [("sailing",)] * 4


def right(*questions: int) -> dict[int, float]:
    return {question: float(question in questions) for question in range(8)}


@pytest.fixture
def pool(results: Callable[..., Outcomes]) -> Outcomes:
    return results({"chef": right(0, 1, 2, 3), "sailor": right(4, 5, 6), "plain": right(0, 4)})


@pytest.mark.parametrize(
    ("totals", "expected"),
    [([10, 5, -5], [0.6772, 0.3201, 0.0026]), ([10, 5, 0], [0.8, 0.2, 0.0]), ([0, 0], [0.5, 0.5])],
)
def test_global_competency_is_the_released_one(totals: list[float], expected: list[float]) -> None:
    competency = global_competency(np.array(totals, dtype=float), temperature=0.5)

    assert competency.round(4).tolist() == expected


def test_arms_with_positive_suitability_share_the_draw() -> None:
    weights = recruit_weights(np.array([[3.0, 1.0, -2.0]]), np.array([0.2, 0.4, 0.4]))

    assert weights.round(9).tolist() == [[0.6, 0.4, 0.0]]


def test_where_no_arm_is_suitable_all_share_the_draw_by_lifted_suitability() -> None:
    weights = recruit_weights(np.array([[-1.0, 0.0, -3.0]]), np.array([0.5, 0.25, 0.25]))

    assert weights.round(4).tolist() == [[0.5455, 0.3636, 0.0909]]


def test_an_only_suitable_arm_without_competency_is_recruited_all_the_same() -> None:
    weights = recruit_weights(np.array([[2.0, -1.0]]), np.array([0.0, 1.0]))

    assert weights.tolist() == [[1.0, 0.0]]


def test_a_record_is_right_minus_wrong_per_skill(asking: Callable[..., Questions], pool: Outcomes) -> None:
    records = Records.of(asking(TEXTS, LABELS), pool)

    assert records.skills == ("cooking", "sailing")
    assert records.net.tolist() == [[4, -4], [-4, 2], [-2, -2]]


def test_a_question_of_two_skills_counts_in_both_and_an_unseen_cell_in_none(
    asking: Callable[..., Questions], results: Callable[..., Outcomes]
) -> None:
    questions = asking(["bake boat", "sail"], [("cooking", "sailing"), ("sailing",)])

    records = Records.of(questions, results({"a": {0: 1.0}, "b": {1: 1.0}}))

    assert records.net.tolist() == [[1, 1], [0, 1]]
    assert records.log_odds(1.0).round(4).tolist() == [[0.6931, 0.6931], [0.0, 0.6931]]
    assert records.as_dict() == {
        "a": {"cooking": (1.0, 1.0), "sailing": (1.0, 1.0)},
        "b": {"sailing": (1.0, 1.0)},
    }


def test_samples_of_one_question_count_as_their_mean(asking: Callable[..., Questions]) -> None:
    one = np.zeros(2, dtype=np.int64)
    sampled = Outcomes(
        arms=simulate(3)[1].arms[:1],
        question=one,
        arm=one,
        score=np.array([1, 0], dtype=np.float32),
        sample=np.arange(2),
        answer=(None, None),
        length=one,
        cost=np.full(2, np.nan, dtype=np.float32),
    )

    records = Records.of(asking(["bake"], [("cooking",)]), sampled)

    assert (records.right.tolist(), records.count.tolist()) == ([[0.5]], [[1.0]])


def test_a_few_answers_on_a_skill_weigh_less_than_many(
    asking: Callable[..., Questions], results: Callable[..., Outcomes]
) -> None:
    questions = asking(TEXTS, LABELS)
    few = {0: 1.0, **dict.fromkeys(range(4, 8), 0.0)}

    shares = Records.of(questions, results({"few": few, "many": right(0, 1, 2, 3), "new": {}})).share(2.0)

    assert shares[0, 0] < shares[1, 0]
    assert shares[2].tolist() == [0, 0], "an arm nobody measured is worth nothing"


def test_an_arm_measured_on_its_own_skill_alone_does_not_pass_for_good_at_everything(
    asking: Callable[..., Questions], results: Callable[..., Outcomes]
) -> None:
    outcomes = results({"chef": right(0, 1, 2), "newcomer": {4: 1.0, 5: 1.0, 6: 1.0, 7: 1.0}})

    records = Records.of(asking(TEXTS, LABELS), outcomes)

    assert records.overall.tolist() == [0.375, 0.5]
    assert records.share(2.0)[1, 0] < records.share(2.0)[0, 0]


@pytest.mark.parametrize("options", [{}, {"score_mode": "power"}, {"score_mode": "softmax"}])
def test_the_specialist_of_the_skill_is_scored_best(
    options: dict[str, Any], asking: Callable[..., Questions], pool: Outcomes
) -> None:
    router = SkillRouter(**options).fit(asking(TEXTS, LABELS), pool)

    best = top_k(router.score(asking(["boil the onion", "rope and wind"])), 1, router.arms)

    assert [router.arms[place[0]].name for place in best] == ["chef", "sailor"]


@pytest.mark.parametrize("mode", ["power", "softmax"])
def test_recruiting_scores_share_one_draw(mode: Any, asking: Callable[..., Questions], pool: Outcomes) -> None:
    router = SkillRouter("plain", score_mode=mode).fit(asking(TEXTS, LABELS), pool)

    scores = router.score(asking(["boil the onion", "rope and wind", "xylophone"]))

    assert np.allclose(scores.sum(axis=1), 1, atol=1e-6)


def test_expected_scores_are_the_shares_answered_right() -> None:
    questions, outcomes = simulate(300)
    asked, answers = simulate(300, seed=1)

    scores = SkillRouter().fit(questions, outcomes).score(asked)

    truth = answers.matrix(len(asked))
    assert np.abs(scores.mean(axis=0) - truth.mean(axis=0)).max() < 0.06


def test_composing_beats_every_single_arm_in_a_simulation() -> None:
    questions, outcomes = simulate(90)
    asked, answers = simulate(150, seed=1)

    router = SkillRouter(GENERALIST).fit(questions, outcomes)
    chosen = top_k(router.score(asked), 1, router.arms)[:, 0]

    truth = answers.matrix(len(asked))
    assert truth[np.arange(len(asked)), chosen].mean() > truth.mean(axis=0).max() + 0.2


def test_where_one_arm_is_best_everywhere_it_gets_everything(
    asking: Callable[..., Questions], results: Callable[..., Outcomes]
) -> None:
    outcomes = results({"strong": right(*range(8)), "chef": right(0, 1), "sailor": right(5, 6)})

    router = SkillRouter().fit(asking(TEXTS, LABELS), outcomes)

    assert router.score(asking(["bake", "sail", "xylophone"])).argmax(axis=1).tolist() == [0, 0, 0]


@pytest.mark.parametrize("mode", ["expected", "power", "softmax"])
def test_a_question_unlike_the_profile_goes_to_the_generalist_and_says_why(
    mode: Any, asking: Callable[..., Questions], pool: Outcomes
) -> None:
    router = SkillRouter("plain", score_mode=mode, floor=0.5).fit(asking(TEXTS, LABELS), pool)
    asked = asking(["xylophone zebra quartz"])

    scores, [reason] = router.score(asked), router.explain(asked)

    assert scores.argmax(axis=1).tolist() == [2]
    assert reason.skills == ()
    assert reason.fallback is not None
    assert "under the floor 0.50: left to plain" in reason.fallback


def test_without_a_generalist_an_unknown_question_is_ranked_by_overall_record(
    asking: Callable[..., Questions], pool: Outcomes
) -> None:
    router = SkillRouter(floor=0.5).fit(asking(TEXTS, LABELS), pool)

    scores = router.score(asking(["xylophone zebra quartz"]))

    assert scores.argsort(axis=1)[:, ::-1].tolist() == [[0, 1, 2]]


def test_a_question_like_those_without_a_skill_goes_to_the_generalist(
    asking: Callable[..., Questions], results: Callable[..., Outcomes]
) -> None:
    texts = [*TEXTS, "hello dear friend", "good morning friend", "hello good evening"]
    answered = {arm: {**right(*own), 8: 1.0, 9: 1.0, 10: 1.0} for arm, own in (("chef", (0, 1, 2)), ("plain", ()))}

    router = SkillRouter("plain").fit(asking(texts, [*LABELS, (), (), ()]), results(answered))
    asked = asking(["hello dear good friend"])

    assert router.score(asked).argmax() == 1
    assert router.explain(asked)[0].fallback == "none of the known skills stands out: left to plain"


@pytest.mark.parametrize("score_mode", ["expected", "power", "softmax"])
def test_a_generalist_without_a_record_takes_what_is_nobodys_skill_and_nothing_else(
    asking: Callable[..., Questions], results: Callable[..., Outcomes], score_mode: Any
) -> None:
    outcomes = results({"chef": right(0, 1, 2, 3), "plain": {}})

    router = SkillRouter("plain", score_mode=score_mode, floor=0.9).fit(asking(TEXTS, LABELS), outcomes)
    scores = router.score(asking(["bake flour oven", "zodiac planet comet"]))

    assert scores.argmax(axis=1).tolist() == [0, 1]
    assert router.records()["plain"] == {}


def test_an_explanation_names_skills_and_the_nearest_profile_questions(
    asking: Callable[..., Questions], pool: Outcomes
) -> None:
    router = SkillRouter("plain").fit(asking(TEXTS, LABELS), pool)

    [reason] = router.explain(asking(["boil onion soup"]))

    assert reason.skills[0][0] == "cooking"
    assert reason.nearest[0] == ("q1", 1.0)
    assert reason.fallback is None


def test_the_floor_is_chosen_on_the_given_questions_unless_it_is_set(
    asking: Callable[..., Questions], pool: Outcomes
) -> None:
    questions = asking(TEXTS, LABELS)

    assert SkillRouter(floor=0.3).fit(questions, pool).floor_used == 0.3
    assert 0 < SkillRouter().fit(*simulate()).floor_used < 1


def test_adding_an_arm_with_a_new_skill_leaves_every_other_record_and_route(asking: Callable[..., Questions]) -> None:
    questions, outcomes = simulate(90)
    more = simulate(30, seed=4)[0]
    moved = Questions(
        ids=(*questions.ids, *(f"new {name}" for name in more.ids)),
        text=(*questions.text, *(f"zodiac {place} planet star" for place in range(30))),
        vectors=np.concatenate([questions.vectors, asking([f"zodiac {i} planet star" for i in range(30)]).vectors]),
        skills=(*questions.skills, *((("stars",),) * 30)),
    )
    wider = Outcomes(
        arms=(*outcomes.arms, Arm("astronomer")),
        question=np.concatenate([outcomes.question, np.arange(90, 120)]),
        arm=np.concatenate([outcomes.arm, np.full(30, len(outcomes.arms))]),
        score=np.concatenate([outcomes.score, np.ones(30, dtype=np.float32)]),
        sample=np.concatenate([outcomes.sample, np.zeros(30, dtype=np.int64)]),
        answer=(*outcomes.answer, *((None,) * 30)),
        length=np.concatenate([outcomes.length, np.zeros(30, dtype=np.int64)]),
        cost=np.concatenate([outcomes.cost, np.full(30, np.nan, dtype=np.float32)]),
    )
    asked, _ = simulate(60, seed=2)

    before, after = SkillRouter(GENERALIST).fit(questions, outcomes), SkillRouter(GENERALIST).fit(moved, wider)

    assert {arm: after.records()[arm] for arm in (GENERALIST, *SKILLS)} == before.records()
    assert after.records()["astronomer"] == {"stars": (30.0, 30.0)}
    assert after.score(asked).argmax(axis=1).tolist() == before.score(asked).argmax(axis=1).tolist()
    assert after.score(asking(["planet star zodiac"])).argmax() == len(outcomes.arms)


def test_shuffled_outcomes_give_what_chance_gives() -> None:
    questions, outcomes = simulate(90)
    asked, answers = simulate(90, seed=1)
    truth = answers.matrix(len(asked))
    reached = []

    for seed in range(20):
        order = np.random.default_rng(seed).permutation(len(questions))
        router = SkillRouter().fit(questions, replace(outcomes, question=order[outcomes.question]))
        reached.append(truth[np.arange(len(asked)), router.score(asked).argmax(axis=1)].mean())

    assert abs(np.mean(reached) - truth.mean()) < 0.05


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SkillRouter(score_mode="best"), "score_mode is 'best'"),  # type: ignore[arg-type]
        (lambda: SkillRouter(record="share"), "record is 'share'"),  # type: ignore[arg-type]
        (lambda: SkillRouter(temperature=0), "temperature is 0"),
    ],
)
def test_an_impossible_setting_is_refused_at_once(make: Callable[[], SkillRouter], message: str) -> None:
    with pytest.raises(RouterError, match=message):
        make()


def test_fit_says_what_it_misses(asking: Callable[..., Questions], pool: Outcomes) -> None:
    labelled, unlabelled = asking(TEXTS, LABELS), asking(TEXTS)

    with pytest.raises(RouterError, match="no profile question is labelled"):
        SkillRouter().fit(unlabelled, pool)
    with pytest.raises(RouterError, match=r"'nobody' is not one of the arms\n  next: name one of chef, plain, sailor"):
        SkillRouter("nobody").fit(labelled, pool)
    with pytest.raises(RouterError, match="no outcomes to learn from"):
        SkillRouter().fit(labelled, pool.take([]))


def test_a_score_outside_its_range_is_refused(
    asking: Callable[..., Questions], results: Callable[..., Outcomes]
) -> None:
    with pytest.raises(RouterError, match=r"not in \[0, 1\]"):
        SkillRouter().fit(asking(["bake"], [("cooking",)]), results({"chef": {0: 7.0}}))


def test_vectors_of_another_encoder_are_refused(asking: Callable[..., Questions], pool: Outcomes) -> None:
    router = SkillRouter().fit(asking(TEXTS, LABELS), pool)
    other = Questions(("a",), ("bake",), np.ones((1, 3), dtype=np.float32))

    with pytest.raises(RouterError, match="embed both with the same encoder"):
        router.score(other)


def test_an_unfitted_router_shows_no_records() -> None:
    with pytest.raises(NotFittedError, match="fit"):
        SkillRouter().records()
