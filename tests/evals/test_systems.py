"""Systems read off one table of drafts, and the common form that every evaluation is reported in."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from composer.types import Draft, Failure, Kind
from evals import report
from evals.metrics import Result, Row, gap, row
from evals.runner import Table, judge
from evals.systems import at_random, majority, oracle, picked, routed, single
from evals.tasks.skills import Item
from routers.types import Arm, Array, Outcomes, Questions, Reason

ARMS = ("base", "sums", "law")


def item(id: str, answer: str = "2", kind: Kind = "number") -> Item:
    return Item(id, "1 + 1?", answer, kind, "arithmetic", "test")


def table(answers: list[tuple[str | None, str | None, str | None]], gold: str = "2") -> Table:
    """Every draft took as many tokens and seconds as its column says."""
    shape = (len(answers), 3)
    return Table(
        items=tuple(item(str(i)) for i in range(len(answers))),
        arms=ARMS,
        right=np.array([[float(answer == gold) for answer in row] for row in answers]),
        tokens=np.broadcast_to([10.0, 20.0, 30.0], shape).copy(),
        seconds=np.broadcast_to([1.0, 2.0, 3.0], shape).copy(),
        answers=tuple(answers),
    )


TABLE = table([("2", "3", "3"), ("3", "2", "2"), (None, None, "2"), (None, None, None), ("2", "3", None)])


class Judge:
    """Scores as given, in columns that are not the table's."""

    def __init__(self, arms: tuple[Arm, ...], scores: list[list[float]]) -> None:
        self.arms = arms
        self.scores = np.array(scores, dtype=np.float32)

    def fit(self, questions: Questions, outcomes: Outcomes) -> Judge:
        return self

    def score(self, questions: Questions) -> Array:
        return self.scores

    def explain(self, questions: Questions) -> list[Reason]:
        return []


QUESTIONS = Questions(tuple("01234"), ("",) * 5, np.ones((5, 1), dtype=np.float32))


def test_one_arm_for_everything_costs_one_call_each() -> None:
    result = single(TABLE, "sums")

    assert result.system == "expert:sums"
    assert result.right.tolist() == [0, 1, 0, 0, 0]
    assert (result.calls.tolist(), set(result.tokens), set(result.seconds)) == ([1] * 5, {20.0}, {2.0})
    assert single(TABLE, "base", "the base").system == "the base"


def test_majority_takes_what_most_say_and_none_never_agrees_with_none() -> None:
    result = majority(TABLE, ARMS)

    assert result.right.tolist() == [0, 1, 1, 0, 1]
    assert (set(result.calls), set(result.tokens), set(result.seconds)) == ({3.0}, {60.0}, {6.0})


def test_a_tie_goes_to_the_first_of_the_pool() -> None:
    assert majority(TABLE, ("base", "sums")).right.tolist() == [1, 0, 0, 0, 1]
    assert majority(TABLE, ("sums", "base")).right.tolist() == [0, 1, 0, 0, 0]


def test_the_oracle_is_right_wherever_anybody_is_at_no_known_price() -> None:
    result = oracle(TABLE, ("base", "sums"))

    assert result.right.tolist() == [1, 1, 0, 0, 1]
    assert np.isnan([result.calls, result.tokens, result.seconds]).all()


def test_a_router_picks_its_best_arm_and_ties_go_to_the_cheaper_then_by_name() -> None:
    arms = (Arm("sums", 2.0), Arm("law", 1.0), Arm("base", 1.0))
    scores = [[0.9, 0.1, 0.1], [0.5, 0.5, 0.1], [0.5, 0.5, 0.5], [0.1, 0.2, 0.9], [0.1, 0.9, 0.2]]

    result = routed(TABLE, "skill", Judge(arms, scores), QUESTIONS, chosen=True)  # type: ignore[arg-type]

    assert result.tokens.tolist() == [20, 30, 10, 10, 30]
    assert (result.system, result.chosen, set(result.calls)) == ("skill", True, {1.0})


def test_a_router_that_knows_fewer_arms_than_the_table_finds_its_columns() -> None:
    result = routed(TABLE, "skill", Judge((Arm("law"),), [[1.0]] * 5), QUESTIONS)  # type: ignore[arg-type]

    assert result.right.tolist() == single(TABLE, "law").right.tolist()


def test_chance_is_the_same_every_time_and_stays_within_its_pool() -> None:
    big = table([("2", "3", "3")] * 50)

    first, again = at_random(big, ("base", "law")), at_random(big, ("base", "law"))

    assert first.tokens.tolist() == again.tokens.tolist()
    assert set(first.tokens) == {10.0, 30.0}


