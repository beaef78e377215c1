"""What was fitted for a registry, as one digest: a run that goes on with something else would mix two."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

from composer.errors import InputError
from composer.folders import mend
from composer.places import (
    answers_folder,
    contrasts_folder,
    gates_folder,
    mergers_folder,
    personas_folder,
    plans_folder,
    router_folder,
    scorers_folder,
)
from composer.registry.experts import Registry
from composer.settings.contrast import FITTED
from composer.stages.disputed import FITTED as CHOSEN


def installed_sha(registry: Registry) -> str:
    """The sha256 of what `coe fit` (`router`, `answers` with whom it chose to merge, how ratings become a score and which plans were right, `gate`, `contrast`) has installed for the stages of the registry's
    `pipeline:`. The profile, and what is measured with it, is not in it. Raises InputError where it cannot be read."""
    stages = {step.use for step in registry.settings.pipeline}
    folders = {"router": router_folder(registry), "answers": answers_folder(registry)}
    if "retrieve" in stages:
        folders["gates"] = gates_folder(registry)
    kept = {"persona": personas_folder, "score": scorers_folder, "plan": plans_folder}
    folders |= {use: place(registry) for use, place in kept.items() if use in stages}
    steps = [step for step in registry.settings.pipeline if step.use == "contrast"]
    if any(step.options.get("use", FITTED) == FITTED for step in steps):
        folders["contrasts"] = contrasts_folder(registry)
    if any(step.options.get("by") == CHOSEN for step in registry.settings.pipeline if step.use in ("judge", "merge")):
        folders["mergers"] = mergers_folder(registry)
    found = {kind: list(_digests(folder)) for kind, folder in folders.items()}
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()


def _digests(folder: Path) -> Iterator[tuple[str, str]]:
    """Each file's name and sha256."""
    mend(folder)
    try:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            yield str(path.relative_to(folder)), hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as why:
        raise InputError(
            f"what was fitted cannot be read: {why.strerror or why}",
            where=str(folder),
            remedy="check the folder, or fit it again",
        ) from why
