"""What goes into the store comes back as it was, and only that."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from composer.errors import StoreError
from composer.store import DraftStore, clean, schema
from composer.store.rows import draft_cells, insert
from composer.types import Draft, Failure, Request, Stream, TokenLogprob, Usage

ASKED = Request("q1", (Stream("math", "What is 2 + 2?"),), arm="math")
GOOD = Draft("key", "4", "stop", Usage(7, 2, 3, 2, 0.25, 0.001), "smollm")

numbers = st.floats(allow_nan=False)
counts = st.integers(0, 2**70)
tokens = st.builds(TokenLogprob, st.text(), numbers, st.lists(st.tuples(st.text(), numbers), max_size=2).map(tuple))
drafts = st.builds(
    Draft,
    key=st.text(min_size=1),
    text=st.text(),
    stop=st.just("stop"),
    usage=st.builds(Usage, counts, counts, counts, counts, numbers, st.none() | numbers),
    served_by=st.text(),
    logprobs=st.none() | st.lists(tokens, max_size=3).map(tuple),
)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DraftStore]:
    with DraftStore.open(tmp_path_factory.mktemp("store") / "drafts.sqlite") as store:
        yield store


@settings(max_examples=25, deadline=None)
@given(st.lists(drafts, max_size=8, unique_by=lambda draft: draft.key))
def test_any_draft_comes_back_as_it_was_but_for_the_cached_mark(shared: DraftStore, given: list[Draft]) -> None:
    shared._writer.submit(lambda connection: connection.execute("DELETE FROM call") and None).result()

    async def there_and_back() -> dict[str, Draft]:
        await asyncio.gather(*(shared.put(draft, ASKED) for draft in given))
        return await shared.get([draft.key for draft in given])

    found = asyncio.run(there_and_back())

    assert found == {draft.key: replace(draft, cached=True) for draft in given}
    assert shared.corrupt == 0


async def test_a_thousand_drafts_at_once_share_a_few_commits(tmp_path: Path) -> None:
    async with DraftStore.open(tmp_path / "drafts.sqlite") as store:
        await asyncio.gather(*(store.put(replace(GOOD, key=str(i), text=f"{i}"), ASKED) for i in range(1000)))

        found = await store.get([str(i) for i in range(1200)])

        assert {key: draft.text for key, draft in found.items()} == {str(i): str(i) for i in range(1000)}
        assert store.commits <= 100


async def test_an_acknowledged_draft_is_already_committed(tmp_path: Path) -> None:
    path = tmp_path / "drafts.sqlite"
    async with DraftStore.open(path) as store:
        await store.put(GOOD, ASKED)

        other = sqlite3.connect(path)
        [row] = other.execute("SELECT expert, arm, role, response, finish_reason FROM call").fetchall()
        other.close()

        assert row == ("math", "math", "draft", "4", "stop")


@pytest.mark.parametrize(
    "draft",
    [
        replace(GOOD, stop="length"),
        replace(GOOD, stop="cancelled"),
        replace(GOOD, stop="error", error=Failure("timeout", "no reply within 3 s")),
        replace(GOOD, error=Failure("bad_response", "no finish reason")),
    ],
    ids=["length", "cancelled", "error", "stop with an error"],
)
async def test_an_incomplete_draft_is_never_kept(tmp_path: Path, draft: Draft) -> None:
    async with DraftStore.open(tmp_path / "drafts.sqlite") as store:
        await store.put(draft, ASKED)

        assert await store.get(["key"]) == {}


async def test_the_first_draft_under_a_key_stays(tmp_path: Path) -> None:
    async with DraftStore.open(tmp_path / "drafts.sqlite") as store:
        await store.put(GOOD, ASKED)
        await store.put(replace(GOOD, text="5"), ASKED)

        assert (await store.get(["key"]))["key"].text == "4"


async def test_a_draft_without_a_key_is_a_mistake_of_the_caller(tmp_path: Path) -> None:
    async with DraftStore.open(tmp_path / "drafts.sqlite") as store:
        with pytest.raises(ValueError, match="without a key"):
            await store.put(replace(GOOD, key=""), ASKED)


async def test_a_lone_surrogate_is_stored_as_the_replacement_character(tmp_path: Path) -> None:
    odd = replace(GOOD, text="a\ud800b \ud83d\ude00", logprobs=(TokenLogprob("\udfff", -1.0, (("\ud800", -2.0),)),))
    async with DraftStore.open(tmp_path / "drafts.sqlite") as store:
        await store.put(odd, ASKED)

        back = (await store.get(["key"]))["key"]

    assert back.text == "a\ufffdb \U0001f600"
    assert back.logprobs == (TokenLogprob("\ufffd", -1.0, (("\ufffd", -2.0),)),)


async def test_a_nul_character_and_what_follows_it_are_kept(tmp_path: Path) -> None:
    async with DraftStore.open(tmp_path / "drafts.sqlite") as store:
        await store.put(replace(GOOD, text="a\0b"), ASKED)

        assert (await store.get(["key"]))["key"].text == "a\0b"


@given(st.text(st.characters(codec=None), max_size=50))
def test_cleaned_text_can_be_encoded_and_stays_clean(text: str) -> None:
    once = clean(text)

    assert once.encode().decode() == once
    assert clean(once) == once


async def test_a_cancelled_caller_leaves_its_draft_in_the_store(tmp_path: Path) -> None:
    path = tmp_path / "drafts.sqlite"
    async with DraftStore.open(path) as store:
        waiting = [asyncio.create_task(store.put(replace(GOOD, key=str(i)), ASKED)) for i in range(5)]
        await asyncio.sleep(0)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)

    async with DraftStore.open(path) as store:
        assert len(await store.get([str(i) for i in range(5)])) == 5


async def test_closing_commits_what_is_under_way_and_leaves_one_file(tmp_path: Path) -> None:
    path = tmp_path / "drafts.sqlite"
    store = DraftStore.open(path)
    waiting = [asyncio.create_task(store.put(replace(GOOD, key=str(i)), ASKED)) for i in range(200)]
    await asyncio.sleep(0)

    await store.aclose()
    store.close()

    assert await asyncio.gather(*waiting) == [None] * 200
    assert list(tmp_path.iterdir()) == [path]


async def test_a_closed_store_says_so(tmp_path: Path) -> None:
    store = DraftStore.open(tmp_path / "drafts.sqlite")
    store.close()

    with pytest.raises(StoreError, match="closed"):
        await store.get(["key"])
    with pytest.raises(StoreError, match="closed"):
        await store.put(GOOD, ASKED)
    with pytest.raises(StoreError, match="closed"):
        await store.begin("run", "config", "code", [])


def test_the_store_is_the_file_that_coe_store_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COE_STORE", str(tmp_path / "new" / "folder" / "mine.sqlite"))

    with DraftStore.open() as store:
        assert store.path == tmp_path / "new" / "folder" / "mine.sqlite"
        assert store.path.is_file()


def test_without_coe_store_it_is_in_the_data_folder_of_the_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COE_STORE", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))

    with DraftStore.open() as store:
        assert tmp_path in store.path.parents
        assert store.path.parts[-2:] == ("coe", "drafts.sqlite")


def test_a_store_that_appears_while_it_is_looked_at_is_not_taken_for_something_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "drafts.sqlite"
    plain = sqlite3.connect

    class Watched(sqlite3.Connection):
        def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:
            if "user_version" in sql and sqlite3.connect is not plain:  # between the first look and the second
                monkeypatch.setattr(sqlite3, "connect", plain)
                monkeypatch.setattr(schema, "BUSY_SECONDS", 0.05)
                with contextlib.suppress(StoreError):  # the other process has to wait for the look to end
                    schema.connect(path).close()
            return super().execute(sql, *values)

    monkeypatch.setattr(sqlite3, "connect", functools.partial(plain, factory=Watched))

    schema.connect(path).close()

    schema.connect(path).close()


async def test_a_truncated_draft_that_something_else_stored_is_not_served(tmp_path: Path) -> None:
    cut = replace(GOOD, stop="length")
    async with DraftStore.open(tmp_path / "drafts.sqlite") as store:
        connection = schema.connect(store.path)
        insert(connection, schema.CALL, draft_cells(cut, ASKED))  # a sound row, and sealed
        connection.close()

        assert await store.get([cut.key]) == {}
        assert store.corrupt == 0
