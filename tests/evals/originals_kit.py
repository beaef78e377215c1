"""What the tests of importers share: results of MMLU-Pro in their real forms, and what was imported."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

from composer.recorded import Recorded, read_folder
from evals.tasks.originals import main

OPTIONS = ["red", "green", "blue", "white"]


def mmlu_row(number: int, reply: str | None, *, key: str = "model_outputs", **other: Any) -> dict[str, Any]:
    """A row of MMLU-Pro's results. Its `pred` is wrong on purpose: nobody may trust it."""
    return {
        "question_id": number,
        "question": f"Which colour has number {number}?",
        "options": OPTIONS,
        "answer": "B",
        "answer_index": 1,
        "cot_content": "",
        "category": "physics" if number % 2 else "law",
        "src": "ori_mmlu",
        "pred": "D",
        key: reply,
        **other,
    }


def mmlu_results(folder: Path) -> Path:
    """Three models in three of the forms: a zip, a JSON file, a folder with a file per subject."""
    results = folder / "eval_results"
    (results / "gpt4o").mkdir(parents=True)
    first = [mmlu_row(n, "We think. The answer is (B)." if n % 3 else "I do not know.") for n in range(8)]
    with zipfile.ZipFile(results / "model_outputs_Meta-Llama-3_1-8B_5shots.zip", "w") as archive:
        archive.writestr("model_outputs_Meta-Llama-3_1-8B_5shots.json", json.dumps(first))
        archive.writestr("__MACOSX/._model_outputs.json", b"\0\1")
    second = [mmlu_row(n, "The answer is C.") for n in range(7)]  # question 7 is missing
    write_json(results / "model_outputs_gemma-7b_5shots.json", second)
    third = [mmlu_row(n, "**Answer: B**", key="response") for n in (1, 3, 5, 7)]
    write_json(results / "gpt4o" / "physics_result.json", third)
    write_json(results / "gpt4o" / "physics_summary.json", {"physics": {"acc": 1.0}})
    return results


def write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def imported(kind: str, source: Path, out: Path) -> Recorded:
    assert main([kind, str(source), str(out)]) == 0
    return read_folder(out)


def cells(record: Recorded) -> dict[tuple[str, str], tuple[str | None, float]]:
    """(question id, model) -> (answer, score)."""
    own = record.outcomes
    return {
        (record.ids[question], own.arms[arm].name): (own.answer[i], float(own.score[i]))
        for i, (question, arm) in enumerate(zip(own.question, own.arm, strict=True))
    }
