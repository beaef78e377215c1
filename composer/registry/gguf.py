"""Reads the header of a GGUF file: enough to know what it is before a native parser sees it."""

from __future__ import annotations

import json
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from composer.errors import ConfigError

_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_STRING, _ARRAY = 8, 9
_REPOSITORY = re.compile(r"https?://[^/]+/([^/?#]+/[^/?#]+)")
_HUB_NAME = re.compile(r"[\w.-]*\w(/[\w.-]+)?")
_MOST_ENTRIES, _MOST_TEXT, _MOST_ITEMS = 100_000, 16 * 2**20, 4 * 2**20


@dataclass(frozen=True, slots=True)
class Header:
    """Metadata (scalars and strings; arrays are skipped) and the shape of each tensor, fastest dimension first."""

    metadata: dict[str, str | int | float | bool]
    shapes: dict[str, tuple[int, ...]]


def read_header(path: Path, *, where: str | None = None) -> Header:
    """The header of `path`. Raises ConfigError where it is no GGUF file (versions 2 and 3), cut short, or absurd."""
    try:
        with path.open("rb") as file:
            return _read(file)
    except (OSError, ValueError, struct.error, MemoryError) as why:
        raise ConfigError(
            f"{path.name} is not a readable GGUF file: {why}", where=where, remedy="fetch or convert the file again"
        ) from why


def _read(file: BinaryIO) -> Header:
    if file.read(4) != b"GGUF":
        raise ValueError("it does not begin with the letters GGUF")
    version = _scalar(file, "<I")
    if version not in (2, 3):
        raise ValueError(f"version {version}, expected 2 or 3")
    n_tensors, n_entries = _scalar(file, "<Q"), _scalar(file, "<Q")
    if max(n_tensors, n_entries) > _MOST_ENTRIES:
        raise ValueError(f"{n_tensors} tensors and {n_entries} entries, at most {_MOST_ENTRIES} are believed")
    metadata: dict[str, str | int | float | bool] = {}
    for _ in range(n_entries):
        key = _text(file)
        value = _value(file, _scalar(file, "<I"))
        if key in metadata:
            raise ValueError(f"the key {key!r} is there twice")
        if value is not None:
            metadata[key] = value
    shapes: dict[str, tuple[int, ...]] = {}
    for _ in range(n_tensors):
        name = _text(file)
        n_dims = _scalar(file, "<I")
        if n_dims > 4 or name in shapes:
            raise ValueError(f"tensor {name!r} has {n_dims} dimensions or is there twice")
        shapes[name] = tuple(_scalar(file, "<Q") for _ in range(n_dims))
        _scalar(file, "<I")  # type
        _scalar(file, "<Q")  # offset
    return Header(metadata, shapes)


def _scalar(file: BinaryIO, form: str) -> int:
    size = struct.calcsize(form)
    raw = file.read(size)
    if len(raw) < size:
        raise ValueError("it ends within the header")
    value: int = struct.unpack(form, raw)[0]
    return value


def _text(file: BinaryIO) -> str:
    size = _scalar(file, "<Q")
    if size > _MOST_TEXT:
        raise ValueError(f"a text of {size} bytes")
    raw = file.read(size)
    if len(raw) < size:
        raise ValueError("it ends within the header")
    return raw.decode("utf-8")


def _value(file: BinaryIO, kind: int) -> str | int | float | bool | None:
    if kind == _STRING:
        return _text(file)
    if kind in _SCALARS:
        return _scalar(file, _SCALARS[kind])
    if kind != _ARRAY:
        raise ValueError(f"unknown value type {kind}")
    inner, count = _scalar(file, "<I"), _scalar(file, "<Q")
    if count > _MOST_ITEMS:
        raise ValueError(f"an array of {count} items")
    if inner == _STRING:
        for _ in range(count):
            _text(file)
    elif inner in _SCALARS:
        size = count * struct.calcsize(_SCALARS[inner])
        if len(file.read(size)) < size:
            raise ValueError("it ends within the header")
    else:
        raise ValueError(f"an array of type {inner}")
    return None


