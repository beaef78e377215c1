"""coe eval contrast: word problems that are right, rows and marks as they are told, and a real run (slow)."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from composer.config import load_settings, packaged_registry
from composer.contrasting import Asked, Tried, Variant
from composer.jsonl import Labelled, Question
from composer.state import Query, State
from composer.types import Draft, Usage
from evals.cli import app
from evals.contrast import GREEDY, ORACLE, ContrastRow, Report, _results, _row, lines, with_contrasts
from evals.metrics import gap
from evals.tasks.wordproblems import wordproblems
from routers.types import Questions


def test_word_problems_are_right_and_splits_are_apart() -> None:
    for one in wordproblems("test", 300):
        numbers = [int(number) for number in re.findall(r"\d+", one.question)]
        answer = int(one.answer)
        assert answer > 0
        a, b, *more = numbers
        if more:
            possible = {a + b - more[0], a * b + more[0], a * b - more[0], b * a + more[0]}
        else:
            possible = {a + b, a - b, a * b}
        assert answer in possible, one
    texts = {split: {one.question for one in wordproblems(split, 200)} for split in ("calibration", "test")}
    assert len(texts["test"]) == 200
    assert len(texts["test"] & texts["calibration"]) < 20
    assert wordproblems("test", 20) == wordproblems("test", 200)[:20]


def asked(answers: Sequence[str]) -> Asked:
    items = [
        Labelled(Question(str(i), f"Question {i}?", (), "number", 1), answer, None, None)
        for i, answer in enumerate(answers)
    ]
    queries = tuple(Query(one.question.id, one.question.text) for one in items)
    texts = tuple(one.question.text for one in items)
    return Asked(
        items,
        Questions(tuple(map(str, range(len(items)))), texts, np.zeros((len(items), 4), np.float32)),
        State.of(queries),
    )


def tried(way: Variant, said: Sequence[Sequence[str]], answers: Sequence[str]) -> Tried:
    drafts = tuple(tuple(Draft("", text, "stop", Usage(3, 1, passes=2)) for text in each) for each in said)
    right = np.array([float(each[0] == answer) for each, answer in zip(said, answers, strict=True)])
    ones = np.ones(len(said))
    return Tried(way, drafts, right, ones.astype(bool), 4 * ones, 2 * ones, ones)


def test_the_best_on_calibration_is_marked_and_samples_are_voted() -> None:
    answers = ["1", "2", "3", "4"]
    found = [
        tried(Variant("sums"), [["1"], ["2"], ["0"], ["0"]], answers),
        tried(Variant("sums", "sums~base", 0.5, 0.1), [["1"], ["2"], ["3"], ["0"]], answers),
        tried(
            Variant("sums", samples=3, temperature=0.7),
            [["0", "1", "1"], ["2", "2", "0"], ["0", "3", "5"], ["4", "0", "0"]],
            answers,
        ),
        tried(Variant("general"), [["0"], ["0"], ["0"], ["4"]], answers),
    ]
    results = _results(asked(answers), found, {GREEDY: 0.0, "base": 12.5})
    told = {result.system: (result.right.tolist(), result.chosen) for result, _ in results}

    assert told[GREEDY] == ([1, 1, 0, 0], False)
    assert told["base"] == ([1, 1, 1, 0], True)
    assert told["sampling, majority of 2"][0] == [0, 1, 0, 1]
    assert told["sampling, majority of 3"][0] == [1, 1, 0, 0]
    assert told[ORACLE][0] == [1, 1, 1, 1]
    rows = [_row(result, "sums", "scripted", one) for result, one in results]
    base = next(row for row in rows if row.system == "base")
    assert (base.partner, base.beta, base.alpha, base.passes, base.engine) == ("base", 0.5, 0.1, 2, "scripted")
    whole = range(4)
    report = Report(tuple(rows), {"sums": tuple(gap(result, results[0][0], whole) for result, _ in results[1:])}, {})
    shown = "\n".join(lines(report))
    assert "base *" in shown and "+25.0" in shown


def test_equal_on_calibration_is_greedy() -> None:
    answers = ["1"]
    found = [tried(Variant("sums"), [["1"]], answers), tried(Variant("sums", "sums~base", 0.5, 0.1), [["1"]], answers)]
    chosen = [
        result.system for result, _ in _results(asked(answers), found, {GREEDY: 0.0, "base": 0.0}) if result.chosen
    ]
    assert chosen == [GREEDY]


def test_every_specialist_has_every_partner() -> None:
    settings = with_contrasts(load_settings(packaged_registry()))
    names = {arm.name for arm in settings.contrasting}
    assert names == {
        f"{arm}~{kind}"
        for arm in ("arithmetic", "extraction", "sorting", "units")
        for kind in ("base", "unchosen", "random")
    }


@pytest.mark.slow
def test_a_real_run_writes_rows_in_the_common_form(tmp_path: Path) -> None:
    out = tmp_path / "rows.json"
    done = CliRunner().invoke(
        app, ["contrast", "--benchmark", "arithmetic,reading", "--n", "8", "--betas", "0.5", "--json", str(out)]
    )
    assert done.exit_code == 0, done.output
    told = json.loads(out.read_text())
    rows = [ContrastRow(**row) for row in told["rows"]]
    assert {row.group for row in rows} == {"arithmetic", "reading"}
    assert {row.partner for row in rows} == {None, "base", "unchosen", "random", "unread"}
    assert sum(row.chosen for row in rows) == 2
