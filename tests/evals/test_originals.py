"""Importers of public originals, on small files in the originals' real form."""

from __future__ import annotations

import csv
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from composer.recorded import Recorded, read_folder, read_routerbench
from evals.tasks.originals import main, split_of
from evals.tasks.originals_readers import literal, stated_letter

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


def zeroeval_row(task: str, number: int, question: str, answer: str, reply: Any) -> dict[str, Any]:
    name = {"gsm": "gsm8k-main-test", "crux": "crux-test"}[task]
    return {
        "session_id": f"{name}-#{number}",
        "chat_history": [f"## Question: {question}"],
        "model_input": "n/a",
        "output": reply if isinstance(reply, list) else [reply],
        "generator": "org/model",
        "configs": {"engine": "vllm", "temperature": 0.0},
        "dataset": task,
        "id": f"{name}-#{number}",
        "question": question,
        "answer": answer,
        "source": "source",
        "config": "main",
        "task_type": "qa",
    }


def alpaca_row(question: str, preference: Any, *, reply: str = "Yes.", **other: Any) -> dict[str, Any]:
    return {
        "dataset": "koala",
        "instruction": question,
        "output_1": "Perhaps.",
        "generator_1": "gpt4_1106_preview",
        "output_2": reply,
        "generator_2": "model",
        "annotator": "weighted_alpaca_eval_gpt4_turbo",
        "preference": preference,
        **other,
    }


def routing_row(task: str, metric: str, query: str, truth: Any, model: str, response: Any, **other: Any) -> str:
    row = {
        "task_name": task,
        "query": query,
        "ground_truth": truth,
        "metric": metric,
        "choices": None,
        "task_id": None,
        "model_name": model,
        "response": response,
        "token_num": 10,
        "input_tokens": 8,
        "output_tokens": 2,
        "response_time": 0.5,
        "api_key_used": "",
        "performance": 0.0,
        "embedding_id": 3,
        "user_id": None,
        "fig_id": None,
        **other,
    }
    return json.dumps(row)


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


# --- MMLU-Pro


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


# --- ZeroEval


def test_zeroeval_answers_are_read_out_of_the_json_of_the_reply(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "result_dirs"
    replies = [
        '```json\n{\n "reasoning": "9 * $2\nis 18",\n "answer": "$18"\n}\n```',
        'Here it is: {"reasoning": "the \\"answer\\": 3", "answer": 1800}',
        '{"reasoning": "long", "answer": "3 * 6 = 18 minutes"}',
        '{"reasoning": "broken, "answer": 18 eggs}',
        "#### 18",
        "I cannot tell.",
    ]
    rows = [zeroeval_row("gsm", n, f"How many eggs {n}?", "# 18", reply) for n, reply in enumerate(replies)]
    write_json(results / "gsm" / "a.json", [*rows, zeroeval_row("gsm", 9, "Q?", "# 18", [])])
    golds = ["[(4, 1), (2, 3)]", "'ab'", "{'x': 1, 'y': 2}", "{1}", "True"]
    said = ['"[(4,1),(2, 3)]"', '"ab"', "\"{'y': 2, 'x': 1}\"", "{1, 2}}", "true"]
    rows = [
        zeroeval_row("crux", n, f"assert f({n}) == ??", gold, f'{{"reasoning": "so", "answer": {value}')
        for n, (gold, value) in enumerate(zip(golds, said, strict=True))
    ]
    write_json(results / "crux" / "b.json", [*rows, zeroeval_row("crux", 7, "assert g() == ??", "1", "It is 1.")])
    write_json(results / "gsm.summary.json", [])

    record = imported("zeroeval", tmp_path, tmp_path / "out")

    found, told = cells(record), capsys.readouterr().err
    assert [found[f"gsm8k:{n}", "a"] for n in range(6)] == [
        ("18", 1.0),
        ("1800", 0.0),
        ("18", 1.0),
        ("18", 1.0),
        ("18", 1.0),
        (None, 0.0),
    ]
    assert [found[f"cruxeval_o:{n}", "b"] for n in range(5)] == [
        ("[(4, 1), (2, 3)]", 1.0),
        ("'ab'", 1.0),
        ("{'x': 1, 'y': 2}", 1.0),
        ("{1, 2}", 0.0),
        ("True", 1.0),
    ]
    assert found["cruxeval_o:7", "b"] == (None, 0.0)
    assert "gsm/a.json: `output` is no list of texts (1 rows: 7)" in told
    assert f"b: no reply; it is in {results / 'crux' / 'b.json'}" in told
    assert set(record.benchmark) == {"gsm8k", "cruxeval_o"}


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("[1,2]", "[1, 2]"),
        ('"ab"', "'ab'"),
        ("  ab ", "'  ab '"),
        ("", "''"),
        ("(1,)", "(1,)"),
        ("6,8", "'6,8'"),
        ("{'b', 'a'}", "{'a', 'b'}"),
        ("{2: [], 1: ()}", "{1: (), 2: []}"),
        ("'\\d'", "'\\\\d'"),
        ("[" * 500, repr("[" * 500)),
        ("0x" + "f" * 9000, repr("0x" + "f" * 9000)),
    ],
)
def test_a_literal_has_one_form(text: str, canonical: str) -> None:
    assert literal(text) == canonical


