"""experts.lock: what every expert was made of when somebody looked, and what is otherwise now."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from composer.errors import ConfigError, LockError
from composer.sources import PathSource, Source

if TYPE_CHECKING:
    from composer.registry.experts import Registry

Entry = Mapping[str, str | int | None]
"""Of one expert: its model, the sha256 of weights, adapter, tokenizer and template, where they come from, the engine
with its version, and the context."""

_VERSION = 1
_REMEDY = (
    "`coe experts verify` names every difference; if it is meant, `coe experts lock` writes down what is there now"
)


def lock_file(registry: Path) -> Path:
    """Beside the registry file, under its name."""
    return registry.with_suffix(".lock")


def entry_of(registry: Registry, expert: str) -> Entry:
    """What the expert is made of by the registry file and this installation; nothing is fetched."""
    settings = registry.settings
    model = settings.models[settings.experts[expert].model]
    return {"model": model.name, **asdict(registry.fingerprint(expert)), "revision": _revision(model.sources)}


def _revision(sources: tuple[Source, ...]) -> str | None:
    """The first source: mirrors of the same file may come and go."""
    named = [str(source) for source in sources if not isinstance(source, PathSource)]  # a path is this machine's own
    return named[0] if named else None


def write_lock(path: Path, entries: Mapping[str, Entry]) -> None:
    """Write the lock file, sorted, as a whole. Raises OSError."""
    draft = path.with_name(f".{path.name}.tmp")
    text = json.dumps({"version": _VERSION, "experts": entries}, indent=2, sort_keys=True) + "\n"
    draft.write_text(text, encoding="utf-8")
    draft.replace(path)


def read_lock(path: Path) -> dict[str, Entry] | None:
    """The entries by expert; None where there is no such file. Raises ConfigError for what is no lock file."""
    try:
        found = json.loads(path.read_bytes())
        if found["version"] != _VERSION:
            raise ValueError(f"version {found['version']!r}, expected {_VERSION}")
        return {str(name): dict(entry) for name, entry in found["experts"].items()}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as why:
        raise ConfigError(
            f"is no lock file of ours: {why}", where=str(path), remedy="write it again: coe experts lock"
        ) from why


def differences(locked: Entry | None, found: Entry) -> Iterator[str]:
    """What is otherwise, in words."""
    if locked is None:
        yield "is not in the lock file"
        return
    for key in sorted({*locked, *found}):
        then, now = locked.get(key), found.get(key)
        if then != now:
            yield f"{key} is {_shown(now)}, locked is {_shown(then)}"


def _shown(value: str | int | None) -> str:
    return f"{value[:12]}…" if isinstance(value, str) and len(value) == 64 else repr(value)


def check_locked(registry: Registry, experts: list[str]) -> None:
    """Raise LockError if one of these experts is not what the lock file beside the registry says. Without one: nothing."""
    path = lock_file(registry.settings.path)
    if (locked := read_lock(path)) is None:
        return
    for expert in experts:
        if told := list(differences(locked.get(expert), entry_of(registry, expert))):
            raise LockError(f"{expert}: {'; '.join(told)}", where=str(path), remedy=_REMEDY)
