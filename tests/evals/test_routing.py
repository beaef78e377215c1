"""`coe eval routers` on simulations: honest choices, references, the control."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from composer.errors import InputError
from composer.learning.grid import Grid
from composer.recorded import Recorded
from evals.recorded import check_calls
from evals.replayed import ask, until_two_agree
from evals.report import routing_table, write_json, write_page
from evals.routing import Report, evaluate, left_out_models
from evals.ways import ways
from routers.evidence import vote_weights
from routers.family import PLAIN
from routers.testing import simulate
from routers.types import Arm, Array


def record(n: int = 600, *, skilled: bool = True) -> tuple[Recorded, Array]:
    """A simulation: three specialists and a generalist; wrong answers are spread over four letters."""
    questions, outcomes = simulate(n)
    if not skilled:
        turned = np.random.default_rng(0).permutation(n)
        outcomes = replace(outcomes, question=turned[outcomes.question])
    rng = np.random.default_rng(1)
    answers = tuple("A" if score else rng.choice(list("BCDE")) for score in outcomes.score)
    return (
        Recorded(
            ids=questions.ids,
            text=questions.text,
            benchmark=("sim",) * n,
            category=tuple(own[0] for own in questions.skills),
            split=tuple("dev" if i // 3 % 3 == 0 else "profile" for i in range(n)),
            options=np.full(n, 5),
            outcomes=replace(outcomes, answer=answers, length=np.full(len(outcomes.score), 10)),
            voted=True,
        ),
        questions.vectors,
    )


@pytest.fixture(scope="module")
def report() -> Report:
    found, vectors = record()
    return evaluate(found, vectors, group="sim")


def accuracy(report: Report, system: str) -> float:
    [row] = [row for row in report.rows if row.system == system]
    return row.accuracy


def test_one_row_per_budget_is_chosen_and_it_beats_one_arm_for_all(report: Report) -> None:
    chosen = [row for row in report.rows if row.chosen]

    assert [row.system.split(":")[0] for row in chosen[:3]] == ["chosen for 1", "chosen for 3", "chosen for all"]
    for row, limit in zip(chosen[:3], (1, 3, 4), strict=True):
        assert row.calls is not None and row.calls <= limit
        assert row.to_best_single is not None and row.to_best_single[1] > 0
        assert accuracy(report, PLAIN) < row.accuracy <= accuracy(report, "oracle")


def test_cost_is_saved_where_arms_have_prices() -> None:
    found, vectors = record()
    dear = np.where(found.outcomes.arm == 0, 100, 10)  # the generalist is the best single arm

    report = evaluate(replace(found, outcomes=replace(found.outcomes, length=dear)), vectors, group="sim")

    [row] = [row for row in report.rows if row.system.startswith("chosen for cost")]
    single = next(row for row in report.rows if row.system == PLAIN)
    assert row.chosen and row.cost is not None and single.cost is not None
    assert row.cost < 0.5 * single.cost
    assert row.to_best_single is not None and row.to_best_single[2] >= 0


def test_with_shuffled_labels_the_gain_vanishes(report: Report) -> None:
    [control] = [row for row in report.rows if row.system.startswith("control")]

    assert control.to_best_single is not None
    assert control.to_best_single[1] <= 0.02  # nothing above chance


def test_where_nothing_can_be_learnt_the_best_single_arm_is_chosen_or_as_good() -> None:
    found, vectors = record(skilled=False)

    flat = evaluate(found, vectors, group="sim", calls=("1",))

    [row] = [row for row in flat.rows if row.chosen]
    assert row.to_best_single is not None and row.to_best_single[2] >= 0


def test_shares_costs_and_figures_are_there(report: Report) -> None:
    single = next(row for row in report.rows if row.system == PLAIN)
    assert sum(single.shares.values()) == pytest.approx(1.0)
    assert single.cost == 10.0
    assert set(report.heat) == {"generalist", "cooking", "sailing", "music"}
    assert sum(n for _, _, n in report.reliability) == single.n
    assert {gap.domain for gap in report.gaps} == {"cooking", "sailing", "music"}


def test_near_copies_of_test_questions_are_dropped_or_refused() -> None:
    found, vectors = record(120)
    vectors = vectors.copy()
    vectors[3] = vectors[0]  # the one is of dev, the other of the profile

    twins = evaluate(found, vectors, group="sim", calls=("1",))

    assert any("near-copies" in note for note in twins.notes)
    with pytest.raises(InputError, match="near-copies"):
        evaluate(found, vectors, group="sim", calls=("1",), strict=True)


def test_without_answers_or_categories_what_needs_them_is_left_out() -> None:
    found, vectors = record(200)
    bare = replace(found, voted=False, category=("",) * 200)

    report = evaluate(bare, vectors, group="sim")

    names = [row.system for row in report.rows]
    assert not any("category" in name or "majority" in name for name in names)
    assert {row.calls for row in report.rows if row.chosen and "cost" not in row.system} == {1.0}
    assert len(report.notes) >= 2


def test_where_there_are_samples_self_consistency_is_a_reference() -> None:
    found, vectors = record(200)
    first = found.outcomes
    more = replace(
        first,
        question=np.tile(first.question, 3),
        arm=np.tile(first.arm, 3),
        score=np.tile(first.score, 3),
        sample=np.repeat(np.arange(3), len(first.score)),
        answer=first.answer * 3,
        length=np.tile(first.length, 3),
        cost=np.tile(first.cost, 3),
    )

    report = evaluate(replace(found, outcomes=more), vectors, group="sim", calls=("1",))

    [row] = [row for row in report.rows if row.system == "best-single, self-consistency"]
    assert row.calls == 3.0
    assert row.accuracy == accuracy(report, PLAIN)  # the samples are alike


def test_a_split_that_is_not_there_is_told() -> None:
    found, vectors = record(60)
    with pytest.raises(InputError, match="split 'test'"):
        evaluate(found, vectors, group="sim", test_split="test")


def test_a_model_added_later_is_within_a_few_points() -> None:
    found, vectors = record()
    rows = left_out_models(found, vectors, group="sim", test_split="dev", say=lambda _: None)

    assert len(rows) == 4
    for row in rows:
        assert row.to_best_single is not None and row.to_best_single[0] > -0.05


def test_rows_are_written_in_the_common_form(report: Report, tmp_path: Path) -> None:
    write_json(tmp_path / "rows.json", "eval routers", "sim", report.rows)
    write_page(tmp_path / "page.html", "<sim>", [report])

    told = json.loads((tmp_path / "rows.json").read_text())
    common = {"system", "group", "n", "accuracy", "low", "high", "calls", "tokens", "seconds", "chosen"}
    assert set(told) == {"command", "data", "rows"}
    assert all(common <= set(row) for row in told["rows"])
    page = (tmp_path / "page.html").read_text()
    assert "&lt;sim&gt;" in page and "<script" not in page
    assert len(list(routing_table(report.rows))) == len(report.rows) + 1


# Votes


def grid(codes: list[list[int]], right: list[list[float]]) -> Grid:
    arms = tuple(Arm(name) for name in "abcd"[: len(codes[0])])
    ones = np.ones((len(codes), len(arms)))
    looks = np.zeros((*ones.shape, 4))
    options = np.full(len(codes), 4)
    return Grid(arms, np.array(right), np.array(codes), ones, ones.astype(np.int64), looks, options, True)


def test_equal_answers_add_up_and_none_agrees_with_nobody() -> None:
    found = grid([[1, 2, 2], [-1, -1, 3], [5, 6, 7]], [[0, 1, 1], [0, 0, 1], [1, 0, 0]])

    played = ask(found, np.array([[0, 1, 2]] * 3))

    assert played.right.tolist() == [1.0, 1.0, 1.0]  # a draw goes to the arm asked first
    assert played.arm.tolist() == [1, 2, 0]
    assert played.calls.tolist() == [3.0, 3.0, 3.0]


def test_a_heavy_vote_outweighs_two_light_ones() -> None:
    found = grid([[1, 2, 2]], [[1, 0, 0]])

    assert ask(found, np.array([[0, 1, 2]]), np.array([[3.0, 1.0, 1.0]])).arm.tolist() == [0]
    assert ask(found, np.array([[0, 1, 2]]), np.array([[1.5, 1.0, 1.0]])).arm.tolist() == [1]


def test_asking_stops_when_two_agree() -> None:
    found = grid([[1, 1, 2, 3], [1, 2, 2, 3], [1, 2, 3, 4], [-1, -1, 2, 2]], [[1, 1, 0, 0]] * 4)

    played = until_two_agree(found, np.tile(np.arange(4), (4, 1)), 4)

    assert played.calls.tolist() == [2.0, 3.0, 4.0, 4.0]


def test_a_surer_arm_counts_more_and_nobody_counts_against_himself() -> None:
    weights = vote_weights(np.array([[0.9, 0.5, 0.01]], dtype=np.float32), np.array([4]))

    assert weights[0, 0] > weights[0, 1] > weights[0, 2] > 0


def test_budgets_bound_the_ways_and_are_checked() -> None:
    assert [way.name for way in ways("1", 5, True)] == ["1"]
    assert [way.name for way in ways("all", 5, False)] == ["1"]
    assert check_calls("1, 3,all") == ["1", "3", "all"]
    with pytest.raises(InputError, match="--calls has '0'"):
        check_calls("0")
    with pytest.raises(InputError, match="empty"):
        check_calls(",")


def test_outcomes_keep_their_first_sample_in_the_grid_whatever_it_is_called() -> None:
    found, _ = record(30)
    own = found.outcomes
    twice = replace(
        own,
        question=np.tile(own.question, 2),
        arm=np.tile(own.arm, 2),
        score=np.concatenate([1 - own.score, own.score]),
        sample=np.repeat([2, 1], len(own.sample)),
        answer=own.answer * 2,
        length=np.tile(own.length, 2),
        cost=np.tile(own.cost, 2),
    )

    assert np.array_equal(Grid.of(replace(found, outcomes=twice)).right, Grid.of(found).right)


def test_arms_that_only_one_split_knows_are_left_out_with_a_note() -> None:
    found, vectors = record(300)
    own = found.outcomes
    late = np.array([split == "dev" for split in found.split])[own.question] | (own.arm != 3)
    keep = np.flatnonzero(late)
    part = replace(
        own,
        question=own.question[keep],
        arm=own.arm[keep],
        score=own.score[keep],
        sample=own.sample[keep],
        answer=tuple(own.answer[i] for i in keep),
        length=own.length[keep],
        cost=own.cost[keep],
    )

    report = evaluate(replace(found, outcomes=part), vectors, group="sim", calls=("1",))

    assert any("nobody ran them on one of the splits: music" in note for note in report.notes)
    assert all("music" not in row.shares for row in report.rows)
