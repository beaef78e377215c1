"""Damaged, foreign, full or read-only: nothing wrong is ever served, nobody waits for ever, the remedy is named."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest

from composer.errors import StoreCorruptError, StoreError
from composer.store import DraftStore
from composer.store.schema import connect, explain
from composer.store.writer import Writer
from composer.types import Draft, Request, Stream, TokenLogprob, Usage

ASKED = Request("q1", (Stream("math", "What is 2 + 2?"),), arm="math")
GOOD = Draft("key", "4", "stop", Usage(7, 2, 3, 2, 0.25, 0.001), "smollm", (TokenLogprob("4", -0.1),))

FILL = """
import asyncio, resource, sys
from pathlib import Path
from composer.errors import StoreError
from composer.store import DraftStore
from composer.types import Draft, Request, Stream

async def main():
    store = DraftStore.open(Path(sys.argv[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))
    asked = Request("q", (Stream("math", "?"),))
    drafts = [Draft(f"key{i}", "x" * 3000, "stop") for i in range(300)]
    ends = await asyncio.gather(*(store.put(draft, asked) for draft in drafts), return_exceptions=True)
    for draft, end in zip(drafts, ends):
        print(draft.key if end is None else type(end).__name__ + ": " + str(end).replace("\\n", " "))
    store.close()

asyncio.run(main())
"""

READ_ONLY = """
import os, sys
from pathlib import Path
from composer.errors import StoreError
from composer.store import DraftStore

if os.geteuid() == 0:
    os.seteuid(65534)  # the superuser may write anywhere
try:
    DraftStore.open(Path(sys.argv[1]))
except StoreError as why:
    print(why)
"""


def change(path: Path, sql: str, *values: object) -> None:
    """Edit the file behind the store's back."""
    connection = sqlite3.connect(path)
    with connection:
        assert connection.execute(sql, values).rowcount == 1
    connection.close()


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE call SET response = '5'",
        "UPDATE call SET response = CAST(x'ff' AS TEXT)",
        "UPDATE call SET usage = '{}'",
        "UPDATE call SET logprobs = NULL",
        "UPDATE call SET logprobs = '[['",
        "UPDATE call SET served_by = 'another'",
        "UPDATE call SET sha256 = 'ff'",
        "UPDATE call SET call_key = 'other' WHERE call_key = 'key'",
    ],
)
async def test_a_changed_row_is_not_served_but_counted_and_replaced(tmp_path: Path, sql: str) -> None:
    path = tmp_path / "drafts.sqlite"
    async with DraftStore.open(path) as store:
        await store.put(GOOD, ASKED)
        change(path, sql)

        assert await store.get(["key", "other"]) == {}
        assert store.corrupt == 1
        await store.put(GOOD, ASKED)

        assert await store.get(["key"]) == {"key": replace(GOOD, cached=True)}


@pytest.mark.parametrize("sql", ["UPDATE result SET payload = '{}'", "UPDATE result SET status = 'failed'"])
async def test_a_changed_result_counts_as_unfinished(tmp_path: Path, sql: str) -> None:
    path = tmp_path / "drafts.sqlite"
    async with DraftStore.open(path) as store:
        run = await store.begin("run", "config", "code", [("q1", 1, "input")])
        await run.finish("q1", 0, {"answer": "4", "trace_id": "t"}, "ok")
        change(path, sql)

        assert await run.results() == {}
        assert await store.trace("t") is None
        assert store.corrupt == 2
        await run.finish("q1", 0, {"answer": "4"}, "ok")

        assert (await run.results())["q1"].payload == {"answer": "4"}


async def test_a_damaged_question_is_mended_and_its_result_still_counts(tmp_path: Path) -> None:
    path = tmp_path / "drafts.sqlite"
    async with DraftStore.open(path) as store:
        with await store.begin("run", "config", "code", [("q1", 1, "input")]) as run:
            await run.finish("q1", 0, {"answer": "4"}, "ok")
        change(path, "UPDATE question SET input_sha = 'inpuu'")
        change(path, "UPDATE run SET config_sha = 'confih'")

        with await store.begin("run", "config", "code", [("q1", 1, "input")]) as run:
            assert set(await run.results()) == {"q1"}
        assert store.corrupt == 2


async def test_a_damaged_record_of_the_run_never_lends_a_result_to_another_input(tmp_path: Path) -> None:
    path = tmp_path / "drafts.sqlite"
    async with DraftStore.open(path) as store:
        for name in ("one", "two"):
            with await store.begin(name, "config", "code", [("q1", 1, "input")]) as run:
                await run.finish("q1", 0, {"answer": "4"}, "ok")
        change(path, "UPDATE question SET input_sha = 'inpuu' WHERE run_id = 'one'")
        change(path, "UPDATE run SET config_sha = 'confih' WHERE run_id = 'two'")

        with await store.begin("one", "config", "code", [("q1", 1, "another input")]) as run:
            assert await run.results() == {}
        with await store.begin("two", "another config", "code", [("q1", 1, "input")]) as run:
            assert await run.results() == {}