def check_adapter(adapter: Path, base: Header, *, name: str, where: str) -> None:
    """Raise ConfigError unless `adapter` is a LoRA whose tensors come in pairs and fit those of `base`, the model
    `name`."""
    lora = read_header(adapter, where=where)
    if lora.metadata.get("general.type") != "adapter" or lora.metadata.get("adapter.type") != "lora":
        raise ConfigError(
            f"{adapter.name} is no LoRA adapter (general.type {lora.metadata.get('general.type')!r}, "
            f"adapter.type {lora.metadata.get('adapter.type')!r})",
            where=where,
            remedy="convert the PEFT folder to a GGUF adapter",
        )
    for tensor, shape in lora.shapes.items():
        target, _, side = tensor.rpartition(".lora_")
        wanted = base.shapes.get(target)
        # GGUF lists the fastest dimension first: a weight is (in, out), lora_a (in, rank), lora_b (rank, out).
        place = {"a": 0, "b": 1}.get(side)
        fits = (
            wanted is not None
            and place is not None
            and min(len(shape), len(wanted)) > 1
            and shape[place] == wanted[place]
        )
        if not fits:
            found = " x ".join(map(str, wanted)) if wanted else "no such tensor"
            raise ConfigError(
                f"adapter {adapter.name} was made for another base: its tensor {tensor} has shape {shape}, "
                f"the model {name} has {found} for {target or tensor}",
                where=where,
                remedy="name the model it was trained on, or train it again on this one",
            )
    _check_pairs(lora, adapter.name, where)


def check_base(adapter: Path, declared: str, *, name: str, where: str) -> None:
    """Raise ConfigError if `adapter` says that it was made for another base than `declared`, the one of the model
    `name`. Many adapters say nothing."""
    stated = _stated_base(adapter)
    if stated is None or _same(stated, declared):
        return
    raise ConfigError(
        f"adapter {adapter.name} was made for another base: it says {stated!r}, the model {name} is {declared!r}",
        where=where,
        remedy="name the model it was trained on; if both names mean the same weights, correct `base` or remove it",
    )


def _stated_base(adapter: Path) -> str | None:
    """The name that an adapter gives its base, in its own metadata or in PEFT's file beside it."""
    try:
        metadata = read_header(adapter).metadata
    except ConfigError:  # not every engine takes GGUF
        metadata = {}
    address, title = (metadata.get(f"general.base_model.0.{key}") for key in ("repo_url", "name"))
    if isinstance(address, str) and (found := _REPOSITORY.match(address)):
        return found[1]
    if isinstance(title, str) and title.strip():
        return title
    try:
        stated = json.loads((adapter.parent / "adapter_config.json").read_bytes())["base_model_name_or_path"]
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None
    # A path says where the weights lay when it was trained, not what they are.
    return stated if isinstance(stated, str) and _HUB_NAME.fullmatch(stated) else None


def _same(one: str, other: str) -> bool:
    """Whether two names may mean one model: the owner counts where both have one, letter case and separators do not.

    >>> _same("SmolLM2 135M Instruct", "HuggingFaceTB/SmolLM2-135M-Instruct"), _same("a/tiny", "b/tiny")
    (True, False)
    """
    parts = [re.sub(r"[-_. ]+", "-", name.strip().casefold()).split("/")[::-1] for name in (one, other)]
    return all(left == right for left, right in zip(*parts, strict=False))


def _check_pairs(lora: Header, name: str, where: str) -> None:
    """Every weight that an adapter changes needs both its matrices, of one rank."""
    targets = sorted({tensor.rpartition(".lora_")[0] for tensor in lora.shapes})
    again = "convert or fetch the adapter again"
    if not targets:
        raise ConfigError(f"adapter {name} holds no tensors: it changes nothing", where=where, remedy=again)
    for target in targets:
        down, up = (lora.shapes.get(f"{target}.lora_{side}") for side in "ab")
        if down is None or up is None:
            missing = f"{target}.lora_{'a' if down is None else 'b'}"
            raise ConfigError(f"adapter {name} is not whole: {missing} is missing", where=where, remedy=again)
        if down[1] != up[0]:
            raise ConfigError(
                f"adapter {name} is not whole: {target} has rank {down[1]} on one side and {up[0]} on the other",
                where=where,
                remedy=again,
            )
