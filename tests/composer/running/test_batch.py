"""A file of questions to a file of answers: rows, statuses, and what counts as finished."""

from __future__ import annotations

import asyncio
import hashlib
import json
import shutil
import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from composer.budget import Budget, Limits
from composer.config import load_settings
from composer.engines.base import Engine
from composer.engines.scripted import ScriptedEngine
from composer.errors import InputError, MemoryBudgetError, StoreError
from composer.jsonl import DuplicateIds
from composer.pipeline import Pipeline
from composer.places import answers_folder, contrasts_folder, gates_folder, router_folder
from composer.registry.experts import Registry
from composer.running.batch import ask_once, run_file
from composer.running.outputs import row_of
from composer.running.resume import ChangedError
from composer.store import DraftStore
from composer.trace import Routed
from composer.types import Delta, Draft, Failure, Request, Usage
from routers.types import Array

Say = Callable[[Request], str | Draft | Failure]
ROWS = [{"id": "a", "question": "one"}, {"id": "b", "question": "two"}, {"id": "c", "question": "three"}]


class Letters:
    """An encoder whose vectors say nothing."""

    def encode(self, texts: Sequence[str]) -> Array:
        return np.ones((len(texts), 1), dtype=np.float32)


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Say], Pipeline]:
    """Pipelines of one registry without a profile, whose only expert answers from a script."""
    weights = b"weights"
    (tmp_path / "small.gguf").write_bytes(weights)
    (tmp_path / "experts.yaml").write_text(
        f"models:\n  small: {{sources: [small.gguf], sha256: {hashlib.sha256(weights).hexdigest()}, memory: 1MiB}}\n"
        "experts:\n  general: {model: small}\n"
    )

    def made(answer: Say) -> Pipeline:
        def engine(self: Registry, name: str) -> Engine:
            return ScriptedEngine(answer)

        monkeypatch.setattr(Registry, "engine", engine)
        monkeypatch.setattr(Pipeline, "encoder", lambda self: Letters())
        return Pipeline(load_settings(tmp_path / "experts.yaml"), store=tmp_path / "drafts.sqlite")

    return made


Make = Callable[[Say], Pipeline]


