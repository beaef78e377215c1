"""`coe eval live` on scripted experts: what is chosen, what is counted, and that a second run asks nobody again."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from composer.settings.strategy import StrategySpec
from composer.types import Request
from evals.live import CONSISTENT, MOST, LiveRow, Report, measure
from evals.live_questions import BBH, TUNED, TWO, questions
from evals.live_systems import (
    ENSEMBLE,
    JUDGED,
    MERGED,
    PLANNED,
    REFINED,
    ROUTED,
    SCORED,
    VOTE,
    with_programs,
    with_systems,
)
from evals.live_table import lines
from evals.tasks import bbh
from tests.composer.scripted import MODEL, Scripted

REGISTRY = (
    f"{MODEL}experts:\n  general: {{model: small, generalist: true, answers: number, sampling: {{temperature: 0.5}}}}\n"
    "  knows: {model: small, answers: number, system: Know., sampling: {temperature: 0.5}}\n"
    "  planner: {model: small, writes: plans, system: Plan.}\n"
    f"encoder: {{sources: [encoder.onnx], sha256: {'e' * 64}, tokenizer: tokenizer.json}}\n"
)
N = 8


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scripted:
    right = {one.question.text: one.answer for half in ("calibration", "test") for one in questions(TWO, half, 60)}  # type: ignore[arg-type]

    def say(request: Request) -> str:
        prompt = request.streams[0].prompt
        text = prompt if isinstance(prompt, str) else prompt[-1].content
        if request.role == "plan":
            return '{"steps":[]}'
        if request.arm == "knows@code":
            return "0 # and many words " + "more " * 400
        return right.get(text, "0") if request.arm == "knows" else "0"

    bench = Scripted(tmp_path, monkeypatch)
    bench.pipeline(REGISTRY, say)
    return bench


def run(
    bench: Scripted,
    folder: Path,
    *,
    programs: bool = False,
    dear: bool = True,
    group: str = TWO,
    data: Path | None = None,
) -> Report:
    settings = bench.pipeline(REGISTRY).settings
    folder.mkdir(exist_ok=True)
    knows = replace(settings.experts["knows"], strategies=(StrategySpec("code", "Program:"),))
    more = with_programs(replace(settings, experts={**settings.experts, "knows": knows}), "planner")
    too = more if programs else None
    settings = with_systems(settings, "general", "planner")
    kept = {name: own for name, own in settings.pipelines.items() if dear or name != SCORED}
    return measure(replace(settings, pipelines=kept), [group], N, folder, data=data, programs=too)


def test_every_system_has_a_row_and_the_best_single_expert_is_chosen_before_the_test(
    asked: Scripted, tmp_path: Path
) -> None:
    report = run(asked, tmp_path / "kept")
    rows = {row.system: row for row in report.rows}
    assert [row.system for row in report.rows if row.chosen] == ["knows"]
    assert rows["knows"].accuracy == rows["oracle of the experts"].accuracy == 1.0
    assert rows["random expert"].accuracy == pytest.approx(0.5)
    assert {ROUTED, VOTE, MERGED, JUDGED, PLANNED} <= rows.keys()
    assert sum(name.startswith(CONSISTENT) for name in rows) == 2
    assert rows[MERGED].calls == pytest.approx(3.0)  # two that differ, and the merger
    assert rows[PLANNED].calls == pytest.approx(2.0)
    assert rows[VOTE].loads is not None
    assert not any(note.startswith(f"{REFINED}: nobody was asked") for note in report.notes[TWO]), "it was, each time"
    gains = {(gap.system, gap.other): gap for gap in report.gaps[TWO]}
    assert gains["general", "knows"].mean == pytest.approx(-1.0)
    told = "\n".join(lines(report))
    assert "knows *" in told
    assert "best single expert on 4 questions of calibration: knows" in told


def test_an_interrupted_evaluation_goes_on_with_what_was_drawn(asked: Scripted, tmp_path: Path) -> None:
    def drawn() -> int:
        return sum(len(batch) for engine in asked.engines for batch in engine.batches)

    first = run(asked, tmp_path / "kept")
    whole = drawn()
    second = run(asked, tmp_path / "kept")
    assert [(row.system, row.accuracy, row.tokens) for row in first.rows] == [
        (row.system, row.accuracy, row.tokens) for row in second.rows
    ]
    assert 0 < drawn() - whole < whole / 2  # loads and wall are measured again, with nothing in the store


def test_self_consistency_is_as_dear_as_the_dearest_system_or_says_that_it_is_not(
    asked: Scripted, tmp_path: Path
) -> None:
    def consistent(report: Report) -> list[LiveRow]:
        return [row for row in report.rows if row.system.startswith(CONSISTENT)]

    without = run(asked, tmp_path / "without", dear=False)
    report = run(asked, tmp_path / "with", programs=True, dear=False)
    dearest = max(row.tokens or 0 for row in without.rows if not row.system.startswith(("oracle", CONSISTENT)))
    assert all((row.tokens or 0) >= dearest and (row.calls or 0) < MOST for row in consistent(without))
    assert list(report.rows[-2:]) == consistent(report), "they come last"
    [ensemble] = [row for row in report.rows if row.system == ENSEMBLE]
    assert [row.calls for row in consistent(report)] == [MOST, MOST] and (ensemble.tokens or 0) > dearest
    assert sum("more are not drawn" in note and f"{ENSEMBLE} has" in note for note in report.notes[TWO]) == 2
    assert not any("more are not drawn" in note for note in without.notes[TWO])


def test_tasks_that_only_programs_can_do_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, folder = tmp_path / "data", tmp_path / "data" / "benchmarks" / "bbh"
    folder.mkdir(parents=True)
    for task in bbh.TASKS:
        rows = [{"input": f"{task} {place}", "target": str(place)} for place in range(40)]
        if task == "boolean_expressions":
            rows = [{"input": f"{task} {place}", "target": str(place % 2 == 0)} for place in range(40)]
        elif task in {"navigate", "web_of_lies"}:
            rows = [{"input": f"{task} {place}", "target": ("Yes", "No")[place % 2]} for place in range(40)]
        elif task == "sports_understanding":
            rows = [{"input": f"{task} {place}", "target": ("yes", "no")[place % 2]} for place in range(40)]
        (folder / f"{task}.json").write_text(json.dumps({"examples": rows}))

    def say(request: Request) -> str:
        prompt = request.streams[0].prompt
        text = prompt if isinstance(prompt, str) else prompt[-1].content
        if request.role == "plan":
            return '{"steps":[]}'
        counted = request.arm == "knows@code" and "object_counting" in text
        return text.split()[-1] if counted else "A"  # half of those with two options, which is chance

    bench = Scripted(tmp_path, monkeypatch)
    bench.pipeline(REGISTRY, say)
    report = run(bench, tmp_path / "kept", programs=True, dear=False, group=BBH, data=data)
    told = report.notes[BBH]
    assert f"object_counting: knows@code has {TUNED} of {TUNED} on calibration, chance 6%: kept" in told
    assert sum(note.endswith(": left out") for note in told) == len(bbh.TASKS) - 1
    rows = {row.system: row for row in report.rows}
    assert (rows["knows@code"].accuracy, rows["knows"].accuracy, rows["knows"].n) == (1.0, 0.0, N)
    bare = run(bench, tmp_path / "bare", dear=False, group=BBH, data=data)
    assert bare.rows == () and bare.gaps[BBH] == ()
    assert "nothing was measured" in bare.notes[BBH][-1] and len(bare.notes[BBH]) == len(bbh.TASKS) + 1
