"""Runs that are begun again: what a budget ended goes on, what has changed is refused, and what was answered stands."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from batch_kit import ROWS, Make, failing, finished, read, write

from composer.budget import Budget, Limits
from composer.errors import MemoryBudgetError
from composer.places import answers_folder, contrasts_folder, gates_folder, router_folder
from composer.registry.experts import Registry
from composer.running.batch import run_file
from composer.running.resume import ChangedError
from composer.types import Draft, Failure, Request, Usage


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
