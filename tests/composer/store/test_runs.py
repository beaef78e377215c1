"""A run is resumed where it was left, by one process at a time, and never mixed with another configuration."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from composer.errors import StoreError, StoreLockedError
from composer.store import Charge, DraftStore, Origin, Question, RunRecord, StoredResult
from composer.types import Usage

QUESTIONS: list[Question] = [("q1", 1, "input-1"), ("q2", 2, "input-2"), ("q3", 3, "input-3")]

HOLDER = """
import asyncio, sys, time
from pathlib import Path
from composer.store import DraftStore

store = DraftStore.open(Path(sys.argv[1]))
run = asyncio.run(store.begin("run", "config", "code", []))
print("held", flush=True)
time.sleep(60)
"""


async def test_a_resumed_run_knows_what_is_finished(tmp_path: Path) -> None:
    path = tmp_path / "drafts.sqlite"
    async with DraftStore.open(path) as store:
        with await store.begin("run", "config", "code", QUESTIONS) as run:
            assert await run.results() == {}
            await run.finish("q1", 0, {"answer": "4", "score": 0.5}, "ok")
            await run.finish("q2", 0, {"answer": None}, "failed")
            await run.finish("q2", 1, {"answer": "5"}, "degraded")

    async with DraftStore.open(path) as store:
        with await store.begin("run", "config", "newer code", QUESTIONS) as run:
            assert await run.results() == {
                "q1": StoredResult("q1", 0, "ok", {"answer": "4", "score": 0.5}),
                "q2": StoredResult("q2", 0, "failed", {"answer": None}),
            }
            assert await run.results(k=1) == {"q2": StoredResult("q2", 1, "degraded", {"answer": "5"})}


async def test_the_first_result_of_a_question_stays(tmp_path: Path) -> None:
    async with DraftStore.open(tmp_path / "drafts.sqlite") as store:
        run = await store.begin("run", "config", "code", QUESTIONS)
        await run.finish("q1", 0, {"answer": "4"}, "ok")
        await run.finish("q1", 0, {"answer": "5"}, "ok")

        assert (await run.results())["q1"].payload == {"answer": "4"}


async def test_runs_do_not_see_each_other(tmp_path: Path) -> None:
    async with DraftStore.open(tmp_path / "drafts.sqlite") as store:
        one = await store.begin("one", "config", "code", QUESTIONS)
        two = await store.begin("two", "other config", "code", QUESTIONS)
        await one.finish("q1", 0, {"answer": "4"}, "ok")

        assert await two.results() == {}


async def test_a_result_is_found_by_its_trace_id(tmp_path: Path) -> None:
    async with DraftStore.open(tmp_path / "drafts.sqlite") as store:
        run = await store.begin("run", "config", "code", QUESTIONS)
        await run.finish("q1", 0, {"answer": "4", "trace_id": "t-1"}, "ok")
        await run.finish("q2", 0, {"answer": "5"}, "ok")

        assert await store.trace("t-1") == {"answer": "4", "trace_id": "t-1"}
        assert await store.trace("t-2") is None


async def test_a_resume_with_another_configuration_is_refused(tmp_path: Path) -> None:
    async with DraftStore.open(tmp_path / "drafts.sqlite") as store:
        (await store.begin("run", "a" * 64, "code", QUESTIONS)).close()

        with pytest.raises(StoreError) as caught:
            await store.begin("run", "b" * 64, "code", QUESTIONS)

        assert "a" * 12 in caught.value.what
        assert "b" * 12 in caught.value.what
        assert caught.value.remedy is not None
        assert "--out" in caught.value.remedy
        (await store.begin("run", "a" * 64, "code", QUESTIONS)).close()  # the refusal left no lock behind


async def test_a_resume_with_changed_questions_names_them(tmp_path: Path) -> None:
    async with DraftStore.open(tmp_path / "drafts.sqlite") as store:
        (await store.begin("run", "config", "code", QUESTIONS)).close()

        with pytest.raises(StoreError, match=r"1 question.*'q2'"):
            await store.begin("run", "config", "code", [("q1", 1, "input-1"), ("q2", 2, "something else")])


async def test_a_run_may_get_more_questions(tmp_path: Path) -> None:
    async with DraftStore.open(tmp_path / "drafts.sqlite") as store:
        (await store.begin("run", "config", "code", QUESTIONS[:1])).close()
        run = await store.begin("run", "config", "code", QUESTIONS)

        await run.finish("q3", 0, {}, "ok")

        assert set(await run.results()) == {"q3"}


async def test_two_questions_of_one_id_are_refused(tmp_path: Path) -> None:
    async with DraftStore.open(tmp_path / "drafts.sqlite") as store:
        with pytest.raises(StoreError, match="line 2"):
            await store.begin("run", "config", "code", [("a\ud800", 1, "x"), ("a\ud801", 2, "y")])


async def test_an_unknown_question_cannot_be_finished_and_hinders_no_other(tmp_path: Path) -> None:
    async with DraftStore.open(tmp_path / "drafts.sqlite") as store:
        run = await store.begin("run", "config", "code", QUESTIONS)

        with pytest.raises(StoreError, match="no question 'q9'"):
            await run.finish("q9", 0, {}, "ok")
        await run.finish("q1", 0, {}, "ok")

        assert set(await run.results()) == {"q1"}


async def test_hostile_text_in_ids_and_payloads_is_kept(tmp_path: Path) -> None:
    async with DraftStore.open(tmp_path / "drafts.sqlite") as store:
        run = await store.begin("run\ud800", "config", "code", [("a\0b\ud800", 1, "x")])
        await run.finish("a\0b\ud800", 0, {"answer": "c\0d\ud800 \u202e"}, "ok")

        [result] = (await run.results()).values()

        assert (result.custom_id, result.payload) == ("a\0b\ufffd", {"answer": "c\0d\ufffd \u202e"})


async def test_a_closed_run_takes_no_results(tmp_path: Path) -> None:
    async with DraftStore.open(tmp_path / "drafts.sqlite") as store:
        run = await store.begin("run", "config", "code", QUESTIONS)
        run.close()
        run.close()

        with pytest.raises(StoreError, match="closed"):
            await run.finish("q1", 0, {}, "ok")


async def test_a_run_is_locked_within_one_process_too_and_freed_by_closing(tmp_path: Path) -> None:
    async with DraftStore.open(tmp_path / "drafts.sqlite") as store:
        run = await store.begin("run", "config", "code", QUESTIONS)
        with pytest.raises(StoreLockedError, match="this process works on the run 'run'"):
            await store.begin("run", "config", "code", QUESTIONS)
        run.close()

        await store.begin("run", "config", "code", QUESTIONS)
        await store.begin("another run", "config", "code", QUESTIONS)

    assert list((tmp_path / "locks").iterdir()) == []


async def test_a_second_process_is_told_who_works_on_the_run_until_that_one_dies(tmp_path: Path) -> None:
    path = tmp_path / "drafts.sqlite"
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(path)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        async with DraftStore.open(path) as store:
            with pytest.raises(StoreLockedError, match=f"process {holder.pid} works on the run 'run'") as caught:
                await store.begin("run", "config", "code", [])
            os.kill(holder.pid, signal.SIGKILL)
            holder.wait()

            (await store.begin("run", "config", "code", [])).close()

    assert caught.value.exit_code == 6


async def test_a_lock_of_another_machine_is_called_so(tmp_path: Path) -> None:
    async with DraftStore.open(tmp_path / "drafts.sqlite") as store:
        run = await store.begin("run", "config", "code", [])
        [lock] = (tmp_path / "locks").iterdir()

        lock.write_text('{"pid": 7, "boot_id": "of some other start"}')
        with pytest.raises(StoreLockedError, match="process 7 of another machine"):
            await store.begin("run", "config", "code", [])
        lock.write_text("")
        with pytest.raises(StoreLockedError, match="another process works"):
            await store.begin("run", "config", "code", [])

        run.close()


ORIGIN = Origin("run", "/in.jsonl", "/out.jsonl", "inputs", "/experts.yaml", "models: {}\n")


async def only(store: DraftStore) -> RunRecord:
    [run] = await store.runs()
    return run


async def test_a_run_remembers_its_starts_how_they_ended_and_where_it_comes_from(tmp_path: Path) -> None:
    async with DraftStore.open(tmp_path / "drafts.sqlite") as store:
        with await store.begin("run", "config", "code", QUESTIONS, ORIGIN) as run:
            await run.finish("q1", 0, {}, "ok")
            assert (run.start, (await only(store)).state) == (1, "running")
        assert (await only(store)).state == "killed"  # it left without a word

        with await store.begin("run", "config", "newer code", QUESTIONS, ORIGIN) as run:
            await run.end("out-of-budget", {"queries": 3})
        found = await only(store)

        assert (run.start, found.state, found.starts, found.code_version) == (2, "out-of-budget", 2, "newer code")
        assert (found.questions, found.done, found.results) == (3, 1, {"ok": 1})
        assert (found.origin, found.summary) == (ORIGIN, {"queries": 3})
        assert await store.open_questions("run") == [("q2", 2), ("q3", 3)]
        assert [run.run_id for run in await store.same_work(ORIGIN)] == ["run"]
        assert await store.same_work(replace(ORIGIN, inputs_sha="others")) == []

        await store.supersede("run")
        assert (await only(store)).state == "superseded"


async def test_charges_come_back_by_start_and_unknown_costs_stay_unknown(tmp_path: Path) -> None:
    paid = Charge("q1", "math", "draft", 0, "key", "stop", False, Usage(7, 2, 0, 9, 0.5, 0.25))
    unknown = Charge("q2", "law", "draft", 1, "", "error", False, Usage())
    again = replace(paid, cached=True)
    async with DraftStore.open(tmp_path / "drafts.sqlite") as store:
        with await store.begin("run", "config", "code", QUESTIONS) as run:
            run.charge(paid)
            run.charge(unknown)
            await run.end("interrupted", {})
        with await store.begin("run", "config", "code", QUESTIONS) as run:
            run.charge(again)
            await run.end("finished", {})

        assert await store.charges("run") == [(1, paid), (1, unknown), (2, again)]


async def test_a_store_of_the_first_schema_is_migrated_and_kept_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "drafts.sqlite"
    old = sqlite3.connect(path)
    old.executescript(Path(__file__).with_name("schema1.sql").read_text())
    old.close()

    async with DraftStore.open(path) as store:
        [draft] = (await store.get(["key"])).values()
        found = await only(store)
        with await store.begin("run", "config", "code", QUESTIONS[:2], ORIGIN) as run:
            results = await run.results()

    assert (draft.text, found.state, found.done, found.origin, list(results)) == ("4", "unknown", 1, None, ["q1"])
    backup = sqlite3.connect(tmp_path / "drafts.sqlite.schema1")
    assert backup.execute("PRAGMA user_version").fetchone() == (1,)
    assert backup.execute("SELECT count(*) FROM call").fetchone() == (1,)
    backup.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["drafts.sqlite", "drafts.sqlite.schema1", "locks"]


async def test_locks_of_killed_processes_go_with_the_next_run_and_held_ones_stay(tmp_path: Path) -> None:
    path = tmp_path / "drafts.sqlite"
    async with DraftStore.open(path) as store:
        await store.begin("held", "config", "code", [])
        (tmp_path / "locks" / "drafts.sqlite-0123.lock").write_text("{}")

        with await store.begin("run", "config", "code", []):
            names = [lock.name for lock in (tmp_path / "locks").iterdir()]

    assert len(names) == 2 and "drafts.sqlite-0123.lock" not in names
