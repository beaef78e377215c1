"""The store's file: its tables, how it is opened, and what SQLite's complaints mean for the user."""

from __future__ import annotations

import os
import sqlite3
import time
from dataclasses import dataclass
from pathlib import Path

from composer.errors import StoreCorruptError, StoreError, StoreFullError
from composer.types import WHOLE

VERSION = 3
APPLICATION = 0x434F4544  # "COED" in the file's header: nobody else's database is written to
BUSY_SECONDS = 10.0  # how long one attempt waits for another process; ATTEMPTS of them, then the caller hears of it
ATTEMPTS = 3
# SQLite quotes a damaged schema in its complaint, and Python cannot decode it.
UNREADABLE = (sqlite3.Error, UnicodeDecodeError)
WHOLE_SQL = f"({', '.join(repr(stop) for stop in sorted(WHOLE))})"  # for `IN`
BUSY_CODES = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL})


@dataclass(frozen=True, slots=True)
class Table:
    """A table of sealed rows: the first `keys` columns are its primary key, the last one is the seal."""

    name: str
    columns: tuple[str, ...]
    keys: int

    @property
    def listed(self) -> str:
        """The columns as SQL."""
        return ", ".join(f"{self.name}.{column}" for column in self.columns)


RUN = Table("run", ("run_id", "config_sha", "code_version", "started", "sha256"), keys=1)
QUESTION = Table("question", ("run_id", "custom_id", "line_no", "input_sha", "sha256"), keys=2)
CALL = Table(
    "call",
    (
        "call_key",
        "expert",
        "arm",
        "role",
        "request_sha",
        "response",
        "finish_reason",
        "usage",
        "logprobs",
        "served_by",
        "stop_detail",
        "created",
        "sha256",
    ),
    keys=1,
)
RESULT = Table("result", ("run_id", "custom_id", "k", "status", "payload", "trace_id", "sha256"), keys=3)
ORIGIN = Table(
    "origin",
    ("run_id", "kind", "source", "out", "inputs_sha", "registry_path", "registry_text", "sha256"),
    keys=1,
)
TOLD = Table("told", ("run_id", "n", "options", "sha256"), keys=2)
START = Table("start", ("run_id", "n", "started", "code_version", "sha256"), keys=2)
ENDING = Table("ending", ("run_id", "n", "state", "ended", "summary", "sha256"), keys=2)
CHARGE = Table(
    "charge",
    (
        "run_id",
        "n",
        "custom_id",
        "arm",
        "role",
        "sample",
        "call_key",
        "stop",
        "cached",
        "tokens_in",
        "tokens_out",
        "passes",
        "seconds",
        "cost",
        "sha256",
    ),
    keys=6,
)
TABLES = (RUN, QUESTION, CALL, RESULT, ORIGIN, TOLD, START, ENDING, CHARGE)

