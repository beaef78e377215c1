"""The user's cache of fetched files: content-addressed, hashed once, then recognised by size and time."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from composer.errors import SourceError
from composer.folders import cache_folder

PART = ".part"
"""How the names of unfinished files end."""


def is_whole(place: Path) -> bool:
    """Whether a model lies there, and not a part of one: as a file, or as a folder."""
    return (place.is_file() and not place.name.endswith(PART)) or (place / "config.json").is_file()


@dataclass(frozen=True, slots=True)
class _Note:
    """What a file looked like when it was hashed: a file that still looks so is not read again. `kept`: we fetched it."""

    size: int
    mtime_ns: int
    sha256: str
    kept: bool = False


def unlike(where: str, found: str, expected: str, *, remedy: str) -> SourceError:
    """The error of a file that is not the one that was pinned."""
    return SourceError(f"its sha256 is {found}, expected {expected}", where=where, remedy=remedy)


class Cache:
    """Files in `files/<sha256>/`, notes on checked files (also those elsewhere) in `checked/`, locks in `locks/`."""

    def __init__(self, root: Path | None = None) -> None:
        self.root = root or cache_folder()

    def folder(self, sha256: str) -> Path:
        """Where the file with this sha256 lies, whatever its name."""
        return self.root / "files" / sha256

    def find(self, sha256: str) -> Path | None:
        """The file with this sha256, if it is here. One that we kept and that has changed since does not count (`keep`
        replaces it); one that somebody put here and that is another file is a SourceError: it is not ours to replace."""
        try:
            names = sorted(self.folder(sha256).iterdir())
        except (FileNotFoundError, NotADirectoryError):
            return None
        for path in names:
            if path.name.endswith(PART) or not path.is_file():
                continue
            found = self.digest(path)
            if found == sha256:
                return path
            note = self._note(path)
            if note is None or not note.kept:
                raise unlike(str(path), found, sha256, remedy=f"remove {path}, or put the right file there")
        return None

    def digest(self, path: Path) -> str:
        """The sha256 of a file, read only if its size or time is not what it was when last read."""
        known = self._note(path)
        with path.open("rb") as file:
            state = os.fstat(file.fileno())  # before reading: what changes meanwhile is read again next time
            if known and (known.size, known.mtime_ns) == (state.st_size, state.st_mtime_ns):
                return known.sha256
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        self._write_note(path, _Note(state.st_size, state.st_mtime_ns, sha256, kept=bool(known and known.kept)))
        return sha256

    def keep(self, part: Path, sha256: str, name: str) -> Path:
        """Take over a finished, checked file under its name, holding the lock. Whatever else lies there goes: a file
        that has changed, and what other attempts left unfinished."""
        path = self.folder(sha256) / name
        state = part.stat()
        part.replace(path)
        self._write_note(path, _Note(state.st_size, state.st_mtime_ns, sha256, kept=True))
        for left in self.folder(sha256).iterdir():
            if left != path:
                left.unlink()
        return path

    @contextlib.contextmanager
    def lock(self, sha256: str) -> Iterator[Path]:
        """The file's folder, with nobody else at work in it; waits for whoever is."""
        from filelock import FileLock  # noqa: PLC0415 - 70 ms to import, and only downloads need it

        locks, folder = self.root / "locks", self.folder(sha256)
        locks.mkdir(parents=True, exist_ok=True)
        with FileLock(locks / f"{sha256}.lock"):
            folder.mkdir(parents=True, exist_ok=True)
            try:
                yield folder
            finally:
                with contextlib.suppress(OSError):
                    folder.rmdir()  # only if nothing came of it

    def _note_path(self, path: Path) -> Path:
        key = hashlib.sha256(os.fsencode(path.absolute())).hexdigest()
        return self.root / "checked" / f"{key}.json"

    def _note(self, path: Path) -> _Note | None:
        try:
            note = _Note(**json.loads(self._note_path(path).read_bytes()))
        except (OSError, ValueError, TypeError):
            return None  # none, or not ours: the file is hashed again
        return note

    def _write_note(self, path: Path, note: _Note) -> None:
        place = self._note_path(path)
        draft = place.with_suffix(f".{os.getpid()}.{threading.get_ident()}")
        with contextlib.suppress(OSError):  # a cache that cannot be written costs another hashing, nothing else
            place.parent.mkdir(parents=True, exist_ok=True)
            draft.write_text(json.dumps(asdict(note)), encoding="utf-8")
            draft.replace(place)
