"""What the store tells about runs afterwards: the list, how far, what it cost, once more, side by side, into a file."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Awaitable, Callable
from dataclasses import asdict, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import pyarrow.parquet as pq
import pytest
from scripted import ONE, Scripted

from composer.budget import Budget, Limits
from composer.errors import ComposerError, InputError, StoreError, StoreLockedError
from composer.running.batch import Summary, ask_once, run_file
from composer.running.compare import compare
from composer.running.export import export
from composer.running.outputs import row_without
from composer.running.replay import find_question, replay
from composer.running.resume import ChangedError
from composer.running.runs import find_run, run_data, run_lines, status_data, status_lines
from composer.store import Charge, DraftStore, RunRecord
from composer.store.upkeep import collect_garbage, find_damage, stats
from composer.types import Draft, Failure, Request, Stream, Usage

T = TypeVar("T")
TWO = f"{ONE}  other: {{model: small, system: Judge.}}\n"
ALL = "pipeline:\n  - {use: decide, options: {k: 2}}\n  - use: generate\n  - use: verify\n  - {use: aggregate, options: {by: majority}}\n"
ROWS = [{"id": name, "question": f"question {name}", "kind": "number"} for name in "abcd"]
NOW = timedelta(seconds=-1)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scripted:
    return Scripted(tmp_path, monkeypatch)


def digits(request: Request) -> str | Draft | Failure:
    """`b` fails, `c` is cut off by one of the experts, the others are numbers."""
    if request.parent == "b":
        return Failure("timeout", "too slow")
    if request.parent == "c" and request.arm == "other":
        return Draft("", "It is 7", "length", Usage(tokens_in=3, tokens_out=5, seconds=0.123456789))
    return f"The answer is {len(request.parent or '') + len(request.arm)}."


def run(bench: Scripted, out: str = "out.jsonl", answer: Any = digits, text: str = TWO + ALL, **more: Any) -> Summary:
    source = bench.folder / "in.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return run_file(bench.pipeline(text, answer), source, bench.folder / out, **more)


def look(bench: Scripted, work: Callable[[DraftStore], Awaitable[T]]) -> T:
    async def done() -> T:
        async with DraftStore.open(bench.folder / "drafts.sqlite") as store:
            return await work(store)

    return asyncio.run(done())


def known(bench: Scripted) -> list[RunRecord]:
    return look(bench, lambda store: store.runs())


def test_runs_are_found_by_id_by_its_beginning_and_by_their_file(
    bench: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = run(bench), run(bench, "two.jsonl")
    with bench.pipeline(TWO, digits) as pipeline:
        ask_once(pipeline, "alone?")
    runs = known(bench)
    monkeypatch.chdir(bench.folder)

    for name, wanted in [
        (one.run_id, one),
        (one.run_id[:8], one),
        ("out.jsonl", one),
        (str(bench.folder / "two.jsonl"), two),
        (None, two),
    ]:
        assert find_run(runs, name).run_id == wanted.run_id
    for name in ("", "zzzz", "nowhere.jsonl"):
        with pytest.raises(InputError, match="no run"):
            find_run(runs, name)
    with pytest.raises(InputError, match="no run of a file"):
        find_run([], None)


def test_the_way_to_go_on_has_what_the_last_start_was_told(bench: Scripted) -> None:
    run(bench, budget=Budget(Limits(calls=1)), options=("--dedupe", "first"))
    run(
        bench,
        budget=Budget(Limits(calls=1)),
        options=("--dedupe", "first", "--form", "openai-batch", "--memory", "1GiB"),
    )
    [found] = known(bench)

    data = look(bench, lambda store: status_data(store, found))

    assert found.starts == 2
    assert data["resume"].endswith("experts.yaml --dedupe first --form openai-batch --memory 1GiB")


def test_a_run_is_listed_with_what_is_done_and_what_failed(bench: Scripted) -> None:
    done = run(bench)
    [found] = known(bench)

    data = run_data(found)

    assert (data["run_id"], data["state"], data["questions"], data["done"], data["failed"]) == (
        done.run_id,
        "finished",
        4,
        3,
        1,
    )
    head, line = run_lines([found])
    assert "failed" in head and done.run_id in line and line.endswith(f"in.jsonl -> {bench.folder}/out.jsonl")


def test_the_status_of_a_stopped_run_says_what_is_missing_and_how_to_go_on(bench: Scripted) -> None:
    run(bench, budget=Budget(Limits(calls=5)))
    [found] = known(bench)

    data = look(bench, lambda store: status_data(store, found, questions=True))
    lines = look(bench, lambda store: status_lines(store, found))

    assert data["state"] == "out-of-budget"
    assert len(data["missing"]) == 4 - data["done"] > 0
    command = (
        f"coe run {bench.folder}/in.jsonl --out {bench.folder}/out.jsonl --config {bench.folder}/project/experts.yaml"
    )
    assert data["resume"] == command and lines[-1] == f"go on    {command}"
    assert data["ledger"]["run"]["calls"] == 5 == sum(arm["calls"] for arm in data["ledger"]["arms"].values())
    assert sum(line["calls"] for line in data["ledger"]["questions"].values()) == 5
    assert data["ledger"]["run"]["money"] is None and data["ledger"]["run"]["cpu_seconds"] is not None
    assert data["landed"] == {"drafts": 3, "questions": 2}  # of the five calls, two failed
    json.dumps(data)


async def test_a_run_under_way_says_how_far_it_is(tmp_path: Path) -> None:
    whole = Charge("q1", "math", "draft", 0, "key", "stop", False, Usage())
    async with DraftStore.open(tmp_path / "drafts.sqlite") as store:
        with await store.begin("run", "config", "code", [("q1", 1, "x"), ("q2", 2, "y")]) as run:
            run.charge(whole)
            run.charge(replace(whole, custom_id="q2", stop="error"))
            await run.finish("q2", 0, {}, "ok")  # by now what was charged before is there as well
            [found] = await store.runs()
            lines = await status_lines(store, found)

    assert found.state == "running"
    assert any(line.startswith("so far   1 drafts for 1 questions") for line in lines)


@pytest.mark.parametrize("name", ["a", "c", "d"])
def test_a_replay_is_equal_and_asks_nobody(bench: Scripted, name: str) -> None:
    done = run(bench)
    opened = len(bench.engines)
    [found] = known(bench)
    run_id, trace = look(bench, lambda store: find_question(store, name, None))

    again = replay(bench.folder / "drafts.sqlite", found, trace)

    assert run_id == done.run_id
    assert again.equal and again.changes == ()
    assert again.again["answer"] == trace["answer"] and all(
        draft["cached"] for draft in again.again["drafts"] if draft["stop"] == "stop"
    )
    assert len(bench.engines) == opened
    assert look(bench, lambda store: find_question(store, trace["trace_id"], found)) == (run_id, trace)


def test_another_aggregator_combines_the_same_drafts(bench: Scripted) -> None:
    run(bench)
    [found] = known(bench)
    _, trace = look(bench, lambda store: find_question(store, "a", found))

    again = replay(bench.folder / "drafts.sqlite", found, trace, by="best")

    assert [draft["key"] for draft in again.again["drafts"]] == [draft["key"] for draft in trace["drafts"]]
    assert again.by == "best"
    with pytest.raises(ComposerError, match="nonsense"):
        replay(bench.folder / "drafts.sqlite", found, trace, by="nonsense")


def test_drafts_that_are_drawn_anew_are_compared_with_the_stored_ones_and_not_kept(bench: Scripted) -> None:
    run(bench)
    [found] = known(bench)
    _, trace = look(bench, lambda store: find_question(store, "a", found))
    path, before = bench.folder / "drafts.sqlite", look(bench, lambda store: store.traces())
    drafts = stats(path)["rows"]["call"]

    same = replay(path, found, trace, fresh=True)
    bench.pipeline(TWO + ALL, lambda request: "It is 9." if request.arm == "other" else digits(request))
    other = replay(path, found, trace, fresh=True)

    assert (same.equal, same.calls, [draft["cached"] for draft in same.again["drafts"]]) == (True, 2, [False, False])
    changed = {place: (then, now) for place, then, now in other.changes}
    assert changed["drafts[1].draft"] == ("The answer is 6.", "It is 9.") and "drafts[0].draft" not in changed
    assert (stats(path)["rows"]["call"], look(bench, lambda store: store.traces())) == (drafts, before)
    with pytest.raises(InputError, match="two reasons"):
        replay(path, found, trace, fresh=True, by="best")


def test_a_replay_shows_where_it_differs(bench: Scripted) -> None:
    run(bench)
    [found] = known(bench)
    _, trace = look(bench, lambda store: find_question(store, "a", found))

    again = replay(bench.folder / "drafts.sqlite", found, {**trace, "answer": "41"})

    assert (again.equal, again.changes) == (False, (("answer", "41", trace["answer"]),))


def test_a_replay_with_another_registry_or_without_a_draft_is_refused(bench: Scripted) -> None:
    run(bench)
    [found] = known(bench)
    _, trace = look(bench, lambda store: find_question(store, "a", found))
    registry = bench.folder / "project" / "experts.yaml"
    old = registry.read_text()

    registry.write_text(old.replace("Judge.", "Decide."))
    with pytest.raises(ChangedError, match=r"-.*Judge[\s\S]*\+.*Decide"):
        replay(bench.folder / "drafts.sqlite", found, trace)
    (bench.folder / "project" / "old.yaml").write_text(old)
    assert replay(bench.folder / "drafts.sqlite", found, trace, config=bench.folder / "project" / "old.yaml").equal

    registry.write_text(old)
    change(bench, "DELETE FROM call WHERE arm = 'other'")
    with pytest.raises(StoreError, match="no draft of other for the question 'a'"):
        replay(bench.folder / "drafts.sqlite", found, trace)
    with pytest.raises(InputError, match="no finished question"):
        look(bench, lambda store: find_question(store, "b", found))  # it failed


def test_runs_are_compared_row_by_row_and_on_what_is_right(bench: Scripted) -> None:
    run(bench, "one.jsonl")
    run(bench, "two.jsonl", text=ONE)
    one, two = known(bench)
    labels = bench.folder / "labels.jsonl"
    labels.write_text("".join(json.dumps(row | {"answer": 8}) + "\n" for row in ROWS))

    plain = look(bench, lambda store: compare(store, one, two))
    found = look(bench, lambda store: compare(store, one, two, labels))

    assert plain.paired is None and plain.same + len(plain.changes) == 4
    assert found.paired is not None
    assert (found.paired.questions, found.paired.wins + found.paired.losses <= 4) == (4, True)
    assert found.paired.low <= found.paired.difference <= found.paired.high
    itself = look(bench, lambda store: compare(store, one, one, labels)).paired
    assert itself is not None and (itself.difference, itself.verdict) == (0.0, "no difference is shown")
    labels.write_text(json.dumps({"id": "z", "question": "?", "answer": 8}) + "\n")
    with pytest.raises(InputError, match="is labelled here"):
        look(bench, lambda store: compare(store, one, two, labels))


def test_an_export_holds_the_rows_of_the_run(bench: Scripted) -> None:
    run(bench)
    [found] = known(bench)
    rows, lines, table = (bench.folder / name for name in ("rows.jsonl", "lines.jsonl", "rows.parquet"))

    assert look(bench, lambda store: export(store, found, rows)) == 3
    look(bench, lambda store: export(store, found, lines, "openai-batch"))
    look(bench, lambda store: export(store, found, table))

    written = [json.loads(line) for line in (bench.folder / "out.jsonl").read_text().splitlines()]
    exported = [json.loads(line) for line in rows.read_text().splitlines()]
    failed = row_without("b", "failed")
    assert exported == [failed if row["id"] == "b" else row for row in written]
    assert pq.read_table(table).to_pylist() == exported
    batch = [json.loads(line) for line in lines.read_text().splitlines()]
    assert [line["custom_id"] for line in batch] == list("abcd")
    assert batch[0]["response"]["body"]["choices"][0]["message"]["content"] == written[0]["answer"]
    assert batch[0]["x_coe"]["run_id"] == found.run_id
    assert (batch[1]["response"], batch[1]["error"]["code"]) == (None, "not_answered")
    with pytest.raises(InputError, match="OpenAI form is JSONL"):
        look(bench, lambda store: export(store, found, table, "openai-batch"))


def test_answers_can_be_written_as_an_openai_batch_at_once(bench: Scripted) -> None:
    run(bench, form="openai-batch")

    lines = [json.loads(line) for line in (bench.folder / "out.jsonl").read_text().splitlines()]

    assert [line["custom_id"] for line in lines] == list("abcd")
    assert lines[0]["response"]["body"]["usage"]["total_tokens"] > 0


def change(bench: Scripted, sql: str) -> None:
    connection = sqlite3.connect(bench.folder / "drafts.sqlite")
    with connection:
        connection.execute(sql)
    connection.close()


def test_the_cache_counts_hits_per_arm(bench: Scripted) -> None:
    run(bench)
    run(bench, "two.jsonl")

    found = stats(bench.folder / "drafts.sqlite")

    assert found["arms"]["general"] == {"drafts": 3, "bytes": found["arms"]["general"]["bytes"], "asked": 8, "hits": 3}
    assert found["rows"]["run"] == 2 and found["bytes"] > 0


def test_only_drafts_that_no_run_refers_to_and_that_are_old_go(bench: Scripted) -> None:
    run(bench)
    path = bench.folder / "drafts.sqlite"
    stray = Request("q", (Stream("general", "?"),), arm="general")
    look(bench, lambda store: store.put(Draft("stray", "text", "stop"), stray))

    assert collect_garbage(path, timedelta(days=1)).drafts == 0
    assert asdict(collect_garbage(path, NOW, dry_run=True)) == {"drafts": 1, "size": 4, "locks": 0, "removed": False}
    assert collect_garbage(path, NOW).drafts == 1
    assert collect_garbage(path, NOW).drafts == 0
    assert run(bench).drafts - run(bench).cached == 3  # b twice and the cut one: nothing that counts was lost


def test_drafts_of_results_from_before_charges_are_kept(bench: Scripted) -> None:
    run(bench)
    change(bench, "DELETE FROM charge")

    assert collect_garbage(bench.folder / "drafts.sqlite", NOW).drafts == 0


async def test_garbage_is_not_collected_under_a_run(tmp_path: Path) -> None:
    async with DraftStore.open(tmp_path / "drafts.sqlite") as store:
        with await store.begin("run", "config", "code", []), pytest.raises(StoreLockedError, match="under way: run"):
            collect_garbage(tmp_path / "drafts.sqlite", NOW)


def test_damaged_rows_are_found_and_removed_and_asked_again(bench: Scripted) -> None:
    first = run(bench)
    path = bench.folder / "drafts.sqlite"
    rows, bad = find_damage(path)
    assert rows > 10 and bad == []
    change(bench, "UPDATE call SET response = '41' WHERE call_key = (SELECT min(call_key) FROM call)")
    change(bench, "UPDATE result SET payload = '{}' WHERE custom_id = 'a'")

    _, bad = find_damage(path, remove=True)

    assert sorted(row.table for row in bad) == ["call", "result"]
    assert find_damage(path)[1] == []
    again = run(bench)
    assert (again.run_id, again.failed) == (first.run_id, 1)
    assert find_damage(path)[1] == []


LOOP = "pipeline:\n  - {use: decide, options: {policy: {use: agreeing, votes: 2}}}\n  - use: generate\n  - use: verify\n  - {use: aggregate, options: {by: majority}}\n"


@pytest.mark.parametrize("calls", [1, 2, 3, 5])
def test_starts_of_a_few_calls_each_end_as_one_start_without_a_budget(bench: Scripted, calls: int) -> None:
    text = f"{TWO}  third: {{model: small, system: Third.}}\n{LOOP}"
    asked: list[tuple[str | None, str]] = []

    def say(request: Request) -> str:
        asked.append((request.parent, request.arm))
        return f"The answer is {sum(map(ord, f'{request.parent}{request.arm}')) % 3}."

    run(bench, "whole.jsonl", say, text)
    once = sorted(asked)
    assert len(once) > 2 * len(ROWS)  # some needed a third vote
    asked.clear()
    (bench.folder / "drafts.sqlite").unlink()

    starts = 0
    while not (bench.folder / "out.jsonl").exists():
        done = run(bench, "out.jsonl", say, text, budget=Budget(Limits(calls=calls)))
        starts += 1

    assert sorted(asked) == once  # nothing twice, and nothing else
    assert starts == -(-len(once) // calls)
    assert done.ledger["run"]["calls"] == len(once)
    rows = [
        [json.loads(line) for line in (bench.folder / name).read_text().splitlines()]
        for name in ("whole.jsonl", "out.jsonl")
    ]
    for row in rows[0] + rows[1]:
        del row["trace_id"]  # of the run, and that is another one
    assert rows[0] == rows[1]
