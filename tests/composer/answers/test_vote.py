"""One answer out of several drafts, counted."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from composer.answers.ballots import Aggregator, Ballots, Verdicts
from composer.answers.vote import BestScored, DawidSkene, LogOdds, Majority, SelfConsistent, Weighted, agreement
from routers.types import Arm

CALM = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a busy machine is no failure
ALL: dict[str, Callable[[], Aggregator]] = {
    "best": BestScored,
    "majority": Majority,
    "weighted": Weighted,
    "log-odds": LogOdds,
    "self-consistent": SelfConsistent,
    "dawid-skene": DawidSkene,
}
Row = Sequence[tuple[str, float, str | None]]  # arm, score, answer
ROWS = st.lists(
    st.tuples(st.sampled_from("abc"), st.sampled_from([0.0, 0.25, 0.5, 1.0]), st.none() | st.sampled_from("123")),
    max_size=6,
)


def ballots(*rows: Row, arms: str = "abc", options: int = 0) -> Ballots:
    shape = (len(rows), max(map(len, rows), default=0))
    arm, code, score = np.full(shape, -1), np.full(shape, -1), np.zeros(shape)
    for i, row in enumerate(rows):
        for j, (name, trust, answer) in enumerate(row):
            arm[i, j], score[i, j] = arms.index(name), trust
            code[i, j] = -1 if answer is None else ord(answer)
    zeros = np.zeros(shape, dtype=np.int64)
    return Ballots(tuple(map(Arm, arms)), arm, code, score, zeros, np.full(len(rows), options), np.zeros((*shape, 4)))


def take(aggregator: Aggregator, *row: tuple[str, float, str | None]) -> int:
    return int(aggregator.combine(ballots(row)).slot[0])


def test_the_best_scored_draft_with_an_answer_is_taken() -> None:
    assert take(BestScored(), ("a", 0.9, None), ("b", 0.5, "4"), ("c", 0.6, "5"), ("a", 0.1, "5")) == 2


def test_equal_scores_go_to_the_draft_planned_first() -> None:
    assert take(BestScored(), ("a", 0.5, "4"), ("b", 0.5, "5")) == 0


def test_most_votes_win_over_the_highest_score() -> None:
    row = [("a", 0.9, "4"), ("b", 0.1, "5"), ("c", 0.3, "5")]

    verdicts = Majority().combine(ballots(row))

    assert verdicts.slot.tolist() == [1]
    assert verdicts.sure.tolist() == pytest.approx([2 / 3])


def test_drafts_without_an_answer_never_agree_with_each_other() -> None:
    row = [("a", 0.9, None), ("b", 0.9, None), ("c", 0.9, None), ("a", 0.1, "5")]

    verdicts = Majority().combine(ballots(row))

    assert (verdicts.slot.tolist(), verdicts.sure.tolist()) == ([3], [0.25])


def test_a_tied_vote_goes_to_the_higher_sum_of_scores() -> None:
    assert take(Majority(), ("a", 0.4, "4"), ("b", 0.5, "5"), ("a", 0.4, "4"), ("b", 0.4, "5")) == 1


@pytest.mark.parametrize("make", [Majority, Weighted])
def test_a_vote_tied_in_scores_too_goes_to_the_answer_planned_first(make: Callable[[], Aggregator]) -> None:
    assert take(make(), ("a", 0.5, "4"), ("b", 0.5, "5")) == 0


def test_one_trusted_arm_outweighs_two_that_guess() -> None:
    row = [("a", 0.95, "4"), ("b", 0.3, "5"), ("c", 0.3, "5")]

    assert take(Weighted(), *row) == 0
    assert int(LogOdds().combine(ballots(row, options=4)).slot[0]) == 0
    assert take(Majority(), *row) == 1


@pytest.mark.parametrize("make", [BestScored, Majority, Weighted, LogOdds, SelfConsistent])
def test_one_draft_alone_is_as_sure_as_its_arm_is_good(make: Callable[[], Aggregator]) -> None:
    verdicts = make().combine(ballots([("a", 0.7, "4")], options=4))

    assert verdicts.sure[0] == pytest.approx(0.7)


def test_log_odds_learns_who_is_good_at_which_skill() -> None:
    rows = [[("a", 0.5, "4"), ("b", 0.5, "5")]] * 200
    skill = np.arange(200) % 2
    told = ballots(*rows)
    told = Ballots(
        *(getattr(told, name) for name in ("arms", "arm", "code", "score", "length", "options", "traits")),
        ("odd", "even"),
        skill,
    )
    right = np.stack([skill == 0, skill == 1], axis=1).astype(float)

    learnt = LogOdds().fit(told, right)

    assert learnt.combine(told).slot[:4].tolist() == [0, 1, 0, 1]


def test_the_model_that_agrees_most_with_itself_is_taken() -> None:
    row = [("a", 0.9, "1"), ("a", 0.9, "2"), ("b", 0.1, "3"), ("b", 0.1, "3"), ("a", 0.9, "4")]

    verdicts = SelfConsistent().combine(ballots(row))

    assert (verdicts.slot.tolist(), verdicts.sure.tolist()) == ([2], [1.0])


def test_an_arm_with_one_sample_is_as_sure_as_it_is_good_and_another_as_it_agrees() -> None:
    row = [("a", 0.9, "1"), ("a", 0.9, "1"), ("b", 0.7, "2")]

    verdicts = SelfConsistent().combine(ballots(row, [("b", 0.7, "2"), ("c", 0.3, "2")]))

    assert (verdicts.slot.tolist(), verdicts.sure.tolist()) == ([0, 0], [1.0, 0.7])


def test_equal_self_consistency_goes_to_the_arm_the_router_trusts_most() -> None:
    assert take(SelfConsistent(), ("a", 0.2, "1"), ("b", 0.8, "2")) == 1


def test_accuracies_are_found_from_agreement_alone() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 4, 500)
    good = np.where(rng.random((500, 3)) < 0.8, truth[:, None], rng.integers(0, 4, (500, 3)))
    rows = [
        [(name, 0.5, str(said)) for name, said in zip("abcd", [*own, str(rng.integers(0, 4))], strict=True)]
        for own in good
    ]
    told = ballots(*rows, arms="abcd", options=4)

    model = DawidSkene().fit(told, np.zeros(told.arm.shape))

    assert model.accuracy_ is not None
    assert (model.accuracy_[:3] > 0.7).all() and model.accuracy_[3] < 0.45


@pytest.mark.parametrize("make", ALL.values(), ids=ALL.keys())
def test_nothing_is_taken_where_nothing_was_answered(make: Callable[[], Aggregator]) -> None:
    verdicts = make().combine(ballots([], [("a", 0.9, None)], [("a", 0.9, None), ("b", 0.5, "1")]))

    assert verdicts.slot.tolist() == [-1, -1, 1]
    assert verdicts.sure[:2].tolist() == [0, 0]


def test_an_empty_batch_has_no_verdicts() -> None:
    assert Majority().combine(ballots()).slot.shape == (0,)


@pytest.mark.parametrize("make", [make for name, make in ALL.items() if name != "dawid-skene"])
@CALM
@given(rows=st.lists(ROWS, min_size=1, max_size=4))
def test_a_question_alone_has_the_verdict_it_has_in_a_batch(make: Callable[[], Aggregator], rows: list[Row]) -> None:
    together = make().combine(ballots(*rows))

    for i, row in enumerate(rows):
        alone: Verdicts = make().combine(ballots(row))
        assert alone.slot[0] == together.slot[i]
        assert alone.sure[0] == pytest.approx(together.sure[i])
        assert 0 <= alone.sure[0] <= 1
        assert (alone.slot[0] < 0) == all(answer is None for _, _, answer in row)


@CALM
@given(rows=st.lists(ROWS, min_size=1, max_size=4))
def test_agreement_is_the_share_of_drafts_that_say_the_same(rows: list[Row]) -> None:
    told = ballots(*rows)
    slot = Majority().combine(told).slot

    for row, place, share in zip(rows, slot, agreement(told, slot), strict=True):
        same = [answer for _, _, answer in row if place >= 0 and answer == row[int(place)][2]]
        assert share == pytest.approx(len(same) / len(row) if row else 0)
