"""pip's settings for where packages come from: its variables and its configuration files, read as pip reads them."""

from __future__ import annotations

import configparser
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from composer.errors import SourceError
from composer.registry.transfer import Network, split_secret

_PYPI = "https://pypi.org/simple"
_SECTIONS = ("global", "install", "download")  # what we do is a download: its section is read last and wins
_YES = {"1", "true", "yes", "on", "t", "y"}


@dataclass(frozen=True, slots=True)
class PipSettings:
    """`indexes` and `links` are addresses (`https:`, `file:`) without user and password, which are in `network`."""

    indexes: tuple[str, ...]
    links: tuple[str, ...]
    network: Network


def read_pip() -> PipSettings:
    """What pip would use here. A variable wins over every file; of files, the environment's over the user's over the
    machine's, and `PIP_CONFIG_FILE` over all. Raises SourceError for a file that pip could not read either."""
    values = _from_files() | _from_variables()
    indexes = [values.get("index-url", _PYPI), *values.get("extra-index-url", "").split()]
    if values.get("no-index", "").lower() in _YES:
        indexes = []
    places = [_address(text) for text in (*indexes, *values.get("find-links", "").split())]
    secrets = {url: secret for url, secret in places if secret}
    urls = [url for url, _ in places]
    return PipSettings(
        indexes=tuple(url.rstrip("/") for url in urls[: len(indexes)]),
        links=tuple(urls[len(indexes) :]),
        network=Network(
            cert=_file(values.get("cert")),
            client_cert=_file(values.get("client-cert")),
            trusted=tuple(values.get("trusted-host", "").split()),
            proxy=values.get("proxy"),
            timeout=_seconds(values.get("timeout") or values.get("default-timeout") or "15"),
            secrets=secrets,
        ),
    )


def _address(text: str) -> tuple[str, str | None]:
    """A clean address and its secret. What has no scheme is a path."""
    if "://" not in text and not text.startswith("file:"):
        return Path(text).expanduser().absolute().as_uri(), None
    try:
        return split_secret(text)
    except ValueError as why:  # the text is not repeated: it may hold a password
        raise SourceError("an index address is not one", remedy="correct pip's index-url or extra-index-url") from why


def _file(text: str | None) -> str | None:
    return str(Path(text).expanduser()) if text else None


def _seconds(text: str) -> float:
    try:
        return float(text)
    except ValueError as why:
        raise SourceError(f"pip's timeout {text!r} is no number", remedy="correct PIP_DEFAULT_TIMEOUT") from why


def _from_variables() -> dict[str, str]:
    """`PIP_INDEX_URL` -> `index-url`; an empty one counts as unset."""
    return {
        name.removeprefix("PIP_").lower().replace("_", "-"): value.strip()
        for name, value in os.environ.items()
        if name.startswith("PIP_") and value.strip()
    }


def _from_files() -> dict[str, str]:
    """The settings of all files: a later file replaces an earlier one's, a later section an earlier one's."""
    sections: dict[str, dict[str, str]] = {name: {} for name in _SECTIONS}
    for path in _files():
        parser = configparser.RawConfigParser()
        try:
            parser.read(path, encoding="utf-8")
        except (configparser.Error, UnicodeDecodeError) as why:  # no text of `why`: it may quote a password
            raise SourceError("this file cannot be read as pip's configuration", where=str(path)) from why
        for name in filter(parser.has_section, _SECTIONS):
            found = {
                key.lower().replace("_", "-").removeprefix("--"): value.strip() for key, value in parser.items(name)
            }
            sections[name] |= found
    merged: dict[str, str] = {}
    for values in sections.values():
        merged |= {key: value for key, value in values.items() if value}
    return merged


def _files() -> list[Path]:
    """pip's configuration files, from the weakest to the strongest; most of them do not exist."""
    named = os.environ.get("PIP_CONFIG_FILE")
    if named == os.devnull:
        return []  # pip's way to say: no file at all
    base = "pip.ini" if sys.platform == "win32" else "pip.conf"
    dirs = platformdirs.site_config_dir("pip", appauthor=False, multipath=True).split(os.pathsep)
    if sys.platform not in ("win32", "darwin"):
        dirs.append("/etc")
    shared = [Path(folder) for folder in dirs]
    own = [
        Path("~", "pip" if sys.platform == "win32" else ".pip").expanduser(),
        Path("~/.config/pip").expanduser(),
        platformdirs.user_config_path("pip", appauthor=False, roaming=True),
    ]
    if named and Path(named).exists():
        own = []  # pip reads it in the place of the user's
    files = [folder / base for folder in (*shared, *own, Path(sys.prefix))]
    return [*files, Path(named)] if named else files
