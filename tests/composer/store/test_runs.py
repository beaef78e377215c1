"""A run is resumed where it was left, by one process at a time, and never mixed with another configuration."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from composer.errors import StoreError, StoreLockedError
from composer.store import DraftStore, Question, StoredResult

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
            assert await run.results(1) == {"q2": StoredResult("q2", 1, "degraded", {"answer": "5"})}


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
