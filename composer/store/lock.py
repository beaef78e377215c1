"""One process at a time works on a run. The kernel holds the lock, so it dies with its holder and is never stale."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import time
from pathlib import Path

from composer.errors import StoreLockedError
from composer.store.schema import explain

_TRIES, _MOMENT = 3, 0.02  # attempts, and seconds between them


class RunLock:
    """A `flock` on a file in `locks/` beside the store; the file says who holds it and goes with the lock."""

    def __init__(self, store: Path, run_id: str) -> None:
        """Take the lock at once. Raises StoreLockedError naming the holder, StoreError if no file can be made."""
        self._path = _place(store, run_id)
        self._file: int | None = None
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._take(run_id)
            os.ftruncate(self._file, 0)
            os.pwrite(self._file, json.dumps({"pid": os.getpid(), "boot_id": _boot_id()}).encode(), 0)
        except OSError as why:
            self.release()
            raise explain(why, self._path) from why

    def release(self) -> None:
        """Free the run. Safe to call twice."""
        if self._file is None:
            return
        self._path.unlink(missing_ok=True)  # before the lock goes: whoever comes next makes a file of their own
        os.close(self._file)
        self._file = None

    def _take(self, run_id: str) -> int:
        tries = 0
        while True:
            file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if self._is_at_path(file):
                    return file
            except BlockingIOError as why:
                holder = _holder(os.pread(file, 1000, 0))
                os.close(file)
                tries += 1
                if tries < _TRIES:  # a `sweep` holds every lock for a moment
                    time.sleep(_MOMENT)
                    continue
                raise StoreLockedError(
                    f"{holder} works on the run {run_id!r}",
                    where=str(self._path),
                    remedy="wait until it ends or stop it, then run the same command again; or choose another --out",
                ) from why
            except OSError:
                os.close(file)
                raise
            os.close(file)  # its last holder removed it between our opening and locking it

    def _is_at_path(self, file: int) -> bool:
        try:
            there = self._path.stat()
        except FileNotFoundError:
            return False
        return os.path.samestat(there, os.fstat(file))


def is_held(store: Path, run_id: str) -> bool:
    """Whether a process works on the run just now."""
    try:
        file = os.open(_place(store, run_id), os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(file)
    return False


def sweep(store: Path) -> int:
    """Remove the lock files that killed processes left behind; how many those were."""
    removed = 0
    for path in (store.parent / "locks").glob(f"{store.name}-*.lock"):
        try:
            file = os.open(path, os.O_RDWR)
        except OSError:
            continue
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink(missing_ok=True)
            removed += 1
        except OSError:
            pass  # held, or not ours to remove
        finally:
            os.close(file)
    return removed


def _place(store: Path, run_id: str) -> Path:
    name = hashlib.sha256(run_id.encode()).hexdigest()[:24]
    return store.parent / "locks" / f"{store.name}-{name}.lock"


def _holder(note: bytes) -> str:
    """Who holds a lock, from what it wrote into the file."""
    try:
        read = json.loads(note)
        pid, boot_id = int(read["pid"]), read["boot_id"]
    except (ValueError, KeyError, TypeError):
        return "another process"  # it has the lock but has not signed yet
    if boot_id != _boot_id():
        return f"process {pid} of another machine"
    return "this process" if pid == os.getpid() else f"process {pid}"


def _boot_id() -> str:
    """What tells this start of this machine from any other; empty where the system has no such thing."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
