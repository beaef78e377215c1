"""Rows that ask for programs, from file to answer, profile and outcomes: run only where that is allowed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scripted import ONE, THREE, Scripted

from composer.answers import trial
from composer.errors import InputError
from composer.jsonl import Labelled, Question
from composer.learning.graded import from_runs
from composer.pipeline import Pipeline
from composer.profiling import profile_file
from composer.running.batch import run_file
from composer.types import Request

RIGHT, WRONG = "def add(a, b):\n    return a + b", "def add(a, b):\n    return 7"
TESTS = ["assert add(1, 2) == 3", "assert add(0, 0) == 0"]
CODE = {"id": "add", "question": "Write add(a, b).", "tests": TESTS}
SUM = {"id": "sum", "question": "1 + 1?", "answer": "2", "kind": "number"}
ALLOWED = (
    f"{ONE}pipeline:\n  - use: decide\n  - use: generate\n  - {{use: verify, options: {{run_code: true}}}}\n"
    "  - use: aggregate\n"
)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scripted:
    return Scripted(tmp_path, monkeypatch)


def write(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def say(request: Request) -> str:
    """`general` and `law` write a program that fails; `sums` one that passes."""
    if request.parent == "sum":
        return "It is 2."
    return f"```python\n{RIGHT if request.arm == 'sums' else WRONG}\n```"


def traced(pipeline: Pipeline, run_id: str) -> list[dict[str, Any]]:
    with pipeline:
        return list(pipeline.complete(pipeline.store.traces(run_id)))


def asked(bench: Scripted) -> int:
    return sum(len(batch) for engine in bench.engines for batch in engine.batches)


# Runs


@pytest.mark.parametrize(
    ("registry", "verdicts", "status"), [(ONE, [], "ok"), (ALLOWED, ["failed", "failed"], "degraded")]
)
def test_a_run_tries_programs_only_where_its_registry_allows_it(
    bench: Scripted, tmp_path: Path, registry: str, verdicts: list[str], status: str
) -> None:
    pipeline = bench.pipeline(registry, say)

    done = run_file(pipeline, write(tmp_path / "in.jsonl", CODE), tmp_path / "out.jsonl")

    row = json.loads((tmp_path / "out.jsonl").read_text())
    assert (row["answer"], row["status"]) == (WRONG, status)
    assert [draft["verdicts"] for draft in traced(pipeline, done.run_id)[0]["drafts"]] == [verdicts]


def test_other_tests_make_it_another_run(bench: Scripted, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"

    one = run_file(bench.pipeline(ALLOWED, say), write(tmp_path / "in.jsonl", CODE), out)
    two = run_file(bench.pipeline(ALLOWED, say), write(tmp_path / "in.jsonl", CODE | {"tests": TESTS[:1]}), out)

    assert one.run_id != two.run_id
    assert (two.drafts, two.cached) == (1, 1)


# Profiles


def test_programs_that_may_not_be_run_are_refused_before_anybody_is_asked(bench: Scripted, tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", SUM, CODE)

    with pytest.raises(InputError, match=r"question 'add' asks for a program.*not allowed") as caught:
        profile_file(bench.pipeline(answer=say), source, None)

    assert caught.value.where == f"{source}, line 2"
    assert caught.value.remedy == "allow it with --run-code, or leave out the rows of kind code"
    assert (asked(bench), bench.encoded) == (0, [])


def test_programs_that_cannot_be_run_here_are_refused_before_anybody_is_asked(
    bench: Scripted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial, "_CHILD", tmp_path / "nowhere.py")

    with pytest.raises(InputError, match="one that does nothing failed") as caught:
        profile_file(bench.pipeline(answer=say), write(tmp_path / "in.jsonl", CODE), None, run_code=True)

    assert caught.value.remedy == "leave out the rows of kind code"
    assert asked(bench) == 0


def test_a_program_that_is_never_asked_for_needs_no_leave(bench: Scripted, tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", SUM, CODE | {"split": "test"})

    report = profile_file(bench.pipeline(answer=say), source, None)

    assert (report.held_out, report.profile.table.num_rows) == (1, 3)


def test_where_they_may_be_run_programs_are_graded_by_their_tests(bench: Scripted, tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", SUM, CODE)

    report = profile_file(bench.pipeline(THREE, say), source, None, run_code=True)

    cells = {(row["question"], row["arm"]): row["score"] for row in report.profile.table.to_pylist()}
    assert cells == {
        **{("sum", arm): 1.0 for arm in ("general", "sums", "law")},
        **{("add", "general"): 0.0, ("add", "sums"): 1.0, ("add", "law"): 0.0},
    }
    assert report.failed == 0


def test_a_program_that_could_not_be_tried_after_all_is_unobserved_and_told(
    bench: Scripted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def say_and_break(request: Request) -> str:
        monkeypatch.setattr(trial.tempfile, "tempdir", str(tmp_path / "gone"))
        return say(request)

    source = write(tmp_path / "in.jsonl", SUM, CODE)

    report = profile_file(bench.pipeline(answer=say_and_break), source, tmp_path / "mine", run_code=True)

    assert {row["question"] for row in report.profile.table.to_pylist()} == {"sum"}
    assert report.failed == 3


# Outcomes of runs


def outcomes(traces: Sequence[dict[str, Any]], *, run_code: bool) -> list[list[float]]:
    labelled = [
        Labelled(Question("add", "Write add(a, b).", (), "code", 1, tests=tuple(TESTS)), "", "code", None),
        Labelled(Question("sum", "1 + 1?", (), "number", 2), "2", "sums", None),
    ]
    return np.round(from_runs(traces, labelled, run_code=run_code).outcomes.matrix(2), 2).tolist()


def draft(arm: str, text: str) -> dict[str, Any]:
    return {"name": arm, "sample": 0, "draft": text, "stop": "stop", "error": None}


TRACES = [
    {"question": "Write add(a, b).", "drafts": [draft("a", RIGHT), draft("b", WRONG)]},
    {"question": "1 + 1?", "drafts": [draft("a", "3"), draft("b", "2")]},
]


def test_programs_of_runs_are_graded_where_they_may_be_run() -> None:
    assert outcomes(TRACES, run_code=True) == [[1.0, 0.0], [0.0, 1.0]]


def test_programs_of_runs_that_may_not_be_run_are_refused_with_their_line() -> None:
    with pytest.raises(InputError, match="question 'add' asks for a program") as caught:
        outcomes(TRACES, run_code=False)

    assert caught.value.where == "the labelled questions, line 1"


def test_programs_that_no_run_was_asked_for_need_no_leave() -> None:
    assert outcomes(TRACES[1:], run_code=False)[1] == [0.0, 1.0]