@pytest.mark.parametrize("right", [[0.0] * 4, [1.0] * 4, [0.0, 1.0, 1.0, 1.0], [0.5]])
def test_an_interval_lies_in_zero_to_one_around_the_accuracy(right: list[float]) -> None:
    ones = np.ones(len(right))

    found = row(Result("x", np.array(right), ones, ones, ones), "all", range(len(right)))

    assert 0 <= found.low <= found.accuracy <= found.high <= 1
    assert (found.n, found.accuracy) == (len(right), round(float(np.mean(right)), 4))


def test_a_row_counts_the_items_of_its_group_only() -> None:
    found = row(picked(TABLE, "mixed", [0, 1, 2, 0, 0], chosen=True), "dates", [1, 2])

    assert (found.group, found.n, found.accuracy, found.tokens, found.chosen) == ("dates", 2, 1.0, 25.0, True)


def test_json_has_the_common_form_with_null_for_what_is_unknown(tmp_path: Path) -> None:
    rows = [row(single(TABLE, "sums"), "all", range(5)), row(oracle(TABLE, ARMS), "all", range(5))]

    report.write_json(tmp_path / "out.json", "skills", "items.jsonl", rows)

    text = (tmp_path / "out.json").read_text()
    data = json.loads(text)
    assert text.endswith("}\n") and "NaN" not in text
    assert list(data) == ["command", "data", "rows"]
    assert (data["command"], data["data"]) == ("skills", "items.jsonl")
    keys = ["system", "group", "n", "accuracy", "low", "high", "calls", "tokens", "seconds", "chosen"]
    assert [list(each) for each in data["rows"]] == [keys, keys]
    assert (data["rows"][0]["calls"], data["rows"][0]["tokens"], data["rows"][0]["seconds"]) == (1.0, 20.0, 2.0)
    assert [data["rows"][1][key] for key in ("calls", "tokens", "seconds")] == [None] * 3


def test_the_table_shows_per_cents_marks_what_was_fixed_and_dashes_what_is_unknown() -> None:
    rows = [
        Row("skill", "dates", 2, 0.5, 0.0, 1.0, 1.0, 20.0, 1.0, True),
        Row("skill", "all", 5, 0.6, 0.2, 1.0, 1.0, 20.4, 1.0, True),
        Row("oracle", "all", 5, 0.8, 0.4, 1.0, None, None, None, False),
    ]

    head, first, second = report.table(rows, ["dates", "all"])

    assert head.split() == ["system", "dates", "all", "interval", "calls", "tokens", "seconds"]
    assert first.split() == ["skill", "*", "50.0", "60.0", "[20.0,", "100.0]", "1.0", "20", "1.00"]
    assert second.split() == ["oracle", "-", "80.0", "[40.0,", "100.0]", "-", "-", "-"]
    assert len({len(line) for line in (head, first, second)}) == 1


def test_a_gap_is_paired_by_question_and_told_in_points() -> None:
    at = [0, 1, 4]
    one, other = single(TABLE, "base"), single(TABLE, "sums")

    found = gap(one, other, at)
    [line] = report.gaps([found])

    assert (found.system, found.other, found.mean) == ("expert:base", "expert:sums", pytest.approx(1 / 3))
    assert found.low < found.mean < found.high
    assert line.split()[:4] == ["expert:base", "-", "expert:sums", "+33.3"]


@pytest.mark.parametrize(
    ("draft", "found"),
    [
        (Draft("", "So it is 2.", "stop"), ("2", 1.0)),
        (Draft("", "So it is 3.", "stop"), ("3", 0.0)),
        (Draft("", "No idea.", "stop"), (None, 0.0)),
        (Draft("", "So it is 2.", "length"), (None, 0.0)),
        (Draft("", "So it is 2.", "error", error=Failure("timeout", "too slow")), (None, 0.0)),
    ],
)
def test_what_failed_or_was_cut_off_is_wrong_whatever_it_says(draft: Draft, found: tuple[str | None, float]) -> None:
    assert judge(draft, item("1")) == found


def test_a_text_is_right_if_an_alternative_stands_in_what_was_said() -> None:
    draft = Draft("", "The capital is Paris.", "stop")

    assert judge(draft, item("1", "Lyon|Paris", "text"))[1] == 1.0
    assert judge(draft, item("1", "Lyon", "text"))[1] == 0.0