# Without rowid each table is one tree: no second index whose damage could point a key at another key's row.
_FIRST = (
    """CREATE TABLE run (
        run_id TEXT PRIMARY KEY, config_sha TEXT NOT NULL, code_version TEXT NOT NULL, started TEXT NOT NULL,
        sha256 TEXT NOT NULL
    ) STRICT, WITHOUT ROWID""",
    """CREATE TABLE question (
        run_id TEXT NOT NULL, custom_id TEXT NOT NULL, line_no INTEGER NOT NULL, input_sha TEXT NOT NULL,
        sha256 TEXT NOT NULL, PRIMARY KEY (run_id, custom_id)
    ) STRICT, WITHOUT ROWID""",
    """CREATE TABLE call (
        call_key TEXT PRIMARY KEY, expert TEXT NOT NULL, arm TEXT NOT NULL, role TEXT NOT NULL,
        request_sha TEXT NOT NULL, response TEXT NOT NULL, finish_reason TEXT NOT NULL, usage TEXT NOT NULL,
        logprobs TEXT, served_by TEXT NOT NULL, stop_detail TEXT NOT NULL, created TEXT NOT NULL, sha256 TEXT NOT NULL
    ) STRICT, WITHOUT ROWID""",
    """CREATE TABLE result (
        run_id TEXT NOT NULL, custom_id TEXT NOT NULL, k INTEGER NOT NULL, status TEXT NOT NULL,
        payload TEXT NOT NULL, trace_id TEXT, sha256 TEXT NOT NULL, PRIMARY KEY (run_id, custom_id, k)
    ) STRICT, WITHOUT ROWID""",
    "CREATE INDEX result_trace ON result (trace_id) WHERE trace_id IS NOT NULL",
)
# Since schema 2: where a run comes from, each start of it and how that ended, and what each of its drafts cost. A start
# without an ending was killed. `charge` has a row per draft a start received, failed and cached ones included.
_SECOND = (
    """CREATE TABLE origin (
        run_id TEXT PRIMARY KEY, kind TEXT NOT NULL, source TEXT NOT NULL, out TEXT NOT NULL,
        inputs_sha TEXT NOT NULL, registry_path TEXT NOT NULL, registry_text TEXT NOT NULL, sha256 TEXT NOT NULL
    ) STRICT, WITHOUT ROWID""",
    """CREATE TABLE start (
        run_id TEXT NOT NULL, n INTEGER NOT NULL, started TEXT NOT NULL, code_version TEXT NOT NULL,
        sha256 TEXT NOT NULL, PRIMARY KEY (run_id, n)
    ) STRICT, WITHOUT ROWID""",
    """CREATE TABLE ending (
        run_id TEXT NOT NULL, n INTEGER NOT NULL, state TEXT NOT NULL, ended TEXT NOT NULL, summary TEXT NOT NULL,
        sha256 TEXT NOT NULL, PRIMARY KEY (run_id, n)
    ) STRICT, WITHOUT ROWID""",
    """CREATE TABLE charge (
        run_id TEXT NOT NULL, n INTEGER NOT NULL, custom_id TEXT NOT NULL, arm TEXT NOT NULL, role TEXT NOT NULL,
        sample INTEGER NOT NULL, call_key TEXT NOT NULL, stop TEXT NOT NULL, cached INTEGER NOT NULL,
        tokens_in INTEGER NOT NULL, tokens_out INTEGER NOT NULL, passes INTEGER NOT NULL, seconds REAL NOT NULL,
        cost REAL, sha256 TEXT NOT NULL, PRIMARY KEY (run_id, n, custom_id, arm, role, sample)
    ) STRICT, WITHOUT ROWID""",
)


# Since schema 3: what each start was told besides its files, as a JSON list of words, where it was told anything.
_THIRD = (
    """CREATE TABLE told (
        run_id TEXT NOT NULL, n INTEGER NOT NULL, options TEXT NOT NULL, sha256 TEXT NOT NULL,
        PRIMARY KEY (run_id, n)
    ) STRICT, WITHOUT ROWID""",
)


def connect(path: Path) -> sqlite3.Connection:
    """Open the store at `path`, making it if nothing is there. Any thread may use the connection, one at a time.

    Text comes back as bytes: it is decoded only after its seal was checked. Raises StoreCorruptError if the file is no
    readable database, StoreError if it cannot be opened, belongs to something else, or is newer than this program.
    """
    connection: sqlite3.Connection | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        connection.text_factory = bytes
        _prepare(connection, path)
    except (OSError, *UNREADABLE, StoreError) as why:
        if connection is not None:
            connection.close()
        if isinstance(why, StoreError):
            raise
        raise explain(why, path) from why
    return connection


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    """Check whose file it is before anything in it is changed, then set it up for durable writes."""
    connection.execute("BEGIN")  # all that `_known` reads is of one moment: another process may be making the store
    known = _known(connection, path)
    connection.execute("COMMIT")
    # Several processes may open a new store at once; switching to WAL does not wait for the others by itself.
    until = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            [mode] = connection.execute("PRAGMA journal_mode = WAL").fetchone()
            break
        except sqlite3.OperationalError as why:
            if not busy(why) or time.monotonic() > until:
                raise
            time.sleep(0.01)
    if mode != b"wal":
        raise StoreError(
            f"the file system does not allow SQLite's write-ahead log (journal mode is {mode.decode()!r})",
            where=str(path),
            remedy="name a file on a local disk in COE_STORE",
        )
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA fullfsync = ON")  # macOS: its plain fsync leaves data in the disk's cache
    if known == VERSION:
        return
    if known:
        _back_up(connection, path, known)
    connection.execute("BEGIN IMMEDIATE")
    known = _known(connection, path)  # another process may have been faster
    for version, statements in ((1, _FIRST), (2, _SECOND), (3, _THIRD)):
        for statement in statements if known < version else ():
            connection.execute(statement)
    connection.execute(f"PRAGMA application_id = {APPLICATION}")
    connection.execute(f"PRAGMA user_version = {VERSION}")
    connection.execute("COMMIT")


