"""The store's file: flipped bits and cuts of the power (R16, R2)."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from composer.errors import StoreError
from composer.store import DraftStore
from composer.store.rows import draft_cells, insert
from composer.store.schema import CALL, connect
from composer.store.writer import Writer
from composer.types import Draft, Request, Stream, TokenLogprob, Usage
from evals.faults.bench import Bench, Finding

_ASKED = Request("q1", (Stream("math", "What is 2 + 2?"),), arm="math")
_GOOD = Draft("key", "4", "stop", Usage(7, 2, 3, 2, 0.25, 0.001), "smollm", (TokenLogprob("4", -0.1),))
_DRAFTS = {f"{i:064x}": replace(_GOOD, key=f"{i:064x}", text=f"answer {i} " * 9) for i in range(60)}
_BEGUN = 2  # entries of a log that say what was there before
_SECTOR = 512  # bytes that a disk writes whole or not at all


def flipped_bits(bench: Bench, flips: int, seed: int = 1) -> Finding:
    """R16: one bit of the file at a time; beside it what SQLite alone would have served."""
    chance, folder = random.Random(seed), bench.new("flips")
    path, copy = folder / "drafts.sqlite", folder / "copy.sqlite"

    async def fill() -> None:
        async with DraftStore.open(path) as store:
            await asyncio.gather(*(store.put(draft, _ASKED) for draft in _DRAFTS.values()))

    async def read() -> dict[str, Draft]:
        async with DraftStore.open(copy) as store:
            return await store.get(list(_DRAFTS))

    asyncio.run(fill())
    whole, wrong, noticed, plain = path.read_bytes(), 0, 0, 0
    for _ in range(flips):
        broken = bytearray(whole)
        broken[chance.randrange(len(whole))] ^= 1 << chance.randrange(8)
        for old in folder.glob("copy.*"):
            old.unlink()
        copy.write_bytes(broken)
        plain += _plain_sqlite_is_wrong(copy)
        try:
            found = asyncio.run(read())
        except StoreError:
            found = {}
        wrong += sum(replace(draft, cached=False) != _DRAFTS[key] for key, draft in found.items())
        noticed += len(found) < len(_DRAFTS)
    figure = (
        f"wrong drafts served {wrong}; {noticed} flips cost a draft or the file, and were told; read by SQLite alone, "
        f"with integrity_check = ok, {plain} gave a wrong row"
    )
    promise = "a damaged row is never served: it counts as missing"
    return Finding("R16", "flipped bits in the store", promise, figure, flips, not wrong and noticed > flips / 4)


def _plain_sqlite_is_wrong(path: Path) -> bool:
    with closing(sqlite3.connect(path)) as connection:
        connection.text_factory = bytes
        try:
            rows = connection.execute("SELECT call_key, response FROM call").fetchall()
            sound = connection.execute("PRAGMA integrity_check").fetchall() == [(b"ok",)]
        except (sqlite3.Error, UnicodeDecodeError):  # the second where the name of a table is hit
            return False
    right = {key.encode(): draft.text.encode() for key, draft in _DRAFTS.items()}
    return sound and dict(rows) != right


def power_cuts(bench: Bench, cuts: int) -> Finding:
    """R2: the store's own writer and statements on SQLite in apsw, over a disk that remembers what was synced.

    After a cut a file holds what was synced, and of the writes since then any sectors, in any order. apsw brings its own
    SQLite; the settings are those of `composer.store.schema.connect`. A twentieth is cut again with synchronous=NORMAL,
    to see that such cuts do harm. Raises ImportError without apsw.
    """
    lost, promised, corrupt = _cut(bench, cuts, "FULL")
    control, of, _ = _cut(bench, cuts // 20, "NORMAL")
    figure = (
        f"acknowledged drafts lost {lost} of {promised:,}, stores damaged {corrupt} "
        f"(control, synchronous=NORMAL: lost {control:,} of {of:,})"
    )
    promise = "what was acknowledged is there, and the file is sound"
    return Finding(
        "R2", "power cut while drafts are stored", promise, figure, cuts, not (lost or corrupt) and control > 0
    )


def _cut(bench: Bench, cuts: int, synchronous: str, seed: int = 7) -> tuple[int, int, int]:
    """Acknowledged drafts that were lost, of how many, and stores that were damaged."""
    chance, lost, corrupt, done = random.Random(seed), 0, 0, 0
    acknowledged_in_all = 0
    while done < cuts:
        log, acknowledged = _recorded(bench.new("power"), chance, synchronous)
        for _ in range(min(100, cuts - done)):
            moment = chance.randint(_BEGUN, len(log))
            promised = {key for key, at in acknowledged if at <= moment}
            acknowledged_in_all += len(promised)
            with tempfile.TemporaryDirectory(dir=bench.folder) as after:
                _restore(log, moment, chance, Path(after))
                kept = asyncio.run(_kept(Path(after) / "drafts.sqlite"))
            corrupt += kept is None
            lost += len(promised - (kept or set()))
            done += 1
    return lost, acknowledged_in_all, corrupt


async def _kept(path: Path) -> set[str] | None:
    """The sound drafts of a store after a cut; None where it is damaged."""
    try:
        async with DraftStore.open(path) as store:
            found = await store.get(list(_DRAFTS))
            sound = store.corrupt == 0
    except StoreError:
        return None
    with closing(sqlite3.connect(path)) as connection:
        sound = sound and connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    right = all(replace(draft, cached=False) == _DRAFTS[key] for key, draft in found.items())
    return set(found) if sound and right else None


class _AsSqlite3:
    """As much of `sqlite3.Connection` as the writer uses, on a connection of apsw."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self.close = connection.close
        self.rowcount = -1

    @property
    def in_transaction(self) -> bool:
        return bool(self._connection.in_transaction)

    def execute(self, sql: str, values: Sequence[Any] = ()) -> _AsSqlite3:
        before = self._connection.total_changes()
        self._rows = self._connection.execute(sql, values).fetchall()
        self.rowcount = self._connection.total_changes() - before
        return self

    def fetchone(self) -> Any:
        return self._rows[0] if self._rows else None