@pytest.mark.parametrize(
    "content", [b"this is a letter, and no database. " * 100, b"SQLite format 3\0" + b"\xff" * 5000]
)
def test_a_file_that_is_no_database_is_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "drafts.sqlite"
    path.write_bytes(content)

    with pytest.raises(StoreCorruptError) as caught:
        DraftStore.open(path)

    assert path.read_bytes() == content
    assert caught.value.where == str(path)
    assert caught.value.exit_code == 8
    assert caught.value.remedy is not None
    assert "away" in caught.value.remedy


async def test_a_truncated_store_says_that_it_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "drafts.sqlite"
    async with DraftStore.open(path) as store:
        await asyncio.gather(*(store.put(replace(GOOD, key=str(i), text="x" * 900), ASKED) for i in range(100)))
    os.truncate(path, path.stat().st_size // 2)

    with pytest.raises(StoreCorruptError):
        async with DraftStore.open(path) as store:
            await store.get([str(i) for i in range(100)])


def test_a_newer_schema_is_refused_with_the_way_out(tmp_path: Path) -> None:
    path = tmp_path / "drafts.sqlite"
    DraftStore.open(path).close()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()

    with pytest.raises(StoreError, match=r"schema 99[\s\S]*upgrade composition-of-experts"):
        DraftStore.open(path)


def test_the_database_of_another_program_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "theirs.sqlite"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE theirs (x)")
    connection.close()
    before = path.read_bytes()

    with pytest.raises(StoreError, match="not a draft store"):
        DraftStore.open(path)

    assert path.read_bytes() == before


def test_a_path_that_cannot_be_a_file_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(StoreError, match="COE_STORE"):
        DraftStore.open(tmp_path)
    with pytest.raises(StoreError, match="COE_STORE"):
        DraftStore.open(tmp_path / "file" / "drafts.sqlite")


def test_a_read_only_store_is_a_clear_error() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = folder / "drafts.sqlite"
        DraftStore.open(path).close()
        path.chmod(0o444)
        folder.chmod(0o555)

        child = subprocess.run([sys.executable, "-c", READ_ONLY, str(path)], capture_output=True, text=True, check=True)

        folder.chmod(0o755)
    assert "writable" in child.stdout


async def test_a_full_disk_fails_what_does_not_fit_and_keeps_what_was_acknowledged(tmp_path: Path) -> None:
    path = tmp_path / "drafts.sqlite"

    child = subprocess.run([sys.executable, "-c", FILL, str(path)], capture_output=True, text=True, check=True)

    kept = [line for line in child.stdout.splitlines() if line.startswith("key")]
    lost = [line for line in child.stdout.splitlines() if line.startswith("StoreError")]
    assert len(kept) + len(lost) == 300
    assert lost
    assert all("free disk space" in line for line in lost)
    async with DraftStore.open(path) as store:
        assert set(kept) <= set(await store.get([f"key{i}" for i in range(300)]))
        await store.put(GOOD, ASKED)  # with room again it goes on


async def test_a_store_that_another_process_keeps_locked_is_a_clear_error_and_no_end(tmp_path: Path) -> None:
    path = tmp_path / "drafts.sqlite"
    async with DraftStore.open(path) as store:
        store._writer._connection.execute("PRAGMA busy_timeout = 10")  # instead of ten seconds
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")

        with pytest.raises(StoreError, match="another process"):
            await store.put(GOOD, ASKED)
        other.close()
        await store.put(GOOD, ASKED)

        assert set(await store.get(["key"])) == {"key"}


def test_when_the_writer_dies_every_caller_hears_of_it(tmp_path: Path) -> None:
    path = tmp_path / "drafts.sqlite"
    writer = Writer(connect(path), path)

    def die(_: sqlite3.Connection) -> None:
        raise SystemExit

    pending = [writer.submit(lambda _: None), writer.submit(die), *(writer.submit(lambda _: None) for _ in range(100))]
    ends = [future.exception() for future in pending]

    assert all(end is None or (isinstance(end, StoreError) and "ended unexpectedly" in end.what) for end in ends)
    assert isinstance(ends[1], StoreError)
    assert isinstance(ends[-1], StoreError)
    with pytest.raises(StoreError, match="ended unexpectedly"):
        writer.submit(lambda _: None)
    writer.close()


def test_a_moved_copy_is_a_store_like_any_other(tmp_path: Path) -> None:
    DraftStore.open(tmp_path / "a.sqlite").close()
    shutil.copy(tmp_path / "a.sqlite", tmp_path / "b.sqlite")

    DraftStore.open(tmp_path / "b.sqlite").close()


def test_a_full_disk_is_an_end_that_can_be_gone_on_from(tmp_path: Path) -> None:
    connection = connect(tmp_path / "drafts.sqlite")
    connection.execute("PRAGMA max_page_count = 40")
    with pytest.raises(sqlite3.OperationalError) as full:
        connection.execute("INSERT INTO run VALUES ('run', ?, '', '', '')", ("x" * 400_000,))
    connection.close()

    why = explain(full.value, tmp_path / "drafts.sqlite")

    assert (why.code, why.exit_code) == ("store_full", 7)
    assert why.remedy is not None and "run the same command again" in why.remedy
