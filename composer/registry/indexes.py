"""What the registry has to know of an index of passages without opening it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from composer.errors import ConfigError, PassageError
from composer.folders import mend
from composer.registry.cache import Cache

if TYPE_CHECKING:
    from composer.settings.evidence import EvidenceSpec
    from composer.settings.specs import Settings

MANIFEST = "index.json"
VERSION = 1
_FORM = 2  # of the prompt with passages: the best one next to the question; what an arm showed with another one counts no more
_PIECES = re.compile(r"[a-zA-Z]{1,3}|\n+|[^a-zA-Z\s]")


@dataclass(frozen=True, slots=True)
class Manifest:
    """What an index is made of. `recall`: of the dense search against an exact one, among ten (1 where it is exact);
    `files` maps the other files to their sha256; `encoder` is the fingerprint of what made the vectors."""

    encoder: str
    dim: int
    passages: int
    documents: int
    most: int
    least: int
    lists: int
    probes: int
    recall: float
    files: Mapping[str, str]
    version: int = VERSION


def index_print(folder: Path) -> str:
    """The sha256 of all that decides what is found in the index. Raises PassageError where there is none."""
    mend(folder)
    found = read_manifest(folder)
    material = [found.encoder, found.lists, found.probes, sorted(found.files.items())]
    return hashlib.sha256(json.dumps(material).encode()).hexdigest()


def evidence_print(settings: Settings, spec: EvidenceSpec) -> list[Any]:
    """All that decides what somebody with this evidence is given to read. Raises PassageError where there is no index, and
    ConfigError where the tokenizer of the reranker is not there."""
    found: list[Any] = [*map(index_print, spec.indexes), spec.k, _FORM]
    return [*found, spec.rerank, *_reranker_print(settings)] if spec.rerank else found


def content_sha(settings: Settings) -> str:
    """The sha256 of what a run is made with: the registry's content, and what its arms are given to read. Raises
    PassageError and ConfigError, as `evidence_print`."""
    specs = [arm.evidence for arm in settings.reading if arm.evidence is not None]
    folders = sorted({folder for spec in specs for folder in spec.indexes})
    if not folders:
        return settings.config_sha
    material = [settings.config_sha, *map(index_print, folders)]
    if any(spec.rerank for spec in specs):
        material += _reranker_print(settings)
    return hashlib.sha256(json.dumps(material).encode()).hexdigest()


def _reranker_print(settings: Settings) -> list[str]:
    """The sha256 of the cross-encoder's model and of its tokenizer."""
    spec = settings.reranker
    assert spec is not None, "checked when the file was read"
    try:
        return [spec.sha256, Cache().digest(spec.tokenizer)]
    except OSError as why:
        raise ConfigError(
            f"the tokenizer {spec.tokenizer} cannot be read: {why.strerror or why}",
            where=settings.where("reranker.tokenizer"),
            remedy="correct the path",
        ) from why


def read_manifest(folder: Path) -> Manifest:
    """Raises PassageError where there is none, or none of ours."""
    try:
        found = json.loads((folder / MANIFEST).read_bytes())
        if found["version"] != VERSION:
            raise damaged(folder, f"version {found['version']!r} of its form, expected {VERSION}")
        return Manifest(**found)
    except FileNotFoundError as why:
        raise PassageError(
            "there is no index", where=str(folder), remedy=f"build it: coe index build {folder.name} FOLDER"
        ) from why
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as why:
        raise damaged(folder, f"{MANIFEST} cannot be read: {why}") from why


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write it. Raises OSError."""
    (folder / MANIFEST).write_text(json.dumps(asdict(manifest), indent=2) + "\n", encoding="utf-8")


def damaged(folder: Path, what: str) -> PassageError:
    """The error of an index that is there and cannot be used."""
    return PassageError(what, where=str(folder), remedy=f"build it again: coe index build {folder.name} FOLDER")


def most_tokens(text: str) -> int:
    """About the most tokens that a tokenizer makes of a text: three letters, one digit, one sign, two per other character.

    >>> most_tokens("A cat, 12 mice"), most_tokens("漢字")
    (7, 4)
    """
    pieces: list[str] = _PIECES.findall(text)
    return len(pieces) + sum(not piece.isascii() for piece in pieces)