# --- AlpacaEval


def test_alpaca_eval_marks_are_preferences_over_the_reference(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    inside = Path("weighted_alpaca_eval_gpt4_turbo", "annotations.json")
    rows = [
        alpaca_row("Tell me.", 1.75, reply="Four"),
        alpaca_row("Tell him.", 1.0),
        alpaca_row("Tell her.", None),
        alpaca_row("Tell us.", float("nan")),
        alpaca_row("Tell them.", 2.0, generator_1="another"),
        alpaca_row("Half a pair: \ud83d", 2.0),
    ]
    write_json(tmp_path / "results" / "vicuna-7b" / inside, rows)
    write_json(tmp_path / "results" / "older" / "alpaca_eval_gpt4" / "annotations.json", rows)

    record = imported("alpaca_eval", tmp_path / "results", tmp_path / "out")

    told = capsys.readouterr().err
    assert record.outcomes.score.tolist() == [0.75, 0.0, 1.0]
    assert record.outcomes.length.tolist() == [4, 4, 4]
    assert record.text == ("Tell me.", "Tell him.", "Half a pair: ?")
    assert set(record.category) == {"koala"} and not record.voted
    assert "1 of 2 folders have no weighted_alpaca_eval_gpt4_turbo/annotations.json: older" in told
    assert "`preference` is None, expected a number from 1 to 2 (1 rows: 3)" in told
    assert "`preference` is nan" in told and "`generator_1` is not gpt4_1106_preview (1 rows: 5)" in told


# --- LLMRouter


def test_llmrouter_is_marked_again_where_answers_can_be_extracted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    choices = "{'text': ['red', 'green'], 'labels': ['A', 'B']}"
    numbered = json.dumps({"text": ["red", "green"], "label": ["1", "2"]})
    lines = [
        routing_row("mmlu", "em_mc", "Which?", "B", "small", "The answer is (B)", choices=choices),
        routing_row("mmlu", "em_mc", "Which?", "B", "large", "(A)", choices=json.dumps(choices), performance=1.0),
        routing_row("gsm8k", "GSM8K", "How many?", "2 + 2 = 4\n#### 4", "small", "So it is 4."),
        routing_row("mbpp", "code_eval", "Write it.", ["assert f()"], "small", "[BEGIN]", performance=1.0),
        routing_row("mbpp", "code_eval", "Write it.", ["assert f()"], "large", "ERROR: timeout"),
        routing_row("math", "MATH", "Solve.", "\\boxed{1}", "large", "\\boxed{1}", performance=1.5),
        routing_row("arc", "em_mc", "Where?", "1", "small", "(1)", choices=numbered),
        routing_row("chat", "em", [{"role": "user"}], "x", "small", "x"),
        "{broken",
    ]
    data = tmp_path / "example_data"
    (data / "routing_data").mkdir(parents=True)
    (data / "routing_data" / "default_routing_train_data.jsonl").write_text("\n".join([*lines, ""]), encoding="utf-8")
    prices = {"small": {"input_price": 0.2, "output_price": 0.4}, "large": {"input_price": "free"}}
    write_json(data / "llm_candidates" / "default_llm.json", prices)

    record = imported("llmrouter", data, tmp_path / "out")

    told = capsys.readouterr().err
    names = dict(zip(record.ids, record.category, strict=True))
    assert {(names[name], model): cell for (name, model), cell in cells(record).items()} == {
        ("mmlu", "small"): ("B", 1.0),
        ("mmlu", "large"): ("A", 0.0),
        ("gsm8k", "small"): ("4", 1.0),
        ("mbpp", "small"): (None, 1.0),
    }
    assert sorted(record.options) == [0, 0, 2]
    first = (0.2 * len("Which?\nA) red\nB) green") + 0.4 * len("The answer is (B)")) / 4 / 1e6
    assert record.outcomes.cost[0] == pytest.approx(first) and np.isnan(record.outcomes.cost[1])
    for reason in [
        "the call failed, there is no reply (1 rows: 5)",
        "`performance` is 1.5, expected a number from 0 to 1 (1 rows: 6)",
        "the options' labels are not A, B, C … (1 rows: 7)",
        "`query` is no text (1 rows: 8)",
        "the line is no JSON object (1 rows: 9)",
        "no price of large: `input_price` is free",
    ]:
        assert reason in told


# --- RouterBench


def test_routerbench_keeps_scores_and_costs_through_the_parquet_form(tmp_path: Path) -> None:
    path = tmp_path / "routerbench_0shot.csv"
    header = ["sample_id", "prompt", "eval_name", "gpt", "yi", "gpt|model_response", "yi|model_response"]
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow([*header, "gpt|total_cost", "yi|total_cost", "oracle_model_to_route_to"])
        table.writerow(["mmlu.1", "['Please answer.', 'Which?']", "mmlu", 1.0, 0.0, "['A']", "", 7.5e-05, 2e-06, "gpt"])
        table.writerow(["mbpp.2", "Write it.", "mbpp", "", 0.25, "", "['def f']", "", 4e-06, "yi"])
        table.writerow(["mbpp.3", "write  it.", "mbpp", 0.5, 0.5, "['x']", "['x']", 1e-05, 1e-06, "yi"])

    record = imported("routerbench", path, tmp_path / "out")

    direct = read_routerbench(path)
    assert record.ids == ("mmlu.1", "mbpp.2")  # the third is the second, but for spaces and case
    assert record.text == ("Please answer.\nWhich?", "Write it.")
    assert {key: score for key, (_, score) in cells(record).items()} == {
        ("mmlu.1", "gpt"): 1.0,
        ("mmlu.1", "yi"): 0.0,
        ("mbpp.2", "yi"): 0.25,
    }
    np.testing.assert_allclose(record.outcomes.cost, direct.outcomes.cost[:3], rtol=1e-6)


# --- input that is of no use


@pytest.mark.parametrize("kind", ["alpaca_eval", "llmrouter", "mmlu_pro", "routerbench", "zeroeval"])
@pytest.mark.parametrize("source", ["absent", "empty folder", "file.txt"])
def test_input_of_no_use_ends_with_code_2_and_one_message(
    kind: str, source: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty folder").mkdir()
    (tmp_path / "file.txt").write_text("this is a text\n", encoding="utf-8")

    code = main([kind, str(tmp_path / source), str(tmp_path / "out")])

    told = capsys.readouterr()
    assert code == 2 and not (tmp_path / "out").exists()
    assert str(tmp_path / source) in told.err and "next:" in told.err and told.out == ""


def test_an_out_that_is_a_file_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out").write_text("kept", encoding="utf-8")

    code = main(["mmlu_pro", str(mmlu_results(tmp_path)), str(tmp_path / "out")])

    assert code == 2 and "name a folder" in capsys.readouterr().err
    assert (tmp_path / "out").read_text(encoding="utf-8") == "kept"
