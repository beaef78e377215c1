"""`coe eval live` on scripted experts: what is chosen, what is counted, and that a second run asks nobody again."""

from __future__ import annotations

from pathlib import Path

import pytest

from composer.types import Request
from evals.live import CONSISTENT, Report, measure
from evals.live_questions import TWO, questions
from evals.live_systems import JUDGED, MERGED, PLANNED, REFINED, ROUTED, VOTE, with_systems
from evals.live_table import lines
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
        return right.get(text, "0") if request.arm == "knows" else "0"

    bench = Scripted(tmp_path, monkeypatch)
    bench.pipeline(REGISTRY, say)
    return bench


def run(bench: Scripted, folder: Path) -> Report:
    settings = bench.pipeline(REGISTRY).settings
    folder.mkdir(exist_ok=True)
    return measure(with_systems(settings, "general", "planner"), [TWO], N, folder)


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
