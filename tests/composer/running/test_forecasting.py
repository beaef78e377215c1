"""What a file will cost is said before anything is asked, and beside it what it cost."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from scripted import THREE, Scripted
from typer.testing import CliRunner

from composer.cli import app
from composer.errors import MemoryBudgetError
from composer.pipeline import Pipeline
from composer.running.batch import run_file
from composer.running.forecasting import preview_file
from composer.types import Request

STOPPING = (
    f"{THREE}pipeline:\n- {{use: decide, options: {{policy: agreeing}}}}\n- use: generate\n- use: verify\n"
    "- {use: aggregate, options: {by: majority}}\n"
)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scripted:
    return Scripted(tmp_path, monkeypatch)


def rows(path: Path, n: int = 5) -> Path:
    path.write_text("".join(json.dumps({"id": str(i), "question": f"question {i}"}) + "\n" for i in range(n)))
    return path


def test_a_file_is_foretold_without_asking_anybody(bench: Scripted, tmp_path: Path) -> None:
    preview = preview_file(bench.pipeline(), rows(tmp_path / "in.jsonl"))

    assert not bench.engines
    assert (preview.queries, preview.forecast.calls, preview.forecast.loads) == (5, {"general": 5}, 1)
    assert preview.forecast.seconds is None
    told = "\n".join(preview.lines())
    assert "\n1 load (the fewest possible: 1)" in told and "first drafts" not in told
    assert "5 questions: 5 calls, 0 more are in the store" in told
    assert "coe calibrate" in told
    assert told.count("\nquestion ") == 3 and "\nroutes of the first 3 of 5 questions\n" in told
    assert json.loads(json.dumps(preview.as_dict()))["calls"] == {"general": 5}


def test_where_all_routes_are_shown_nothing_is_said_of_the_first(bench: Scripted, tmp_path: Path) -> None:
    assert "of the first" not in "\n".join(preview_file(bench.pipeline(), rows(tmp_path / "in.jsonl", 3)).lines())


def test_what_the_store_has_costs_nothing(bench: Scripted, tmp_path: Path) -> None:
    source = rows(tmp_path / "in.jsonl")
    done = run_file(bench.pipeline(), source, tmp_path / "out.jsonl")
    preview = preview_file(bench.pipeline(), source)

    assert (preview.forecast.calls, preview.forecast.stored, preview.forecast.loads) == ({}, {"general": 5}, 0)
    assert (done.predicted_loads, done.loads, done.predicted_seconds) == (1, 1, None)
    assert done.asking_seconds is not None and done.bottleneck is not None


def test_what_a_policy_may_ask_later_is_told(bench: Scripted, tmp_path: Path) -> None:
    preview = preview_file(bench.pipeline(STOPPING), rows(tmp_path / "in.jsonl"))

    assert sum(preview.forecast.calls.values()) + preview.more == 15
    assert f"the policy may ask up to {preview.more} calls more" in list(preview.lines())


def test_what_cannot_fit_is_refused_before_anything_is_asked(bench: Scripted, tmp_path: Path) -> None:
    pipeline = bench.pipeline()
    small = Pipeline(pipeline.settings, store=tmp_path / "other.sqlite", memory=1000)

    with pytest.raises(MemoryBudgetError, match="small"):
        preview_file(small, rows(tmp_path / "in.jsonl"))
    assert not bench.engines


def test_the_command_tells_it_as_text_and_as_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    source = tmp_path / "in.jsonl"
    source.write_text('{"id": 1, "question": "What is 20 + 13?"}\n{"id": 2, "question": "Sort: pear, fig"}\n')
    command = ["run", str(source), "--out", str(tmp_path / "out.jsonl"), "--dry-run"]

    text, data = CliRunner().invoke(app, command), CliRunner().invoke(app, [*command, "--json"])

    assert text.exit_code == data.exit_code == 0
    assert "2 questions: 2 calls" in text.stdout
    assert json.loads(data.stdout)["loads"] == 1
    assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.parametrize(("threads", "cores", "at_once"), [(1, 4, 4), (2, 4, 2), (8, 4, 1)])
def test_as_many_models_compute_at_once_as_their_threads_fit_the_processor(
    bench: Scripted, monkeypatch: pytest.MonkeyPatch, threads: int, cores: int, at_once: int
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(cores)))
    pipeline = bench.pipeline(THREE.replace("memory: 1MiB", f"memory: 1MiB, threads: {threads}, replicas: 3"))

    assert pipeline.at_once == at_once
    assert pipeline.registry.replicas("small") == 3


SETTLERS = {
    "merge": "use: merge, options: {by: general}",
    "judge": "use: judge, options: {by: general}",
    "score": "use: score, options: {by: general}",
    "discuss": "use: discuss, options: {rounds: 2, k: 2}",
    "refine": "use: refine, options: {by: general, tries: 2}",
    "search": "use: search, options: {paths: 4, beam: 2, rounds: 2, by: general}",
}


@pytest.mark.parametrize(("name", "calls"), [*zip(SETTLERS, (1, 6, 12, 4, 4, 29), strict=True)])
def test_what_settling_may_cost_is_told_as_an_upper_bound_and_holds(
    bench: Scripted, tmp_path: Path, name: str, calls: int
) -> None:
    text = (
        f"{THREE.replace('{model: small', '{model: small, answers: number')}pipeline:\n- {{use: decide, options: {{k: 3}}}}\n"
        f"- use: generate\n- use: verify\n- {{{SETTLERS[name]}}}\n- {{use: aggregate, options: {{by: majority}}}}\n"
    )

    def differing(request: Request) -> str:
        fixed = {"judge": "A", "score": "3", "check": "WRONG"}
        return fixed.get(request.role) or f"It is {int.from_bytes(request.id.encode(), 'big') % 9973}."

    source = rows(tmp_path / "in.jsonl")
    preview = preview_file(bench.pipeline(text, differing), source)
    drafts = sum(preview.forecast.calls.values())
    run_file(bench.pipeline(text, differing), source, tmp_path / "out.jsonl")
    made = sum(len(batch) for engine in bench.engines for batch in engine.batches)

    assert preview.settling == {name: 5 * calls} == preview.as_dict()["settling_calls"]
    assert (
        f"`{name}` may ask up to {5 * calls} calls more: an upper bound, fewer where answers agree" in preview.lines()
    )
    assert 0 < made - drafts <= 5 * calls
    assert any(line.endswith(" for the first drafts, without what may be asked after them") for line in preview.lines())


def test_a_plan_may_cost_six_times_what_follows_it(bench: Scripted, tmp_path: Path) -> None:
    planner = "  planner: {model: small, writes: plans}\nencoder:"
    text = THREE.replace("encoder:", planner) + (
        "pipeline:\n- {use: decide, options: {k: 2}}\n- {use: plan, options: {planner: planner}}\n- use: generate\n- use: verify\n"
        "- {use: merge, options: {by: general}}\n- use: aggregate\n"
    )
    preview = preview_file(bench.pipeline(text), rows(tmp_path / "in.jsonl", 2))

    assert preview.settling == {"plan": 2 * (1 + 6 * (2 + 1)), "merge": 2}
