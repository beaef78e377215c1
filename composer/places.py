"""Where what was measured and fitted for a registry file lies: in the user's data folder, a folder of its own each."""

from __future__ import annotations

import hashlib
from pathlib import Path

from platformdirs import user_data_path

from composer.config import packaged_registry
from composer.folders import mend
from composer.registry.experts import Registry


def user_folder(registry: Registry) -> Path:
    """Where `coe profile` keeps what it measured for this registry file: in the user's data folder."""
    path = registry.settings.path.resolve()
    packaged = path == packaged_registry().resolve()
    name = "default" if packaged else hashlib.sha256(str(path).encode()).hexdigest()[:12]
    return user_data_path("coe") / "profiles" / name


def router_folder(registry: Registry) -> Path:
    """Where `coe fit router` keeps what it installed for this registry file."""
    return _beside(registry, "routers")


def has_router(registry: Registry) -> bool:
    """Whether `coe fit router` has installed one for this registry file."""
    folder = router_folder(registry)
    mend(folder)
    return folder.exists()


def answers_folder(registry: Registry) -> Path:
    """Where `coe fit answers` keeps the aggregator it fitted for this registry file."""
    return _beside(registry, "answers")


def gates_folder(registry: Registry) -> Path:
    """Where `coe fit gate` keeps the gates it fitted for this registry file."""
    return _beside(registry, "gates")


def contrasts_folder(registry: Registry) -> Path:
    """Where `coe fit contrast` keeps what it showed to help for this registry file."""
    return _beside(registry, "contrasts")


def personas_folder(registry: Registry) -> Path:
    """Where `coe fit gate` keeps for what intents personas help, for this registry file."""
    return _beside(registry, "personas")


def mergers_folder(registry: Registry) -> Path:
    """Where `coe fit answers --mergers` keeps whom it chose to merge for this registry file."""
    return _beside(registry, "mergers")


def scorers_folder(registry: Registry) -> Path:
    """Where `coe fit answers --scorer` keeps how ratings become a score for this registry file."""
    return _beside(registry, "scorers")


def plans_folder(registry: Registry) -> Path:
    """Where `coe fit answers --plans` keeps the plans that were followed with this registry file."""
    return _beside(registry, "plans")


def trust_folder(registry: Registry) -> Path:
    """Where it is kept how far answers of this registry file are to be believed."""
    return _beside(registry, "trust")


def _beside(registry: Registry, kind: str) -> Path:
    """The folder of this kind, named as that of the profile is."""
    profiles = user_folder(registry)
    return profiles.parent.with_name(kind) / profiles.name
