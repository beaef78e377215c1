"""`coe eval answers` on a simulation: chosen beforehand, honest references, a page that opens."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from browser import opened
from test_routing import record

from composer.errors import InputError
from composer.learning.tune import most_calls
from evals.answers import AnswerReport, evaluate
from evals.recorded import check_calls
from evals.report import answers_table, write_answers_page, write_json
from evals.worth import worth_of_arms


@pytest.fixture(scope="module")
def report() -> AnswerReport:
    found, vectors = record()
    return evaluate(found, vectors, group="sim", calls=("1", "75%", "all"))


def test_one_plan_is_chosen_per_budget_and_keeps_to_it(report: AnswerReport) -> None:
    chosen = [row for row in report.rows if row.chosen]

    assert [row.budget for row in chosen] == ["1", "75%", "all"]
    for row, limit in zip(chosen, (1, 3, 4), strict=True):
        assert row.calls is not None and row.calls <= limit * 1.1
        assert row.aggregator and row.policy
    oracle = next(row for row in report.rows if row.system == "oracle")
    assert all(row.accuracy <= oracle.accuracy for row in report.rows)


def test_what_is_chosen_beats_the_vote_where_specialists_are_outnumbered(report: AnswerReport) -> None:
    [row] = [row for row in report.rows if row.budget == "all"]

    assert row.to_majority is not None and row.to_majority[1] > 0
    assert row.aurc is not None and row.ece is not None and row.ece < 0.15
    assert row.aurc_to_vote_share is not None and row.aurc_to_vote_share[2] < 0


def test_the_page_opens_without_an_error_and_shows_what_is_contested(report: AnswerReport, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    bad = replace(report.contested[0], text="<script>alert(1)</script> & more")

    write_answers_page(path, "data & <b>more</b>", [replace(report, contested=(bad, *report.contested))])

    with opened(path, count=("svg", "details", "table.heat", "tr.chosen")) as (_, seen):
        assert (seen.errors, seen.dialogs) == ([], [])
        assert seen.counts["svg"] == 1 and seen.counts["table.heat"] == 1
        assert seen.counts["details"] == 1 + len(report.contested)
        assert seen.counts["tr.chosen"] == 3


def test_rows_are_written_in_the_common_form_and_as_a_table(report: AnswerReport, tmp_path: Path) -> None:
    write_json(tmp_path / "rows.json", "eval answers", "sim", report.rows)

    told = json.loads((tmp_path / "rows.json").read_text())
    assert told["command"] == "eval answers"
    common = {"system", "group", "n", "accuracy", "low", "high", "calls", "tokens", "seconds", "chosen"}
    assert common | {"aggregator", "policy", "selective_50", "aurc", "ece"} <= told["rows"][0].keys()
    lines = list(answers_table(report.rows))
    assert len(lines) == len(report.rows) + 1
    assert sum(" *" in line for line in lines) == 3


def test_leaving_out_the_arm_that_knows_most_costs_most() -> None:
    found, vectors = record()

    rows = worth_of_arms(found, vectors, group="sim", test_split="dev", say=lambda _: None)

    loss = {row.system: row.to_majority for row in rows}
    assert len(loss) == 4
    specialist = loss["without cooking"]
    assert specialist is not None and specialist[2] < 0


def test_where_only_scores_are_known_every_budget_is_one_call_and_it_is_said() -> None:
    found, vectors = record(300)
    blind = replace(found, voted=False, outcomes=replace(found.outcomes, answer=(None,) * len(found.outcomes.answer)))

    report = evaluate(blind, vectors, group="sim", calls=("1", "all"))

    chosen = [row for row in report.rows if row.chosen]
    assert [(row.budget, row.calls, row.aggregator) for row in chosen] == [("1", 1, "best"), ("all", 1, "best")]
    assert all(row.to_best_single is not None and row.to_best_single[1] > 0 for row in chosen)
    assert all("majority" not in row.system for row in report.rows)
    assert "only scores" in report.notes[0]


@pytest.mark.parametrize(("budget", "calls"), [("1", 1), ("9", 4), ("50%", 2), ("all", 4)])
def test_a_budget_is_a_number_a_share_or_all(budget: str, calls: float) -> None:
    assert most_calls(budget, 4) == calls
    assert check_calls(budget, shares=True) == [budget]


def test_shares_are_refused_where_nobody_can_use_them() -> None:
    with pytest.raises(InputError, match="75%"):
        check_calls("75%")
