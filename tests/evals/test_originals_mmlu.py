"""The importer of MMLU-Pro's results: which letter a reply states, what each model has, and which rows are left out."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from originals_kit import OPTIONS, cells, imported, mmlu_results, mmlu_row, write_json

from evals.tasks.originals import split_of
from evals.tasks.originals_readers import stated_letter


def test_mmlu_pro_is_read_from_zips_files_and_folders_and_its_pred_is_not_trusted(tmp_path: Path) -> None:
    source = mmlu_results(tmp_path)

    record = imported("mmlu_pro", source, tmp_path / "out")

    found = cells(record)
    assert [arm.name for arm in record.outcomes.arms] == ["Meta-Llama-3.1-8B", "gemma-7b", "gpt4o"]
    assert found["mmlupro:1", "Meta-Llama-3.1-8B"] == ("B", 1.0)
    assert found["mmlupro:0", "Meta-Llama-3.1-8B"] == (None, 0.0)
    assert found["mmlupro:1", "gemma-7b"] == ("C", 0.0)
    assert found["mmlupro:7", "gpt4o"] == ("B", 1.0)
    assert ("mmlupro:7", "gemma-7b") not in found
    assert len(record) == 8 and record.voted
    assert set(record.options) == {4} and set(record.category) == {"physics", "law"}
    table = pq.ParquetFile(tmp_path / "out" / "mmlu_pro_questions.parquet").read()
    assert set(table["gold"].to_pylist()) == {"B"} and table["options"][0].as_py() == OPTIONS


def test_the_summary_tells_what_each_model_has_and_lacks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = mmlu_results(tmp_path)

    imported("mmlu_pro", source, tmp_path / "out")

    told = capsys.readouterr().err
    assert "mmlu_pro: 8 questions" in told and "3 models, 19 of 24 cells" in told
    assert "Meta-Llama-3.1-8B: 8 replies, 0 missing, 37.5% without an answer, mean score 0.625" in told
    assert "gemma-7b: 7 replies, 1 missing, 0.0% without an answer, mean score 0.000" in told
    assert "gpt4o: 4 replies, 4 missing" in told


def test_rows_and_files_that_cannot_be_used_are_named_with_the_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "eval_results"
    rows = [
        mmlu_row(0, "The answer is (B)."),
        "a text",
        mmlu_row(1, None),
        mmlu_row(2, "The answer is (B).", options="red"),
        mmlu_row(3, "The answer is (B).", answer="K"),
        mmlu_row(4, "The answer is (B).", question_id=None),
        mmlu_row(0, "The answer is (C)."),
    ]
    write_json(results / "model_outputs_a_5shots.json", rows)
    write_json(results / "model_outputs_b_5shots.json", {"not": "a list"})
    write_json(results / "business_result.json", [])
    (results / "model_outputs_c_5shots.json").write_bytes(b'[{"question_id": 1')
    (results / "model_outputs_d_5shots.zip").write_bytes(b"no zip")
    with zipfile.ZipFile(results / "model_outputs_e_5shots.zip", "w") as archive:
        archive.writestr("readme.txt", "nothing")

    record = imported("mmlu_pro", results, tmp_path / "out")

    told = capsys.readouterr().err
    assert cells(record) == {("mmlupro:0", "a"): ("B", 1.0)}
    for file, reason in [
        ("model_outputs_a_5shots.json", "the row is no object (1 rows: 2)"),
        ("model_outputs_a_5shots.json", "`model_outputs` is missing (1 rows: 3)"),
        ("model_outputs_a_5shots.json", "the options are no list of texts (1 rows: 4)"),
        ("model_outputs_a_5shots.json", "`answer` is no letter of the options (1 rows: 5)"),
        ("model_outputs_a_5shots.json", "`question_id` is missing (1 rows: 6)"),
        ("model_outputs_a_5shots.json", "a second reply of a to the same question (1 rows: 7)"),
        ("model_outputs_b_5shots.json", "is no list of rows"),
        ("business_result.json", "no model in its name"),
        ("model_outputs_c_5shots.json", "is no JSON"),
        ("model_outputs_d_5shots.zip", "cannot be read: File is not a zip file"),
        ("model_outputs_e_5shots.zip", "there is no JSON file in it"),
    ]:
        assert f"{file}: {reason}" in told


def test_files_that_differ_on_a_question_are_settled_by_the_majority(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "eval_results"
    for model in "ab":
        rows = [mmlu_row(0, "The answer is (B)."), mmlu_row(1, "The answer is (B).")]
        write_json(results / f"model_outputs_{model}_5shots.json", rows)
    rows = [mmlu_row(0, "The answer is (B).", answer="A"), mmlu_row(1, "The answer is (B).", options=["x", "y"])]
    write_json(results / "model_outputs_0_5shots.json", rows)

    record = imported("mmlu_pro", results, tmp_path / "out")

    told = capsys.readouterr().err
    assert cells(record)["mmlupro:0", "0"] == ("B", 1.0)
    assert ("mmlupro:1", "0") not in cells(record)
    assert "its question has another text or other options than most have (1 rows: 2)" in told
    assert "1 replies marked by the right answer that most files have" in told


def test_duplicated_questions_are_dropped_and_counted_and_near_duplicates_share_a_side(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = [f"Near duplicate {n}?" for n in range(40)]
    rows = [mmlu_row(n, "The answer is (B).", question=text) for n, text in enumerate(texts)]
    rows += [mmlu_row(100 + n, "B", question=f" {t.upper()}\n", options=["a", "b"]) for n, t in enumerate(texts)]
    rows += [mmlu_row(200 + n, "B", question=f"{t} ") for n, t in enumerate(texts[:3])]
    write_json(tmp_path / "model_outputs_a_5shots.json", rows)

    record = imported("mmlu_pro", tmp_path / "model_outputs_a_5shots.json", tmp_path / "out")

    assert "3 duplicated questions dropped, with 3 replies" in capsys.readouterr().err
    assert len(record) == 80
    assert record.split[:40] == record.split[40:]
    assert set(record.split) == {"profile", "dev"}


def test_about_three_quarters_of_the_questions_are_profile() -> None:
    share = np.mean([split_of(f"Question {n}") == "profile" for n in range(4000)])

    assert 0.72 < share < 0.78


@pytest.mark.parametrize(
    ("reply", "letter"),
    [
        ("Let's think step by step. The answer is (C).", "C"),
        ("The answer is C. Option A is close, and B is not.", "C"),
        ("the correct answer would be: **(D)**", "D"),
        ("First the answer is (A)... no. The final answer is (B).", "B"),
        ("The answer is (B).\n\nQuestion:\nWhat is this?\nOptions: A. x\nAnswer: Well. The answer is (A).", "B"),
        ("So $\\boxed{C}$.", "C"),
        ("The answer is blue", "C"),
        ("The answer is (B).\nThe answer is (", "B"),
        (" (D) ", "D"),
        ("The answer is not among these.", None),
        ("Option A is red, and A it may be.", None),
        ("", None),
        ("The sky is blue, so blue is what we", None),
    ],
)
def test_a_letter_is_read_where_the_reply_states_one(reply: str, letter: str | None) -> None:
    assert stated_letter(reply, tuple(OPTIONS)) == letter
