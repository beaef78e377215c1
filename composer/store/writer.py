"""One thread writes: rows that arrive together share a commit, and nobody is told "stored" before that commit."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

from composer.errors import StoreError
from composer.faults import kill_point
from composer.store.schema import ATTEMPTS, busy, explain

WINDOW = 0.025  # seconds between two commits: a lone row goes at once, those that follow it wait for company
ROWS = 64  # rows that end the waiting

Write = Callable[[sqlite3.Connection], None]
"""Writes its rows into an open transaction. It may refuse with StoreError, but only before it has written anything."""

_Job = tuple[Write, "Future[None]"]


class Writer:
    """Owns one connection. `commits` counts the transactions that were committed."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self.commits = 0
        self._connection = connection
        self._path = path
        self._jobs: deque[_Job] = deque()
        self._wake = threading.Condition()
        self._closing = False
        self._died: BaseException | None = None
        self._last = 0.0  # when the last commit ended, on the monotonic clock
        # A daemon: a program that forgets to close still ends; what it was told is stored, is.
        self._thread = threading.Thread(target=self._run, name="coe-store-writer", daemon=True)
        self._thread.start()

    def submit(self, write: Write) -> Future[None]:
        """Queue a write; the future ends after its commit. Raises StoreError if the store is closed."""
        future: Future[None] = Future()
        with self._wake:
            if self._died is not None:
                raise self._over() from self._died
            if self._closing:
                raise closed(self._path)
            self._jobs.append((write, future))
            if len(self._jobs) in (1, ROWS):
                self._wake.notify()
        return future

    def close(self) -> None:
        """Commit what is queued, then end the thread. Safe to call twice."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join()

    def _run(self) -> None:
        try:
            # no name holds a batch while the next is waited for: a run's questions are megabytes
            while self._commit(self._next()):
                pass
        except BaseException as why:
            # Nobody can catch it here; every caller, now and later, gets it instead of waiting for ever.
            with self._wake:
                self._died = why
                left = list(self._jobs)
                self._jobs.clear()
            _fail(left, self._over(), why)
        finally:
            self._connection.close()

    def _next(self) -> list[_Job]:
        """The rows of the next commit; none once the store is closed and drained."""
        with self._wake:
            self._wake.wait_for(lambda: self._jobs or self._closing)
            rest = max(0.0, self._last + WINDOW - time.monotonic())
            self._wake.wait_for(lambda: len(self._jobs) >= ROWS or self._closing, timeout=rest)
            return [self._jobs.popleft() for _ in range(min(ROWS, len(self._jobs)))]

    def _commit(self, batch: list[_Job]) -> bool:
        """Whether there was anything to commit."""
        if not batch:
            return False
        # A caller that has gone away meanwhile gets no answer, but its row is written: it was paid for.
        told = [job for job in batch if job[1].set_running_or_notify_cancel()]
        try:
            refused = self._transact(batch)
        except sqlite3.Error as why:
            _fail(told, explain(why, self._path), why)
            return True
        except BaseException as why:
            with self._wake:
                self._died = why
            _fail(told, self._over(), why)
            raise
        self.commits += 1
        self._last = time.monotonic()
        kill_point("store.after_commit")
        for _, future in told:
            if future in refused:
                future.set_exception(refused[future])
            else:
                future.set_result(None)
        return True

    def _transact(self, batch: list[_Job]) -> dict[Future[None], StoreError]:
        """Write a batch as one transaction; return who refused."""
        for attempt in range(1, ATTEMPTS + 1):
            refused: dict[Future[None], StoreError] = {}
            try:
                kill_point("store.before_commit")
                self._connection.execute("BEGIN IMMEDIATE")
                for write, future in batch:
                    try:
                        write(self._connection)
                    except StoreError as why:
                        refused[future] = why
                kill_point("store.mid_commit")
                self._connection.execute("COMMIT")
                break
            except BaseException as why:
                if self._connection.in_transaction:
                    with contextlib.suppress(sqlite3.Error):
                        self._connection.execute("ROLLBACK")
                if attempt == ATTEMPTS or not (isinstance(why, sqlite3.Error) and busy(why)):
                    raise
        return refused

    def _over(self) -> StoreError:
        return StoreError(
            f"the store's writer ended unexpectedly: {self._died!r}",
            where=str(self._path),
            remedy="run the same command again: everything that was stored is kept; please report this as a bug",
        )


def closed(path: Path) -> StoreError:
    """The error of using a store after `close`."""
    return StoreError("the draft store is closed", where=str(path), remedy="open it again")


def _fail(jobs: list[_Job], error: StoreError, why: BaseException) -> None:
    """Tell each caller; each gets an exception of its own, for tracebacks grow in place."""
    for _, future in jobs:
        own = type(error)(error.what, where=error.where, remedy=error.remedy)
        own.__cause__ = why
        with contextlib.suppress(Exception):  # cancelled meanwhile
            future.set_exception(own)
