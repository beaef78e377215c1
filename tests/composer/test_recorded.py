"""Recorded answers: the parquet form and RouterBench's CSV, good and bad."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from composer.errors import InputError
from composer.recorded import read_folder, read_pools, read_routerbench, vectors_of
from routers.testing import HashEncoder

QUESTIONS: dict[str, list[Any]] = {
    "question_id": ["q1", "q2", "q3"],
    "benchmark": ["sums", "sums", "words"],
    "category": ["easy", "hard", "easy"],
    "question": ["1 + 1?", "17 * 23?", "A word?"],
    "options": [["1", "2"], None, '["a", "b", "c"]'],
    "split": ["profile", "dev", "profile"],
}
OUTCOMES: dict[str, list[Any]] = {
    "question_id": ["q1", "q2", "q1", "q2", "q3", "q9"],
    "model": ["b", "b", "a", "a", "c", "a"],
    "answer": ["2", None, "2", "391", "b", "1"],
    "correct": [True, False, True, True, True, True],
    "resp_chars": [10, 20, 30, 50, 5, 1],
}


def write(folder: Path, questions: dict[str, list[Any]], outcomes: dict[str, list[Any]], name: str = "set") -> Path:
    plain = {
        **questions,
        "options": [
            json.dumps(value) if isinstance(value, list) else value
            for value in questions.get("options", [None] * len(questions["question_id"]))
        ],
    }
    pq.write_table(pa.table(plain), folder / f"{name}_questions.parquet")
    pq.write_table(pa.table(outcomes), folder / f"{name}_outcomes.parquet")
    return folder


def test_a_folder_is_read_as_one_record(tmp_path: Path) -> None:
    record = read_folder(write(tmp_path, QUESTIONS, OUTCOMES))

    assert record.ids == ("q1", "q2", "q3")
    assert [arm.name for arm in record.outcomes.arms] == ["a", "b", "c"]
    assert record.text[0] == "1 + 1?\nA) 1\nB) 2"  # as an expert is given it
    assert record.options.tolist() == [2, 0, 3]
    assert record.voted
    found = record.outcomes.matrix(3)
    assert found[1].tolist()[:2] == [1.0, 0.0]
    assert np.isnan(found[2, 0])  # nobody ran it; outcomes of an unknown question are left out


def test_a_part_has_the_arms_that_answered_it_and_their_price_there(tmp_path: Path) -> None:
    part = read_folder(write(tmp_path, QUESTIONS, OUTCOMES)).of(["sums"])

    assert [(arm.name, arm.price) for arm in part.outcomes.arms] == [
        ("a", 30.0),
        ("b", 10.0),
    ]  # of the profile: prices choose, too
    assert part.split == ("profile", "dev")
    with pytest.raises(InputError, match="no outcome of c on sums"):
        part.of(["sums"], ["a", "c"])


def test_prices_become_costs(tmp_path: Path) -> None:
    priced = {**OUTCOMES, "price_in_usd_per_mtok": [1.0] * 6, "price_out_usd_per_mtok": [2.0] * 6}

    record = read_folder(write(tmp_path, QUESTIONS, priced))

    cost = record.outcomes.costs(3)
    assert cost[0, 1] == pytest.approx((len("1 + 1?\nA) 1\nB) 2") * 1.0 + 10 * 2.0) / 4 / 1e6)
    assert record.of(["sums"]).outcomes.arms[0].price == pytest.approx(cost[0, 0])


def test_files_of_one_folder_may_hold_different_models(tmp_path: Path) -> None:
    write(tmp_path, QUESTIONS, OUTCOMES)
    other = {**QUESTIONS, "question_id": ["r1", "r2", "r3"], "benchmark": ["other"] * 3}
    scores = {"question_id": ["r1", "r2"], "model": ["a", "z"], "score": [0.25, 0.5]}
    write(tmp_path, other, scores, "zeta")

    record = read_folder(tmp_path)

    assert [arm.name for arm in record.outcomes.arms] == ["a", "b", "c", "z"]
    assert record.outcomes.matrix(6)[3, 0] == 0.25
    assert [arm.name for arm in record.of(["other"]).outcomes.arms] == ["a", "z"]
    assert record.of(["sums"]).voted and not record.of(["other"]).voted


@pytest.mark.parametrize(
    ("questions", "outcomes", "complaint"),
    [
        ({key: value for key, value in QUESTIONS.items() if key != "split"}, OUTCOMES, "no column `split`"),
        (QUESTIONS, {key: value for key, value in OUTCOMES.items() if key != "correct"}, "no column `score` or"),
        ({**QUESTIONS, "question_id": ["q1", "q1", "q3"]}, OUTCOMES, "question 'q1 of sums' comes twice"),
        (QUESTIONS, {"question_id": ["q1"], "model": ["a"], "score": [1.5]}, r"row 0: `score` is '1.5'"),
    ],
)
def test_a_bad_file_is_named_with_its_column(
    tmp_path: Path, questions: dict[str, list[Any]], outcomes: dict[str, list[Any]], complaint: str
) -> None:
    with pytest.raises(InputError, match=complaint) as caught:
        read_folder(write(tmp_path, questions, outcomes))
    assert caught.value.where is not None and str(tmp_path) in caught.value.where


def test_a_folder_without_data_or_a_file_without_its_pair_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no"):
        read_folder(tmp_path)
    write(tmp_path, QUESTIONS, OUTCOMES)
    (tmp_path / "set_outcomes.parquet").unlink()
    with pytest.raises(InputError, match="has no outcomes"):
        read_folder(tmp_path)
    (tmp_path / "set_outcomes.parquet").write_bytes(b"no parquet")
    with pytest.raises(InputError, match="cannot be read"):
        read_folder(tmp_path)


def test_pools_name_benchmarks_and_models(tmp_path: Path) -> None:
    assert read_pools(tmp_path) == {}
    rows = {"few": {"benchmark": "sums,words", "models": ["a"]}, "all": {"benchmark": "sums", "models": "all"}}
    (tmp_path / "pools.json").write_text(json.dumps(rows))

    assert read_pools(tmp_path) == {"few": (("sums", "words"), ("a",)), "all": (("sums",), None)}

    (tmp_path / "pools.json").write_text('{"few": []}')
    with pytest.raises(InputError, match="no list of pools"):
        read_pools(tmp_path)


HEAD = "sample_id,prompt,eval_name,gpt,gpt|model_response,gpt|total_cost,yi,oracle_model_to_route_to\n"


def test_routerbench_is_read_from_its_csv(tmp_path: Path) -> None:
    path = tmp_path / "routerbench.csv"
    path.write_text(HEAD + 'a.1,"What, then?",arc,1.0,"It is\nso",0.002,0.5,gpt\na.2,And now?,mmlu,0,no,0.001,,yi\n')

    record = read_routerbench(path)

    assert record.text == ("What, then?", "And now?")
    assert record.category == ("arc", "mmlu")
    assert [arm.name for arm in record.outcomes.arms] == ["gpt", "yi"]
    assert record.outcomes.matrix(2)[0].tolist() == [1.0, 0.5]
    assert np.isnan(record.outcomes.matrix(2)[1, 1])
    assert record.outcomes.cost[0] == pytest.approx(0.002)
    assert set(record.split) <= {"profile", "dev"}
    assert not record.voted


@pytest.mark.parametrize(
    ("rows", "complaint"),
    [
        ("x,y\n1,2\n", "a column is missing"),
        (HEAD + "a.1,p,arc,much,r,0.1,1,gpt\n", "`gpt` is 'much'"),
        (HEAD + "a.1,p,arc,1,r,-1,1,gpt\n", r"`gpt\|total_cost` is '-1'"),
        (HEAD + "a.1,p,arc,1,r,0,1,gpt\na.1,p,arc,1,r,0,1,gpt\n", "comes twice"),
    ],
)
def test_a_bad_csv_is_told_with_line_and_column(tmp_path: Path, rows: str, complaint: str) -> None:
    path = tmp_path / "bench.csv"
    path.write_text(rows)
    with pytest.raises(InputError, match=complaint):
        read_routerbench(path)


def test_vectors_are_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COE_CACHE", str(tmp_path))
    asked: list[Sequence[str]] = []

    def encode(texts: Sequence[str]) -> Any:
        asked.append(texts)
        return HashEncoder().encode(texts)

    first = vectors_of(["a", "b"], encode, encoder="e", say=lambda _: None)
    again = vectors_of(["a", "b"], encode, encoder="e", say=lambda _: None)
    vectors_of(["a", "b"], encode, encoder="f", say=lambda _: None)
    next((tmp_path / "vectors").glob("*.npy")).write_bytes(b"torn")
    vectors_of(["a", "b"], encode, encoder="e", say=lambda _: None)
    vectors_of(["a", "b"], encode, encoder="f", say=lambda _: None)

    assert np.array_equal(first, again)
    assert len(asked) == 3  # one per encoder, and one for the torn file
