"""Fitted routers, and what else is learnt, on disk: JSON and plain arrays, no pickle."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from routers.errors import RouterError
from routers.types import Outcomes, Questions, Router

FILE = "router.json"
_VERSION = 2
HOMES = tuple(
    f"routers.{name}"
    for name in (
        "baselines",
        "calibrate",
        "category",
        "cluster",
        "coverage",
        "form",
        "hierarchical",
        "linear",
        "nearest",
        "neighbours",
        "online",
        "records",
        "ridge",
        "skill",
        "skills",
        "stacked",
        "types",
    )
)
"""The modules whose dataclasses are written and read; nothing outside them is ever looked up."""
_AGAIN = "fit it again with `coe fit router`"


def save(router: Router, folder: Path, *, keys: Mapping[str, str]) -> None:
    """Write a fitted router to `folder`: `router.json`, and one `.npy` per array, named by its sha256.

    `keys` are hashes of what it was fitted on and only works with: the encoder, the outcomes (`fingerprint`). Settings
    that are functions cannot be saved: RouterError.
    """
    router.arms  # noqa: B018 - refuses before fit
    write(router, folder, keys=keys)


def write(value: object, folder: Path, *, keys: Mapping[str, str], homes: Sequence[str] = HOMES) -> None:
    """Write a dataclass of one of the modules `homes`, with all that is in it, as `save` does."""
    folder.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    text = json.dumps(
        {"version": _VERSION, "keys": dict(keys), "router": _encoded(value, arrays, homes)}, indent=1, allow_nan=False
    )
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array, allow_pickle=False)
    (folder / FILE).write_text(text + "\n", encoding="utf-8")
    for old in folder.glob("*.npy"):
        if old.stem not in arrays:
            old.unlink()


def load(folder: Path, *, keys: Mapping[str, str]) -> Router:
    """Read a router. Raises RouterError if it cannot be read, was damaged, or was fitted with other `keys`."""
    router = read(folder, keys=keys)
    if not hasattr(router, "score"):
        raise RouterError(f"{folder}: this is no router\n  next: {_AGAIN}")
    found: Router = router
    return found


def read(folder: Path, *, keys: Mapping[str, str], homes: Sequence[str] = HOMES) -> Any:
    """Read what `write` wrote, under the same conditions as `load`."""
    try:
        told = json.loads((folder / FILE).read_text(encoding="utf-8"))
        if told["version"] != _VERSION:
            raise RouterError(f"{folder}: written by another version ({told['version']})\n  next: {_AGAIN}")
        for name, value in keys.items():
            if told["keys"].get(name) != value:
                raise RouterError(
                    f"{folder}: fitted with another {name} ({told['keys'].get(name)!s:.12}…, now {value:.12}…)\n  next: {_AGAIN}"
                )
        return _decoded(told["router"], folder, homes)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as why:
        raise RouterError(f"{folder}: this cannot be read: {why}\n  next: {_AGAIN}") from why


def fingerprint(questions: Questions, outcomes: Outcomes) -> str:
    """The sha256 of what a router was fitted on, whatever the order of its rows."""
    place = dict(enumerate(questions.ids))
    names = [arm.name for arm in outcomes.arms]
    cells = sorted(
        (place[int(q)], names[int(a)], int(s), round(float(score), 6))
        for q, a, s, score in zip(outcomes.question, outcomes.arm, outcomes.sample, outcomes.score, strict=True)
    )
    return hashlib.sha256(json.dumps(cells).encode()).hexdigest()


def _encoded(value: Any, arrays: dict[str, np.ndarray[Any, Any]], homes: Sequence[str]) -> Any:
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, np.generic):
        return _encoded(value.item(), arrays, homes)
    if isinstance(value, float):
        return value if np.isfinite(value) else {"float": repr(value)}
    if isinstance(value, np.ndarray):
        if value.dtype.kind not in "fiub":
            raise RouterError(f"an array of {value.dtype} cannot be saved")
        plain = np.ascontiguousarray(value)
        name = hashlib.sha256(f"{plain.dtype.str}{value.shape}".encode() + plain.tobytes()).hexdigest()
        arrays[name] = plain.reshape(value.shape)
        return {"array": name}
    if isinstance(value, tuple | list):
        return {"tuple": [_encoded(one, arrays, homes) for one in value]}
    if isinstance(value, Mapping):
        return {"map": [[_encoded(key, arrays, homes), _encoded(one, arrays, homes)] for key, one in value.items()]}
    home = type(value).__module__
    if is_dataclass(value) and home in homes:
        kept = {
            each.name: _encoded(getattr(value, each.name), arrays, homes)
            for each in fields(value)
            if not each.metadata.get("transient")
        }
        return {"type": f"{home}.{type(value).__name__}", "fields": kept}
    raise RouterError(f"a setting of type {type(value).__name__} cannot be saved\n  next: save a router without it")


def _decoded(value: Any, folder: Path, homes: Sequence[str]) -> Any:
    if not isinstance(value, dict):
        return value
    if "float" in value:
        return float(value["float"])
    if "array" in value:
        return _array(str(value["array"]), folder)
    if "tuple" in value:
        return tuple(_decoded(one, folder, homes) for one in value["tuple"])
    if "map" in value:
        return {_decoded(key, folder, homes): _decoded(one, folder, homes) for key, one in value["map"]}
    home, _, name = str(value["type"]).rpartition(".")
    if home not in homes:  # nothing outside these modules is ever looked up, whatever the file says
        raise RouterError(f"{folder}: {home!r} is no module that is read\n  next: {_AGAIN}")
    kind = getattr(import_module(home), name, None)
    if not (isinstance(kind, type) and is_dataclass(kind) and kind.__module__ == home):
        raise RouterError(f"{folder}: {home}.{name} is nothing that is saved\n  next: {_AGAIN}")
    told = {key: _decoded(one, folder, homes) for key, one in value["fields"].items()}
    settings = {each.name: told[each.name] for each in fields(kind) if each.init and each.name in told}
    made = kind(**settings)
    for each in fields(kind):
        if not each.init and each.name in told:
            object.__setattr__(made, each.name, told[each.name])
    return made


def _array(name: str, folder: Path) -> np.ndarray[Any, Any]:
    if not name.isalnum():
        raise RouterError(f"{folder}: {name!r} is no name of an array\n  next: {_AGAIN}")
    array: np.ndarray[Any, Any] = np.load(folder / f"{name}.npy", allow_pickle=False)
    found = hashlib.sha256(
        f"{array.dtype.str}{array.shape}".encode() + np.ascontiguousarray(array).tobytes()
    ).hexdigest()
    if found != name:
        raise RouterError(f"{folder / name}.npy is damaged: its sha256 is {found:.12}…\n  next: {_AGAIN}")
    return array
