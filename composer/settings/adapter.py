"""An expert's adapter as the registry file declares it: a file, a PEFT folder, or a mixture of other experts' adapters."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from composer.errors import ConfigError, suggest

if TYPE_CHECKING:
    from composer.settings.form import AdapterRow, ExpertRow

Form = Literal["sum", "cross"]
"""`sum` adds what the adapters do (their products, METHODS I.9); `cross` adds their matrices, as LoraHub does, so that
each reads what the others write as well."""


@dataclass(frozen=True, slots=True)
class Mixture:
    """Other experts' adapters with their weights, as one adapter of at most `rank` (None: of all their ranks)."""

    weights: tuple[tuple[str, float], ...]
    form: Form = "sum"
    rank: int | None = None

    def __str__(self) -> str:
        parts = ", ".join(f"{weight:g} {name}" for name, weight in self.weights)
        return f"{self.form} of {parts}" + (f", rank {self.rank}" if self.rank else "")


@dataclass(frozen=True, slots=True)
class AdapterSpec:
    """A LoRA adapter: a file with this sha256, a PEFT folder (its sha256 is `folder_sha`), or a mixture, whose sha256
    stands for the parts, their weights and the form."""

    path: Path | None
    sha256: str
    mixture: Mixture | None = None

    def __str__(self) -> str:
        return str(self.mixture or self.path)


def folder_sha(config: str, weights: str) -> str:
    """The sha256 of a PEFT folder, by those of its two files: what
    `sha256sum adapter_config.json adapter_model.safetensors | sha256sum` prints inside it."""
    return hashlib.sha256(f"{config}  adapter_config.json\n{weights}  adapter_model.safetensors\n".encode()).hexdigest()


def adapter_of(
    name: str,
    rows: Mapping[str, ExpertRow],
    inside: Callable[[str, str], Path],
    error: Callable[[str, str, str], ConfigError],
) -> AdapterSpec | None:
    """What the row of the expert `name` declares. `inside` makes a path of a text at a setting, `error` an error of a
    setting, what, and the remedy. Raises ConfigError."""
    row, at = rows[name].adapter, f"experts.{name}.adapter"
    if row is None:
        return None
    given = [key for key in ("path", "sum", "cross") if getattr(row, key) is not None]
    if len(given) != 1:
        found = " and ".join(f"`{key}`" for key in given) or "nothing"
        raise error(at, f"expected one of `path`, `sum` and `cross`, found {found}", "keep one of them")
    if row.path is not None:
        if row.rank is not None:
            raise error(f"{at}.rank", "a file has the rank it has", "remove `rank`")
        if row.sha256 is None:
            raise error(
                f"{at}.sha256", "`sha256` is missing: what is loaded must be the very file", "coe experts add writes it"
            )
        return AdapterSpec(inside(row.path, f"{at}.path"), row.sha256)
    if row.sha256 is not None:
        raise error(f"{at}.sha256", "a mixture has no file to pin: its parts are pinned", "remove `sha256`")
    return _mixture(name, row, rows, error)


def _mixture(
    name: str, row: AdapterRow, rows: Mapping[str, ExpertRow], error: Callable[[str, str, str], ConfigError]
) -> AdapterSpec:
    form: Form = "sum" if row.sum is not None else "cross"
    at = f"experts.{name}.adapter.{form}"
    weights = row.sum if row.sum is not None else row.cross
    parts = []
    for part, weight in (weights or {}).items():
        own = rows[part].adapter if part in rows else None
        if part not in rows:
            raise error(f"{at}.{part}", f"no expert is called {part!r}", suggest(part, rows))
        if own is None or own.path is None or own.sha256 is None:
            raise error(f"{at}.{part}", f"{part} has no adapter with a `path`", "name experts that have one")
        if rows[part].model != rows[name].model:
            raise error(
                f"{at}.{part}",
                f"{part} is an adapter on {rows[part].model}, {name} stands on {rows[name].model}",
                "mix adapters on one model",
            )
        if not math.isfinite(weight) or not weight:
            raise error(
                f"{at}.{part}", f"the weight {weight:g} is of no use", "write a number other than 0, or leave it out"
            )
        parts.append([own.sha256, weight])
    material = json.dumps({"form": form, "rank": row.rank, "of": parts})
    mixture = Mixture(tuple((weights or {}).items()), form, row.rank)
    return AdapterSpec(None, hashlib.sha256(material.encode()).hexdigest(), mixture)
