"""Reads and writes safetensors files: the header is checked whole before a number of theirs is believed."""

from __future__ import annotations

import json
import math
import os
import struct
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from composer.errors import ConfigError
from routers.types import Array

_MOST_HEADER = 32 * 2**20  # bytes; 100,000 tensors with long names take half of it
_MOST_ENTRIES = 100_000
_WIDTHS = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0"), 1),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 2),
    **dict.fromkeys(("U32", "I32", "F32"), 4),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 8),
}
_NUMBERS = {"F16": "<f2", "BF16": "<u2", "F32": "<f4", "F64": "<f8"}


@dataclass(frozen=True, slots=True)
class Entry:
    """A tensor as the header has it; `begin` and `end` are bytes of the file."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class Tensors:
    """What a header says: the tensors by name, and the file's own notes."""

    entries: Mapping[str, Entry]
    metadata: Mapping[str, str]


def read_tensors(path: Path, *, where: str | None = None) -> Tensors:
    """The header of `path`. Raises ConfigError, naming the tensor, unless the file is exactly what its header says:
    every type known, every shape as large as its bytes, no byte used twice or by nobody."""
    try:
        with path.open("rb") as file:
            return _read(file)
    except (OSError, ValueError, RecursionError, MemoryError) as why:
        raise ConfigError(
            f"{path.name} is not a readable safetensors file: {why}", where=where, remedy="fetch or save the file again"
        ) from why


def load_arrays(path: Path, *, where: str | None = None) -> dict[str, Array]:
    """The tensors of `path` as float32 arrays. Raises ConfigError as `read_tensors`, and for what are no such numbers."""
    found = read_tensors(path, where=where)
    arrays = {}
    with path.open("rb") as file:
        for name, entry in found.entries.items():
            if entry.dtype not in _NUMBERS:
                raise ConfigError(
                    f"tensor {name!r} of {path.name} holds {entry.dtype}, expected one of {', '.join(_NUMBERS)}",
                    where=where,
                    remedy="save the adapter in float16 or float32",
                )
            file.seek(entry.begin)
            raw = np.frombuffer(file.read(entry.end - entry.begin), dtype=_NUMBERS[entry.dtype])
            if entry.dtype == "BF16":  # the upper half of a float32
                raw = (raw.astype(np.uint32) << 16).view(np.float32)
            arrays[name] = raw.reshape(entry.shape).astype(np.float32)
    return arrays


def save_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write float16 or float32 arrays, sorted by name: the same arrays make the same bytes. Raises OSError."""
    kept = {name: np.ascontiguousarray(arrays[name]) for name in sorted(arrays)}
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, array in kept.items():
        dtype = {2: "F16", 4: "F32"}[array.dtype.itemsize]
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [at, at + array.nbytes]}
        at += array.nbytes
    raw = json.dumps(header, separators=(",", ":")).encode()
    raw += b" " * (-len(raw) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(raw)) + raw)
        for array in kept.values():
            file.write(array.astype(array.dtype.newbyteorder("<")).tobytes())


def _read(file: BinaryIO) -> Tensors:
    length = os.fstat(file.fileno()).st_size
    raw = file.read(8)
    size = struct.unpack("<Q", raw)[0] if len(raw) == 8 else 0
    if not 2 <= size <= min(_MOST_HEADER, length - 8):
        raise ValueError(f"a header of {size} bytes in a file of {length}")
    text = file.read(size).decode("utf-8")
    if not text.startswith("{"):
        raise ValueError("its header is no JSON object")
    header = json.loads(text, object_pairs_hook=_once, parse_constant=_no_number)
    if len(header) > _MOST_ENTRIES:
        raise ValueError(f"{len(header)} entries, at most {_MOST_ENTRIES} are believed")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError("__metadata__ is no mapping of texts")
    entries = {name: _entry(name, row, 8 + size) for name, row in header.items()}
    at = 8 + size
    for name, entry in sorted(entries.items(), key=lambda pair: (pair[1].begin, pair[1].end)):
        if entry.begin != at:
            raise ValueError(f"tensor {name!r} begins at byte {entry.begin}, the one before it ends at {at}")
        at = entry.end
    if at != length:
        raise ValueError(f"its tensors end at byte {at}, the file at {length}")
    return Tensors(entries, metadata)


def _entry(name: str, row: Any, start: int) -> Entry:
    """A tensor whose type, shape and bytes agree."""
    if not isinstance(row, dict) or row.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"tensor {name[:200]!r}: expected dtype, shape and data_offsets")
    dtype, shape, offsets = row["dtype"], row["shape"], row["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _WIDTHS:
        raise ValueError(f"tensor {name[:200]!r} has the unknown type {str(dtype)[:40]!r}")
    if not _counts(shape) or len(shape) > 16 or not _counts(offsets) or len(offsets) != 2:
        raise ValueError(f"tensor {name[:200]!r}: shape and data_offsets must be lists of whole numbers")
    size = _WIDTHS[dtype] * math.prod(shape)
    if size >= 2**63 or offsets[1] - offsets[0] != size:
        raise ValueError(
            f"tensor {name[:200]!r}: {dtype} of shape {shape} takes {size} bytes, its data_offsets are {offsets}"
        )
    return Entry(dtype, tuple(shape), start + offsets[0], start + offsets[1])


def _counts(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and 0 <= value < 2**63 for value in values)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        [(twice, _)] = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"the key {twice[:200]!r} is there twice")
    return found


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is no number of JSON")
