"""Where a file comes from, as a registry declares it: a wheel of the package index, a model hub, or a path."""

from __future__ import annotations

import re
from dataclasses import dataclass

from composer.errors import ConfigError

SOURCE = "pypi:package==version/file, hf:owner/repo@revision/file (for vLLM without a file), default:file, or a path"
"""The forms of a source, for people."""

_PYPI = re.compile(r"([A-Za-z0-9](?:[\w.-]*[A-Za-z0-9])?)==(\w[\w.!+]*)/(.+)", re.ASCII)
_HF = re.compile(r"((?:[A-Za-z0-9][\w.-]*/)?[A-Za-z0-9][\w.-]*)@(\w[\w.-]*)(?:/(.+))?", re.ASCII)
_SCHEME = re.compile(r"([A-Za-z][\w+.-]+):")  # two letters or more: `C:/models` is a path


@dataclass(frozen=True, slots=True)
class PypiSource:
    """One file out of a wheel; `file` is its path inside the wheel. Nothing of the wheel is installed or run."""

    package: str
    version: str
    file: str

    def __str__(self) -> str:
        return f"pypi:{self.package}=={self.version}/{self.file}"


@dataclass(frozen=True, slots=True)
class HfSource:
    """One file of a repository on a model hub, at a revision; the whole repository where `file` is empty."""

    repo: str
    revision: str
    file: str

    def __str__(self) -> str:
        return f"hf:{self.repo}@{self.revision}" + (f"/{self.file}" if self.file else "")


@dataclass(frozen=True, slots=True)
class PathSource:
    """A file on this machine; relative to the registry file where it is not absolute."""

    path: str

    def __str__(self) -> str:
        return self.path


Source = PypiSource | HfSource | PathSource


def parse_source(text: str, where: str | None = None) -> Source:
    """The source that `text` declares. Raises ConfigError at `where`, with what was found and what was expected.

    >>> parse_source("hf:Qwen/Qwen3-8B@9c925d6/model.gguf")
    HfSource(repo='Qwen/Qwen3-8B', revision='9c925d6', file='model.gguf')
    """
    kind, _, rest = text.partition(":")
    expected = SOURCE
    if text.strip() and text.isprintable():
        if kind == "pypi":
            if (found := _PYPI.fullmatch(rest)) and _plain(found[3]):
                return PypiSource(*found.groups())
            expected = "pypi:package==version/file, the file as it is called inside the wheel"
        elif kind == "hf":
            if (found := _HF.fullmatch(rest)) and (found[3] is None or _plain(found[3])):
                return HfSource(*found.groups(default=""))
            expected = "hf:owner/repo@revision/file, the file as it is called in the repository (none: the whole of it)"
        elif scheme(text) is None:
            return PathSource(text)
    raise ConfigError(f"{text!r} is no source", where=where, remedy=f"write {expected}")


def scheme(text: str) -> str | None:
    """What stands before the colon of an address; None for a path.

    >>> scheme("default:chatml.jinja"), scheme("C:/models/tiny.gguf")
    ('default', None)
    """
    found = _SCHEME.match(text)
    return found[1] if found else None


def _plain(file: str) -> bool:
    """Whether a path inside a wheel or repository only goes down."""
    return "\\" not in file and all(part not in ("", ".", "..") for part in file.split("/"))