_Entry = tuple[str, str, int, bytes]
"""What a file was told: `write` (at an offset), `truncate`, `sync`, `delete`; its name, the offset or size, the data."""


def _recorded(folder: Path, chance: random.Random, synchronous: str) -> tuple[list[_Entry], list[tuple[str, int]]]:
    """Store the drafts; what the disk was told, in order, and how far it was when each draft was acknowledged."""
    import apsw  # noqa: PLC0415 - only this needs it, and it comes with the extra `faults`

    path, log, acknowledged = folder / "drafts.sqlite", list[_Entry](), list[tuple[str, int]]()
    connect(path).close()  # the tables; the log is whole and gone after it
    log.append(("write", path.name, 0, path.read_bytes()))
    log.append(("sync", path.name, 0, b""))

    class File(apsw.VFSFile):
        def __init__(self, name: Any, flags: list[int]) -> None:
            self._name = Path(name.filename() if isinstance(name, apsw.URIFilename) else name or "").name
            super().__init__("", name, flags)

        def xWrite(self, data: bytes, offset: int) -> None:
            log.append(("write", self._name, offset, bytes(data)))
            super().xWrite(data, offset)

        def xTruncate(self, size: int) -> None:
            log.append(("truncate", self._name, size, b""))
            super().xTruncate(size)

        def xSync(self, flags: int) -> None:
            log.append(("sync", self._name, 0, b""))
            super().xSync(flags)

    class Disk(apsw.VFS):
        def __init__(self) -> None:
            super().__init__("remembering", "")

        def xOpen(self, name: Any, flags: list[int]) -> Any:
            return File(name, flags)

        def xDelete(self, name: str, sync: bool) -> None:
            log.append(("delete", Path(name).name, 0, b""))
            super().xDelete(name, sync)

    disk = Disk()
    connection = apsw.Connection(str(path), vfs="remembering")
    for pragma in ("journal_mode = WAL", f"synchronous = {synchronous}", "fullfsync = ON", "wal_autocheckpoint = 40"):
        connection.execute(f"PRAGMA {pragma}").fetchall()
    writer = Writer(cast(sqlite3.Connection, _AsSqlite3(connection)), path)
    waiting = list[Future[None]]()
    for key, draft in _DRAFTS.items():
        cells = draft_cells(draft, _ASKED)
        future = writer.submit(lambda to, cells=cells: insert(to, CALL, cells))  # type: ignore[misc]
        future.add_done_callback(lambda _, key=key: acknowledged.append((key, len(log))))  # type: ignore[misc]
        waiting.append(future)
        if chance.random() < 0.3:
            waiting.pop().result()
    for future in waiting:
        future.result()
    writer.close()
    with suppress(apsw.Error):
        disk.unregister()
    return log, acknowledged


def _restore(log: list[_Entry], moment: int, chance: random.Random, folder: Path) -> None:
    """What lies on the disk when the power ends after `moment` entries."""
    synced = Counter[str]()
    for at, (what, name, _, _) in enumerate(log[:moment]):
        if what == "sync":
            synced[name] = at
    share = chance.choice([0.0, 0.5, 0.9, 1.0])
    files: dict[str, bytearray] = {}
    for at, (what, name, offset, data) in enumerate(log[:moment]):
        if at > synced[name] or name not in synced:  # maybe
            if what == "write":
                for start in range(0, len(data), _SECTOR):
                    if chance.random() < share:
                        _put(files.setdefault(name, bytearray()), offset + start, data[start : start + _SECTOR])
                continue
            if chance.random() >= share:
                continue
        if what == "write":
            _put(files.setdefault(name, bytearray()), offset, data)
        elif what == "truncate":
            del files.setdefault(name, bytearray())[offset:]
        elif what == "delete":
            files.pop(name, None)
    for name, content in files.items():
        (folder / name).write_bytes(content)


def _put(file: bytearray, offset: int, data: bytes) -> None:
    if len(file) < offset:
        file.extend(bytes(offset - len(file)))
    file[offset : offset + len(data)] = data
