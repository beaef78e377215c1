"""Registry files as checked rows. A text that passed the form once is not parsed and checked again: the YAML parser
and pydantic together cost more than everything else of a short command. All checks beyond the form run every time."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from composer.document import Document, shown, text_of
from composer.folders import cache_folder

if TYPE_CHECKING:
    from composer.checks import Row
    from composer.settings.form import RegistryRow

_KEPT = 64  # texts; the oldest go first
_HERE = Path(__file__).parent
_CODE = (  # what decides whether a text passes, and as what
    _HERE.parent / "checks.py",
    *(_HERE / f"{name}.py" for name in ("form", "evidence", "sources", "strategy", "yamlfile", "formcache")),
)


def read_rows(path: Path) -> tuple[Document, RegistryRow]:
    """The registry file at `path` and its rows with all defaults filled in. Raises ConfigError.

    The rows are plain objects with the attributes of `RegistryRow`, whether they were checked now or before.
    """
    text = text_of(path)
    name = shown(path)
    note = cache_folder() / "forms" / f"{_key(text)}.json"
    found = _noted(note)
    if found is None:
        found = _checked(text, name)
        _keep(note, found)
    return Document(name, found["data"], found["lines"]), cast("RegistryRow", _thing(found["rows"]))


def _checked(text: str, name: str) -> dict[str, Any]:
    from composer.checks import check  # noqa: PLC0415 pydantic and the YAML parser: only for a new text
    from composer.settings.form import RegistryRow  # noqa: PLC0415
    from composer.settings.yamlfile import parse  # noqa: PLC0415

    document = parse(text, name)
    rows = check(RegistryRow, document.data, document.where)
    return {"data": document.data, "lines": document.lines, "rows": _plain(rows)}


def _key(text: str) -> str:
    """The sha256 over the text and the code that checks it."""
    whole = hashlib.sha256(text.encode())
    for path in _CODE:
        whole.update(hashlib.sha256(path.read_bytes()).digest())
    return whole.hexdigest()


def _noted(note: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(note.read_bytes())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and found.keys() == {"data", "lines", "rows"} else None


def _keep(note: Path, found: Mapping[str, Any]) -> None:
    """Write the note as a whole. A cache that cannot be written costs time and nothing else."""
    try:
        note.parent.mkdir(parents=True, exist_ok=True)
        handle, fresh = tempfile.mkstemp(dir=note.parent, suffix=".new")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(found, file)
        Path(fresh).replace(note)
        old = sorted(note.parent.iterdir(), key=lambda path: path.stat().st_mtime_ns)[:-_KEPT]
        for path in old:
            path.unlink(missing_ok=True)
    except OSError:
        return


def _plain(value: Any) -> Any:
    """Rows, lists and mappings told apart by a tag, as JSON can hold them."""
    if hasattr(value, "model_fields_set"):
        row = cast("Row", value)
        return ["row", {name: _plain(getattr(row, name)) for name in type(row).model_fields}]
    if isinstance(value, Mapping):
        return ["map", {name: _plain(inner) for name, inner in value.items()}]
    if isinstance(value, list | tuple):
        return ["list", [_plain(inner) for inner in value]]
    return value


def _thing(plain: Any) -> Any:
    """The inverse of `_plain`; a row becomes an object with its fields."""
    if not isinstance(plain, list):
        return plain
    tag, inner = plain
    if tag == "list":
        return [_thing(value) for value in inner]
    made = {name: _thing(value) for name, value in inner.items()}
    return SimpleNamespace(**made) if tag == "row" else made
