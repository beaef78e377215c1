"""Locks the registry's experts, and verifies them file by file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from composer.errors import ComposerError, InputError, LockError
from composer.registry.experts import Registry
from composer.registry.lock import differences, entry_of, is_older, lock_file, read_lock, write_lock
from composer.rewrite import is_packaged


def lock_experts(registry: Registry, only: Sequence[str] | None = None) -> tuple[Path, int]:
    """Write the lock file of all experts, or those of `only` into the one that is there; their files are fetched and
    checked first. Gives the file and how many were written. Raises ComposerError."""
    settings = registry.settings
    path = lock_file(settings.path)
    if is_packaged(settings.path):
        raise InputError(
            "the packaged registry is pinned already",
            where=str(settings.path),
            remedy="copy it to ./experts.yaml, and run the command again there",
        )
    names = list(settings.experts) if only is None else list(only)
    kept = {} if only is None else dict(read_lock(path) or {})
    for name in names:
        if fault := _fault(registry, name):
            raise fault
    entries = {**kept, **{name: entry_of(registry, name) for name in names}}
    try:
        write_lock(path, entries)
    except OSError as why:
        raise InputError(
            f"cannot be written: {why.strerror or why}", where=str(path), remedy="check the folder"
        ) from why
    return path, len(names)


def verify_experts(registry: Registry) -> dict[str, list[str]]:
    """Per expert, of the registry or of the lock file, all that is otherwise than locked. Raises ConfigError without a
    lock file."""
    path = lock_file(registry.settings.path)
    locked = read_lock(path)
    if locked is None:
        raise InputError("there is no lock file", where=str(path), remedy="write one: coe experts lock")
    found: dict[str, list[str]] = {}
    for name in registry.settings.experts:
        fault = _fault(registry, name)  # first: what is fetched for it can then be looked at
        told = list(differences(locked.get(name), entry_of(registry, name)))
        found[name] = told + ([str(fault)] if fault else [])
    for name in sorted(locked.keys() - found.keys()):
        found[name] = ["is locked, and the registry does not have it"]
    return found


def older_entries(registry: Registry) -> list[str]:
    """The experts that an earlier version of this program has locked: without what code may run and what serves them."""
    locked = read_lock(lock_file(registry.settings.path)) or {}
    return [name for name, entry in locked.items() if is_older(entry)]


def _fault(registry: Registry, name: str) -> ComposerError | None:
    """What is wrong with the files of an expert, whatever the lock file says."""
    expert = registry.settings.experts[name]
    try:
        registry.host(expert.model, [name] if expert.adapter else [])
    except LockError:
        return None
    except ComposerError as why:
        return why
    return None
