"""Where things of the user's lie, and how a folder among them is replaced as a whole."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from filelock import FileLock


_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,100}")


def cache_folder() -> Path:
    """The folder that `COE_CACHE` names, else the user's cache: what is in it can be made again."""
    from platformdirs import user_cache_path  # noqa: PLC0415 a named folder needs none of it

    named = os.environ.get("COE_CACHE")
    return Path(named).expanduser().absolute() if named else user_cache_path("coe", appauthor=False)


def index_folder(name: str) -> Path:
    """Where the index of passages of this name lies: a path as it stands, a bare name in the user's data folder (or the
    folder that `COE_INDEXES` names). Raises ValueError for a name that is none."""
    from platformdirs import user_data_path  # noqa: PLC0415

    if os.sep in name or name.startswith("~"):
        return Path(name).expanduser().absolute()
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} is no name of an index: use letters, digits, dots and dashes, or a path")
    root = os.environ.get("COE_INDEXES")
    return (Path(root).expanduser().absolute() if root else user_data_path("coe", appauthor=False) / "indexes") / name


@contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """A new folder to fill: when the block has ended without an error, it stands in the place of `folder`.

    Who calls `mend` before looking finds the old one or the new one, also after a crash on the way. Raises OSError.
    """
    import shutil  # noqa: PLC0415 routing reads only
    import tempfile  # noqa: PLC0415

    folder = folder.resolve()  # a link stays a link
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        yield fresh
        fresh.chmod(0o755)
        old = _old(folder)
        with lock(folder):
            if folder.exists():
                shutil.rmtree(old, ignore_errors=True)  # the process before us died while clearing it away
                folder.rename(old)
            fresh.rename(folder)
            shutil.rmtree(old, ignore_errors=True)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise


def mend(folder: Path) -> None:
    """Put back what a crash between the two renames of `replacing` left under another name."""
    folder = folder.resolve()
    if not folder.exists() and _old(folder).exists():
        with lock(folder):
            if not folder.exists() and _old(folder).exists():
                _old(folder).rename(folder)


def lock(folder: Path) -> FileLock:
    """Held while `folder` changes its name."""
    from filelock import FileLock  # noqa: PLC0415 routing reads only

    name = hashlib.sha256(str(folder.absolute()).encode()).hexdigest()[:16]
    place = cache_folder() / "locks" / f"folder-{name}.lock"
    place.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(place)


def _old(folder: Path) -> Path:
    """Where the old folder is while the new one takes its name."""
    return folder.with_name(f".{folder.name}-old")
