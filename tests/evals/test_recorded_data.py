"""The harness on recorded answers of real models, found through COE_DATA or beside the checkout."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from composer.cli import app

_HERE = Path(__file__).resolve()
_PLACES = (
    [Path(os.environ["COE_DATA"])]
    if "COE_DATA" in os.environ
    else [parent / "shared" / "data" for parent in _HERE.parents[2:5]]
)
DATA = next((place for place in _PLACES if list(place.glob("*_questions.parquet"))), None)

needs_data = pytest.mark.skipif(DATA is None, reason="no recorded answers: set COE_DATA to their folder")


@needs_data
def test_small_models_on_real_questions_are_routed_no_worse_than_the_best_of_them(tmp_path: Path) -> None:
    file = tmp_path / "rows.json"

    done = CliRunner().invoke(
        app, ["eval", "routers", "--data", str(DATA), "--pool", "small5", "--calls", "1,all", "--json", str(file)]
    )

    assert done.exit_code == 0, done.output
    rows = json.loads(file.read_text())["rows"]
    chosen = [row for row in rows if row["chosen"]]
    assert [row["system"].split(":")[0] for row in chosen[:2]] == ["chosen for 1", "chosen for all"]
    for row in chosen:
        assert row["to_best_single"][2] >= 0, row  # not below the best single model by more than the interval
    [control] = [row for row in rows if row["system"].startswith("control")]
    assert control["to_best_single"][1] <= 0 <= control["to_best_single"][2]
    [oracle] = [row for row in rows if row["system"] == "oracle"]
    assert all(row["accuracy"] <= oracle["accuracy"] for row in rows)
    assert {row["n"] for row in rows} == {oracle["n"]}


@needs_data
def test_small_models_that_answer_together_are_no_worse_than_the_best_and_know_when_they_know(tmp_path: Path) -> None:
    file, page = tmp_path / "rows.json", tmp_path / "page.html"

    done = CliRunner().invoke(
        app,
        ["eval", "answers", "--data", str(DATA), "--pool", "small5", "--json", str(file), "--html", str(page)],
    )

    assert done.exit_code == 0, done.output
    told = json.loads(file.read_text())
    chosen = {row["budget"]: row for row in told["rows"] if row["chosen"]}
    assert list(chosen) == ["1", "3", "50%", "75%", "all"]
    for budget, row in chosen.items():
        assert row["to_best_single"][2] >= 0, row
        assert row["calls"] <= {"1": 1, "3": 3, "50%": 2.5, "75%": 3.75, "all": 5}[budget] * 1.1
    whole = chosen["all"]
    assert whole["selective_50"] > whole["accuracy"] + 0.1  # the surer half is right much more often
    assert whole["ece"] < 0.15 and whole["caught_20"] > 0.5
    assert "most contested questions" in page.read_text()