def write(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def failing(*ids: str) -> Say:
    return lambda r: Failure("timeout", "too slow") if r.parent in ids else f"answer to {r.parent}"


def finished(tmp_path: Path, run_id: str) -> dict[str, str]:
    """What the store holds as final, id to status."""

    async def look() -> dict[str, str]:
        async with DraftStore.open(tmp_path / "drafts.sqlite") as store:
            return {trace["id"]: trace["status"] for trace in await store.traces(run_id)}

    return asyncio.run(look())


@pytest.mark.parametrize(("status", "shown"), [("ok", "Paris"), ("degraded", "Paris"), ("failed", None)])
def test_an_output_row_has_the_documented_keys(status: str, shown: str | None) -> None:
    route = {"chosen": ["sums", "law"], "scores": {"sums": 1 / 3, "law": 0.1}}
    told = {"answer": "Paris", "status": status, "chosen": "sums", "sure": 0.9, "calibrated": True, "marks": ["border"]}

    assert row_of({"id": "7", "trace_id": "abc", "route": route, **told}) == {
        "id": "7",
        "answer": shown,
        "status": status,
        "experts": ["sums", "law"],
        "score": 0.3333,
        "sure": 0.9,
        "calibrated": True,
        "marks": ["border"],
        "trace_id": "abc",
    }


def test_a_row_of_nobody_has_no_score_and_one_of_an_earlier_version_is_not_sure() -> None:
    told = {"answer": "", "status": "failed", "chosen": None, "route": {"chosen": [], "scores": {}}}

    row = row_of({"id": "7", "trace_id": "abc", **told})

    assert (row["score"], row["sure"], row["calibrated"], row["marks"]) == (None, None, False, [])


def test_every_question_gets_its_row_in_input_order(make: Make, tmp_path: Path) -> None:
    summary = run_file(make(failing()), write(tmp_path / "in.jsonl", ROWS), tmp_path / "out.jsonl")

    rows = read(tmp_path / "out.jsonl")
    assert [(row["id"], row["answer"], row["status"]) for row in rows] == [
        (name, f"answer to {name}", "ok") for name in "abc"
    ]
    assert (summary.queries, summary.drafts, summary.cached, summary.failed) == (3, 3, 0, 0)
    assert (summary.loads, summary.distinct_models, summary.bad_rows) == (1, 1, 0)
    assert not (tmp_path / "out.errors.jsonl").exists()


def test_a_failed_row_is_null_and_asked_again_next_time(make: Make, tmp_path: Path) -> None:
    source, out = write(tmp_path / "in.jsonl", ROWS), tmp_path / "out.jsonl"

    summary = run_file(make(failing("b")), source, out)

    assert [(row["answer"], row["status"]) for row in read(out)][1] == (None, "failed")
    assert summary.failed == 1
    assert finished(tmp_path, summary.run_id) == {"a": "ok", "c": "ok"}

    again = run_file(make(failing()), source, out)

    assert [row["answer"] for row in read(out)] == ["answer to a", "answer to b", "answer to c"]
    assert (again.run_id, again.cached, again.drafts, again.failed) == (summary.run_id, 2, 3, 0)
    assert finished(tmp_path, summary.run_id) == {"a": "ok", "b": "ok", "c": "ok"}


def test_bad_lines_go_beside_the_answers_and_leave_when_mended(make: Make, tmp_path: Path) -> None:
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text('{"id": "a", "question": "one"}\n{broken\n')

    summary = run_file(make(failing()), source, out)

    [bad] = read(tmp_path / "out.errors.jsonl")
    assert (bad["line"], bad["raw"], summary.bad_rows, len(read(out))) == (2, "{broken", 1, 1)

    run_file(make(failing()), write(source, ROWS[:1]), out)

    assert not (tmp_path / "out.errors.jsonl").exists()


def test_ids_that_come_twice_stop_everything_before_it_begins(make: Make, tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", [ROWS[0], ROWS[0]])

    with pytest.raises(DuplicateIds):
        run_file(make(failing()), source, tmp_path / "out.jsonl")

    assert not (tmp_path / "out.jsonl").exists()


def test_another_input_is_another_run(make: Make, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"

    one = run_file(make(failing()), write(tmp_path / "in.jsonl", ROWS[:1]), out)
    two = run_file(make(failing()), write(tmp_path / "in.jsonl", ROWS[:2]), out)

    assert one.run_id != two.run_id
    assert (two.drafts, two.cached) == (2, 1)


def test_a_question_asked_once_has_a_trace_in_the_store(make: Make) -> None:
    pipeline = make(lambda _: "Paris.")

    with pipeline:
        answer, trace, route, _ = ask_once(pipeline, "What is the capital of France?")
        stored = pipeline.complete(pipeline.store.trace(answer.trace_id))

    assert (answer.text, answer.status, route.arms) == ("Paris.", "ok", ("general",))
    assert route.reason.fallback is not None and "the only expert" in route.reason.fallback
    assert stored == json.loads(json.dumps(trace))
    assert [draft["draft"] for draft in trace["drafts"]] == ["Paris."]


def test_a_failed_question_leaves_no_trace_that_would_be_served(make: Make) -> None:
    pipeline = make(lambda _: Failure("timeout", "too slow"))

    with pipeline:
        answer, trace, *_ = ask_once(pipeline, "What is the capital of France?")

        assert pipeline.complete(pipeline.store.trace(answer.trace_id)) is None
    assert (answer.status, trace["drafts"][0]["error"]["message"]) == ("failed", "too slow")


def test_a_summary_is_one_json_object(make: Make, tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", ROWS)

    done = run_file(make(failing("b")), source, tmp_path / "out.jsonl", summary=tmp_path / "summary.json")

    told = json.loads((tmp_path / "summary.json").read_text())
    assert told == asdict(done)
    assert {"queries", "drafts", "cached", "loads", "distinct_models", "seconds", "cpu_seconds"} <= told.keys()
    assert {"tokens_in", "tokens_out", "failed"} <= told.keys()
    assert (told["queries"], told["failed"]) == (3, 1)


def test_ids_come_back_as_they_were_written(make: Make, tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", [{"id": 7, "question": "one"}, {"id": "8", "question": "two"}])

    run_file(make(failing()), source, tmp_path / "out.jsonl")

    assert [row["id"] for row in read(tmp_path / "out.jsonl")] == [7, "8"]


@pytest.mark.parametrize(
    ("out", "summary", "said"),
    [
        ("in.jsonl", None, "is read by this command"),
        ("link.jsonl", None, "is read by this command"),
        ("out.jsonl", "in.jsonl", "is read by this command"),
        ("out.jsonl", "out.jsonl", "is written by this command already"),
        ("out.jsonl", "out.errors.jsonl", "is written by this command already"),
        (".", None, "no regular file"),
        ("in.jsonl/out.jsonl", None, "there is no folder"),
        ("nowhere/out.jsonl", None, "there is no folder"),
        ("out.jsonl", "nowhere/summary.json", "there is no folder"),
    ],
)
def test_an_output_that_cannot_be_is_refused_before_anything_is_asked(
    make: Make, tmp_path: Path, out: str, summary: str | None, said: str
) -> None:
    source = write(tmp_path / "in.jsonl", ROWS)
    before = source.read_bytes()
    (tmp_path / "link.jsonl").symlink_to(source)
    asked: list[str] = []

    with pytest.raises(InputError, match=said):
        run_file(
            make(lambda request: asked.append(request.arm) or "text"),  # type: ignore[func-returns-value]
            source,
            tmp_path / out,
            summary=tmp_path / summary if summary else None,
        )

    assert not asked and source.read_bytes() == before


def test_the_errors_file_never_replaces_the_questions(make: Make, tmp_path: Path) -> None:
    source = write(tmp_path / "out.errors.jsonl", ROWS)

    with pytest.raises(InputError, match="is read by this command"):
        run_file(make(failing()), source, tmp_path / "out.jsonl")

    assert len(read(source)) == 3


def test_a_text_that_was_cut_off_is_a_degraded_answer(make: Make, tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", [*ROWS, {"id": "d", "question": "sum", "kind": "number"}])
    pipeline = make(lambda request: Draft("", "Once upon a", "length") if request.parent in "bd" else "a tale")

    summary = run_file(pipeline, source, tmp_path / "out.jsonl")

    told = {row["id"]: (row["answer"], row["status"]) for row in read(tmp_path / "out.jsonl")}
    assert told == {
        "a": ("a tale", "ok"),
        "b": ("Once upon a", "degraded"),
        "c": ("a tale", "ok"),
        "d": (None, "failed"),  # a number without its end is another number
    }
    assert summary.run_id and set(finished(tmp_path, summary.run_id)) == {"a", "b", "c"}


def test_a_store_that_is_no_store_is_an_error_of_its_own(make: Make, tmp_path: Path) -> None:
    (tmp_path / "drafts.sqlite").write_bytes(b"not a database" * 100)

    with pytest.raises(StoreError):
        run_file(make(failing()), write(tmp_path / "in.jsonl", ROWS), tmp_path / "out.jsonl")

    assert not (tmp_path / "out.jsonl").exists()


def test_a_run_that_a_budget_ended_goes_on_and_ends_as_one_that_was_not_limited(make: Make, tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", ROWS)
    run_file(make(failing()), source, tmp_path / "whole.jsonl")
    (tmp_path / "drafts.sqlite").unlink()
    out, partial = tmp_path / "out.jsonl", tmp_path / "out.partial.jsonl"

    first = run_file(make(failing()), source, out, budget=Budget(Limits(calls=2)))

    assert (first.stopped, first.unfinished, first.drafts, first.partial) == ("max-calls", 1, 2, str(partial))
    assert [row["id"] for row in read(partial)] == ["a", "c"] and not out.exists()
    assert finished(tmp_path, first.run_id) == {"a": "ok", "c": "ok"}

    second = run_file(make(failing()), source, out, budget=Budget(Limits(calls=2)))

    assert (second.stopped, second.unfinished, second.cached, second.run_id) == (None, 0, 2, first.run_id)
    assert not partial.exists()
    assert shown(out) == shown(tmp_path / "whole.jsonl")
    assert (second.ledger["run"]["calls"], second.ledger["run"]["cached"]) == (3, 0)  # who has an answer is not asked


def shown(path: Path) -> list[dict[str, Any]]:
    return [{key: row[key] for key in ("id", "answer", "status", "experts")} for row in read(path)]


def test_the_tokens_of_a_run_stay_within_their_budget_and_are_used(make: Make, tmp_path: Path) -> None:
    rows = [{"id": str(i), "question": f"question {i}"} for i in range(40)]
    source, spent, starts = write(tmp_path / "in.jsonl", rows), 0, 0

    while not (tmp_path / "out.jsonl").exists():
        done = run_file(
            make(lambda _: "one two three"), source, tmp_path / "out.jsonl", budget=Budget(Limits(tokens=400))
        )
        assert done.tokens_in + done.tokens_out <= 400
        spent, starts = spent + done.tokens_in + done.tokens_out, starts + 1

    # 5 tokens each in truth, but 256 and its prompt have to be set aside for a call while it runs
    assert (starts, spent) == (3, 200)


def test_what_failed_or_was_cut_off_is_charged_and_never_served_again(make: Make, tmp_path: Path) -> None:
    usage = Usage(tokens_in=3, tokens_out=5, passes=8, seconds=0.5, cost=0.25)
    asked: list[str] = []

    def answer(request: Request) -> Draft | Failure:
        asked.append(str(request.parent))
        if request.parent == "a":
            return Failure("timeout", "too slow")
        return Draft("", "Once upon a", "length" if request.parent == "b" else "stop", usage)

    source = write(tmp_path / "in.jsonl", ROWS)
    run_file(make(answer), source, tmp_path / "out.jsonl")
    done = run_file(make(answer), source, tmp_path / "out.jsonl")

    assert sorted(asked) == ["a", "a", "b", "b", "c"]
    run = done.ledger["run"]
    assert (run["calls"], run["failed"], run["cached"], run["tokens_out"], run["passes"]) == (5, 4, 0, 15, 24)
    assert run["money"] is None  # what a failed call cost nobody knows
    assert done.ledger["arms"]["general"] == run


def test_another_registry_does_not_go_on_with_an_unfinished_run(make: Make, tmp_path: Path) -> None:
    source, out, registry = write(tmp_path / "in.jsonl", ROWS), tmp_path / "out.jsonl", tmp_path / "experts.yaml"
    first = run_file(make(failing()), source, out, budget=Budget(Limits(calls=1)))
    old = registry.read_text()
    registry.write_text(old.replace("general: {", "general: {system: Judge., "))

    with pytest.raises(ChangedError) as refused:
        run_file(make(failing()), source, out)

    assert (refused.value.exit_code, refused.value.code) == (2, "changed")
    assert "-  general: {model: small}\n+  general: {system: Judge., model: small}" in refused.value.what
    assert "--accept-config-change" in str(refused.value) and first.run_id in str(refused.value)
    assert not out.exists()

    registry.write_text(old)
    assert run_file(make(failing()), source, out, budget=Budget(Limits(calls=1))).run_id == first.run_id

    registry.write_text(old.replace("general: {", "general: {system: Judge., "))
    second = run_file(make(failing()), source, out, accept_change=True)
    registry.write_text(old)

    assert second.run_id != first.run_id and len(read(out)) == 3
    assert run_file(make(failing()), source, out).drafts == 3  # the first is given up, and nothing stands in the way


def test_another_version_of_the_program_is_a_change_as_well(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = write(tmp_path / "in.jsonl", ROWS), tmp_path / "out.jsonl"
    for module in ("composer.running.batch", "composer.running.resume"):
        monkeypatch.setattr(f"{module}.code_version", lambda: "0.0.9")
    run_file(make(failing()), source, out, budget=Budget(Limits(calls=1)))
    monkeypatch.undo()

    with pytest.raises(ChangedError, match=r"this program has changed[\s\S]*- coe 0\.0\.9"):
        run_file(make(failing()), source, out)


def test_a_finished_run_stands_in_nobodys_way(make: Make, tmp_path: Path) -> None:
    source, out, registry = write(tmp_path / "in.jsonl", ROWS), tmp_path / "out.jsonl", tmp_path / "experts.yaml"
    first = run_file(make(failing("b")), source, out)
    registry.write_text(registry.read_text().replace("general: {", "general: {system: Judge., "))

    assert run_file(make(failing()), source, out).run_id != first.run_id


def test_a_run_that_never_came_to_a_draft_does_not_hinder_what_it_asked_for(make: Make, tmp_path: Path) -> None:
    source, out, registry = write(tmp_path / "in.jsonl", ROWS), tmp_path / "out.jsonl", tmp_path / "experts.yaml"
    old = registry.read_text()
    registry.write_text(old.replace("memory: 1MiB", "memory: 900GiB"))
    with pytest.raises(MemoryBudgetError):
        run_file(make(failing()), source, out)

    registry.write_text(old)

    assert run_file(make(failing()), source, out).failed == 0


def test_an_answer_is_recorded_while_others_are_still_asked(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One draft after the other is held back until the answers before it are in the store."""
    names = [f"q{i}" for i in range(5)]
    there: list[int] = []

    class Held(ScriptedEngine):
        async def generate(self, requests: Sequence[Request]) -> AsyncIterator[tuple[str, Delta | Draft]]:
            [request] = requests
            async with asyncio.timeout(60):
                while len(in_store(tmp_path)) < names.index(str(request.parent)):
                    await asyncio.sleep(0.01)
            there.append(len(in_store(tmp_path)))
            async for piece in super().generate(requests):
                yield piece

    source = write(tmp_path / "in.jsonl", [{"id": name, "question": f"what is {name}?"} for name in names])
    pipeline = make(failing())
    monkeypatch.setattr(Registry, "engine", lambda self, name: Held(failing()))
    done = run_file(pipeline, source, tmp_path / "out.jsonl")

    assert there == [0, 1, 2, 3, 4] and (done.drafts, done.failed) == (5, 0)


def in_store(tmp_path: Path) -> list[str]:
    with sqlite3.connect(tmp_path / "drafts.sqlite") as connection:
        return [name for (name,) in connection.execute("SELECT custom_id FROM result")]


def test_a_question_with_an_answer_is_not_asked_again(make: Make, tmp_path: Path) -> None:
    asked: list[str] = []

    def answer(request: Request) -> str | Failure:
        asked.append(str(request.parent))
        return f"answer to {request.parent}"

    source, out = write(tmp_path / "in.jsonl", ROWS), tmp_path / "out.jsonl"
    first = run_file(make(answer), source, out, budget=Budget(Limits(calls=2)))
    with sqlite3.connect(tmp_path / "drafts.sqlite") as connection:
        connection.execute("DELETE FROM call")  # nor looked for: its answer stands
    done = run_file(make(answer), source, out)

    assert (first.unfinished, sorted(asked)) == (1, ["a", "b", "c"])
    assert (done.drafts, done.cached, [row["answer"] for row in read(out)]) == (
        3,
        2,
        ["answer to a", "answer to b", "answer to c"],
    )


def test_a_degraded_answer_gives_way_to_a_whole_one(make: Make, tmp_path: Path) -> None:
    def cut(request: Request) -> Draft:
        return Draft("", f"answer to {request.parent}", "length" if request.parent == "b" else "stop")

    source, out = write(tmp_path / "in.jsonl", ROWS), tmp_path / "out.jsonl"
    first = run_file(make(cut), source, out)
    done = run_file(make(failing()), source, out)

    assert (first.degraded, done.degraded, done.run_id) == (1, 0, first.run_id)
    assert finished(tmp_path, done.run_id) == dict.fromkeys("abc", "ok")


def test_a_degraded_answer_stands_where_everything_fails_the_next_time(make: Make, tmp_path: Path) -> None:
    def cut(request: Request) -> Draft:
        return Draft("", f"answer to {request.parent}", "length" if request.parent == "b" else "stop")

    source, out = write(tmp_path / "in.jsonl", ROWS), tmp_path / "out.jsonl"
    run_file(make(cut), source, out)
    done = run_file(make(failing("b")), source, out)

    assert (done.degraded, done.failed) == (1, 0)
    assert [row["status"] for row in read(out)] == ["ok", "degraded", "ok"]


def test_what_an_engine_knows_of_its_price_counts_where_the_registry_says_nothing(make: Make, tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", ROWS)

    done = run_file(
        make(lambda _: Draft("", "yes", "stop", Usage(tokens_out=1, cost=0.25))), source, tmp_path / "out.jsonl"
    )

    assert (done.cost, done.ledger["run"]["money"]) == (0.75, 0.75)


def test_a_file_of_several_windows_is_one_file(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write(tmp_path / "in.jsonl", [{"id": str(i), "question": f"question {i}"} for i in range(50)])
    whole = run_file(make(failing()), source, tmp_path / "whole.jsonl")
    (tmp_path / "drafts.sqlite").unlink()
    monkeypatch.setattr("composer.running.batch._WINDOW", 8)

    first = run_file(make(failing()), source, tmp_path / "out.jsonl", budget=Budget(Limits(calls=20)))
    done = run_file(make(failing()), source, tmp_path / "out.jsonl")

    assert (first.unfinished, done.unfinished, done.drafts, done.cached) == (30, 0, 50, 20)
    assert shown(tmp_path / "out.jsonl") == shown(tmp_path / "whole.jsonl")
    assert (whole.predicted_loads, done.predicted_loads) == (1, 1)


def test_nothing_is_routed_any_more_when_a_run_is_stopped(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("composer.running.batch._WINDOW", 4)
    source = write(tmp_path / "in.jsonl", [{"id": str(i), "question": f"question {i}"} for i in range(40)])
    budget, routed = Budget(), []

    def answer(request: Request) -> str:
        budget.stop("interrupted")
        return "yes"

    pipeline = make(answer)
    pipeline.listen(lambda event: routed.append(event.id) if isinstance(event, Routed) else None)
    done = run_file(pipeline, source, tmp_path / "out.jsonl", budget=budget)

    assert done.stopped == "interrupted" and done.unfinished + done.drafts == 40
    assert len(routed) <= 12


@pytest.mark.parametrize(
    ("place", "stage"),
    [(router_folder, ""), (answers_folder, ""), (gates_folder, "retrieve"), (contrasts_folder, "contrast")],
)
def test_what_was_fitted_between_two_starts_is_a_change_as_well(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: Callable[[Registry], Path], stage: str
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    source, out, path = write(tmp_path / "in.jsonl", ROWS), tmp_path / "out.jsonl", tmp_path / "experts.yaml"
    last = "{use: generate}, {use: verify}, {use: aggregate}"
    plain = path.read_text()

    def begun_and_fitted(steps: str) -> str:
        path.write_text(plain + steps)
        began = run_file(make(failing()), source, out, budget=Budget(Limits(calls=1)), accept_change=True).run_id
        folder = place(make(failing()).registry)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "fitted.json").write_text("[]")
        return began

    first = begun_and_fitted(f"pipeline: [{{use: decide}}, {f'{{use: {stage}}}, ' if stage else ''}{last}]\n")
    with pytest.raises(ChangedError, match="what `coe fit` has installed") as refused:
        run_file(make(failing()), source, out)
    assert first in str(refused.value) and "--accept-config-change" in str(refused.value)

    shutil.rmtree(place(make(failing()).registry))
    assert run_file(make(failing()), source, out, budget=Budget(Limits(calls=1))).run_id == first  # as it was
    if stage:  # who has no stage for it does not mind
        other = begun_and_fitted(f"pipeline: [{{use: decide}}, {last}]\n")
        assert run_file(make(failing()), source, out).run_id == other
