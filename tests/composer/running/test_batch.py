"""A file of questions to a file of answers: rows, statuses, summaries, and what is refused."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict
from pathlib import Path

import pytest
from batch_kit import ROWS, Make, failing, finished, read, write

from composer.budget import Budget
from composer.engines.scripted import ScriptedEngine
from composer.errors import InputError, StoreError
from composer.jsonl import DuplicateIds
from composer.registry.experts import Registry
from composer.running.batch import ask_once, run_file
from composer.running.outputs import row_of
from composer.trace import Routed
from composer.types import Delta, Draft, Failure, Request, Usage


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


def test_what_an_engine_knows_of_its_price_counts_where_the_registry_says_nothing(make: Make, tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", ROWS)

    done = run_file(
        make(lambda _: Draft("", "yes", "stop", Usage(tokens_out=1, cost=0.25))), source, tmp_path / "out.jsonl"
    )

    assert (done.cost, done.ledger["run"]["money"]) == (0.75, 0.75)


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
