"""Importers of public originals, on small files in the originals' real form; MMLU-Pro has a file of its own."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from originals_kit import cells, imported, mmlu_results, write_json

from composer.recorded import read_routerbench
from evals.tasks.originals import main
from evals.tasks.originals_readers import literal


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