def backup_of(path: Path, version: int) -> Path:
    """Where the store as it was before its migration from schema `version` is kept."""
    return path.with_name(f"{path.name}.schema{version}")


def _back_up(connection: sqlite3.Connection, path: Path, version: int) -> None:
    """Keep the store as it is, unless that was done before: a second backup would hold less of the old."""
    place = backup_of(path, version)
    if place.exists():
        return
    draft = place.with_name(f"{place.name}.{os.getpid()}.tmp")
    try:
        copy = sqlite3.connect(draft)
        try:
            connection.backup(copy)
        finally:
            copy.close()
        with draft.open("rb") as file:
            os.fsync(file.fileno())
        draft.replace(place)
    except (OSError, sqlite3.Error) as why:
        draft.unlink(missing_ok=True)
        raise StoreError(
            f"the draft store has schema {version}, and no backup could be made before it is brought to {VERSION} ({why})",
            where=str(place),
            remedy="free disk space in this folder, or name another file in COE_STORE",
        ) from why


def _known(connection: sqlite3.Connection, path: Path) -> int:
    """The schema our tables have; 0 for an empty file, StoreError for anything else."""
    [application] = connection.execute("PRAGMA application_id").fetchone()
    [version] = connection.execute("PRAGMA user_version").fetchone()
    [tables] = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if not (application or version or tables):
        return 0
    if application != APPLICATION:
        raise StoreError(
            "this is a database, but not a draft store", where=str(path), remedy="name another file in COE_STORE"
        )
    if not 1 <= version <= VERSION:
        raise StoreError(
            f"the draft store has schema {version}, this version of coe reads schemas 1 to {VERSION}",
            where=str(path),
            remedy="upgrade composition-of-experts, or name another file in COE_STORE",
        )
    return int(version)


def busy(why: Exception) -> bool:
    """Whether another process merely held the database."""
    return _code(why) in BUSY_CODES


def _code(why: Exception) -> int:
    """SQLite's primary result code; 0 if the error is not SQLite's."""
    return int(getattr(why, "sqlite_errorcode", 0)) & 0xFF


def explain(why: Exception, path: Path) -> StoreError:
    """What an error of SQLite or of the system means, with the next step."""
    code, where = _code(why), str(path)
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB) or isinstance(why, UnicodeDecodeError):
        return StoreCorruptError(
            f"the draft store is damaged, or is no database ({why})",
            where=where,
            remedy=f"move {path.name}, {path.name}-wal and {path.name}-shm away, or name another file in COE_STORE; "
            "a new store is made, and what only the old one held is asked again",
        )
    if code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR):
        kind = StoreFullError if code == sqlite3.SQLITE_FULL else StoreError
        return kind(
            f"the draft store cannot be written ({why})",
            where=where,
            remedy="free disk space or check the disk, then run the same command again: everything finished is kept",
        )
    if code in BUSY_CODES:
        return StoreError(
            f"another process has kept the draft store locked for {BUSY_SECONDS * ATTEMPTS:.0f} s ({why})",
            where=where,
            remedy="end that process and run the same command again, or name another file in COE_STORE",
        )
    return StoreError(
        f"the draft store cannot be used ({why})",
        where=where,
        remedy="make the file and its folder writable, or name another file in COE_STORE",
    )
