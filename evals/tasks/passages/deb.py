"""Files out of a Debian package (an `ar` archive that holds a `tar`), and the pinned package of manual pages."""

from __future__ import annotations

import hashlib
import io
import lzma
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath

from composer.errors import InputError, SourceError, UnreachableError
from composer.folders import cache_folder

MANPAGES_SHA256 = "efa1ba4cd19ad7baeae959c9209a7eb74be2ebb858bcabb412597bfc9f588c91"
MANPAGES_URLS = (
    "https://deb.debian.org/debian/pool/main/m/manpages/manpages_6.03-2_all.deb",
    "http://deb.debian.org/debian/pool/main/m/manpages/manpages_6.03-2_all.deb",
    # keeps every version that there ever was, by the sha1 of the file
    "https://snapshot.debian.org/file/175c009a2b0fe1234bd93d8b98ceb6aa974a3170",
)
"""Debian's package `manpages` 6.03-2 (of Debian 12): sections 4, 5, 7 and 8 of the Linux manual pages. The sha256 decides,
so a mirror without encryption does as well."""

MOST = 64_000_000  # bytes of a package, and of all that is read out of it
_MAGIC, _HEAD = b"!<arch>\n", 60


def manpages_deb() -> Path:
    """The pinned package, from the cache folder or fetched into it. Raises UnreachableError where no source answers,
    SourceError where what came is another file."""
    place = cache_folder() / "evals" / MANPAGES_URLS[0].rsplit("/", 1)[1]
    with suppress(OSError):
        if hashlib.sha256(place.read_bytes()).hexdigest() == MANPAGES_SHA256:
            return place
    whys = []
    for url in MANPAGES_URLS:
        try:
            data = _fetched(url)
        except UnreachableError as why:
            whys.append(f"{url}: {why.what}")
            continue
        if (found := hashlib.sha256(data).hexdigest()) != MANPAGES_SHA256:
            raise SourceError(f"its sha256 is {found}, expected {MANPAGES_SHA256}", where=url, remedy=_REMEDY)
        place.parent.mkdir(parents=True, exist_ok=True)
        part = place.with_suffix(".part")
        part.write_bytes(data)
        part.replace(place)
        return place
    raise UnreachableError(f"no source has it ({'; '.join(whys)})", where=place.name, remedy=_REMEDY)


_REMEDY = "get it with `apt-get download manpages`, and name it with --deb FILE; or name a folder with --folder"


def _fetched(url: str) -> bytes:
    import httpx  # noqa: PLC0415 - only where it is not in the cache

    data = bytearray()
    try:
        with httpx.stream("GET", url, timeout=30, follow_redirects=True) as reply:
            reply.raise_for_status()
            for piece in reply.iter_bytes():
                data += piece
                if len(data) > MOST:
                    raise SourceError(f"more than {MOST:,} bytes", where=url, remedy=_REMEDY)
    except httpx.HTTPError as why:
        raise UnreachableError(str(why) or type(why).__name__, where=url) from why
    return bytes(data)


def deb_files(path: Path, under: str) -> Iterator[tuple[str, bytes]]:
    """(name, content) of the plain files below the folder `under` of a package, in the order of the archive; links are
    left out, and nothing is written to disk. Raises InputError where it is no package, or holds more than `MOST` bytes."""
    try:
        raw = path.read_bytes() if path.stat().st_size <= MOST else b""
    except OSError as why:
        raise InputError(f"cannot be read: {why.strerror}", where=str(path)) from why
    left, root = MOST, PurePosixPath(under)
    try:
        with tarfile.open(fileobj=io.BytesIO(_data(raw)), mode="r|*") as tar:
            for member in tar:
                name = PurePosixPath(member.name)  # `./usr/…`: a leading dot counts for nothing
                if not member.isfile() or root not in name.parents:
                    continue
                left -= member.size
                file = tar.extractfile(member) if left >= 0 else None
                if file is None:
                    raise InputError(f"it holds more than {MOST:,} bytes", where=str(path))
                yield str(name.relative_to(root)), file.read()
    except (ValueError, EOFError, OSError, lzma.LZMAError, zlib.error, tarfile.TarError) as why:
        raise InputError(f"this is no package of Debian ({why})", where=str(path), remedy="name a .deb file") from why


def _data(raw: bytes) -> bytes:
    """The member `data.tar.*` of an `ar` archive. Raises ValueError."""
    if not raw.startswith(_MAGIC):
        raise ValueError("it does not begin as one")
    at = len(_MAGIC)
    while at + _HEAD <= len(raw):
        head = raw[at : at + _HEAD]
        name, size = head[:16].decode("ascii", "replace").strip().rstrip("/"), int(head[48:58])
        if head[58:] != b"`\n" or size < 0:
            raise ValueError("a damaged header")
        if at + _HEAD + size > len(raw):
            raise ValueError("it ends early")
        if name.startswith("data.tar"):
            if name.endswith(".zst"):
                raise ValueError("its content is compressed with zstd, which Python's library does not read")
            return raw[at + _HEAD : at + _HEAD + size]
        at += _HEAD + size + size % 2
    raise ValueError("it has no member data.tar")
