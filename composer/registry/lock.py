"""experts.lock: what every expert was made of when somebody looked, and what is otherwise now."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from composer.errors import ConfigError, LockError
from composer.registry.cache import Cache
from composer.registry.hf import TOKENIZER, files, template_of
from composer.settings.sources import PathSource, Source

if TYPE_CHECKING:
    from composer.registry.experts import Registry

Entry = Mapping[str, str | int | None]
"""Of one expert: its model, the sha256 of weights, adapter, tokenizer, template and of the code that may run, where they
come from, the engine with its options, the release of what serves it, and the context."""

UNSEEN = "not here"
"""Of what cannot be looked at before it is fetched; the sha256 of the weights covers it."""

_VERSION = 2
_READABLE = (1, 2)  # the first said nothing of code and releases, and of a folder only the whole
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
    folder = registry.folder(model.name)
    return {
        "model": model.name,
        **asdict(registry.fingerprint(expert)),
        **({} if folder is None else _parts(folder, declared=model.template is not None)),
        "allow_code": _digest_of(dict(model.allow_code)) if model.allow_code else None,
        "release": registry.release(model.name),
        "revision": _revision(model.sources),
    }


def is_older(entry: Entry) -> bool:
    """Whether an entry was written before code and releases were."""
    return "release" not in entry


def _parts(folder: Path | str, *, declared: bool) -> dict[str, str | None]:
    """Of a model's folder, the sha256 of its tokenizer and (unless the registry declares another) of its template."""
    tokenizer: str | None = UNSEEN
    template: str | None = UNSEEN
    if isinstance(folder, Path):
        named = {path.name: Cache().digest(path) for path in files(folder) if path.name in TOKENIZER}
        tokenizer, text = _digest_of(named), template_of(folder)
        template = hashlib.sha256(text.encode()).hexdigest() if text else None
    return {"tokenizer": tokenizer} if declared else {"tokenizer": tokenizer, "template": template}


def _digest_of(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


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
        if found["version"] not in _READABLE:
            raise ValueError(f"version {found['version']!r}, expected {' or '.join(map(str, _READABLE))}")
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
    older = is_older(locked)
    for key in sorted(locked if older else {*locked, *found}):
        then, now = locked.get(key), found.get(key)
        if now == UNSEEN or (older and key in ("tokenizer", "template") and then == locked.get("weights")):
            continue
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
