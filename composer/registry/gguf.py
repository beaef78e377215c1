"""Reads the header of a GGUF file: enough to know what it is before a native parser sees it."""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from composer.errors import ConfigError

F32, F16, BF16 = 0, 1, 30
_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_UINT32, _STRING, _ARRAY = 4, 8, 9
_TOKENS = "tokenizer.ggml.tokens"
_MOST_ENTRIES, _MOST_TEXT, _MOST_ITEMS, _MOST_NAME = 100_000, 16 * 2**20, 4 * 2**20, 63

# Numbers per block and bytes per block of each tensor type, as ggml lays them out.
_TYPES = {
    F32: (1, 4),
    F16: (1, 2),
    2: (32, 18),  # Q4_0
    3: (32, 20),  # Q4_1
    6: (32, 22),  # Q5_0
    7: (32, 24),  # Q5_1
    8: (32, 34),  # Q8_0
    9: (32, 36),  # Q8_1
    10: (256, 84),  # Q2_K
    11: (256, 110),  # Q3_K
    12: (256, 144),  # Q4_K
    13: (256, 176),  # Q5_K
    14: (256, 210),  # Q6_K
    15: (256, 292),  # Q8_K
    16: (256, 66),  # IQ2_XXS
    17: (256, 74),  # IQ2_XS
    18: (256, 98),  # IQ3_XXS
    19: (256, 50),  # IQ1_S
    20: (32, 18),  # IQ4_NL
    21: (256, 110),  # IQ3_S
    22: (256, 82),  # IQ2_S
    23: (256, 136),  # IQ4_XS
    24: (1, 1),  # I8
    25: (1, 2),  # I16
    26: (1, 4),  # I32
    27: (1, 8),  # I64
    28: (1, 8),  # F64
    29: (256, 56),  # IQ1_M
    BF16: (1, 2),
    34: (256, 54),  # TQ1_0
    35: (256, 66),  # TQ2_0
    39: (32, 17),  # MXFP4
    40: (64, 36),  # NVFP4
    41: (128, 18),  # Q1_0
}


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tensor's numbers lie in the file, and their type."""

    type: int
    begin: int
    size: int


@dataclass(frozen=True, slots=True)
class Header:
    """Metadata (scalars and strings; arrays are skipped), the shape of each tensor, fastest dimension first, and where
    its numbers lie."""

    metadata: dict[str, str | int | float | bool]
    shapes: dict[str, tuple[int, ...]]
    places: Mapping[str, Place] = field(default_factory=dict[str, Place])


def is_gguf(path: Path) -> bool:
    """Whether the file says that it is a GGUF file; what it holds is for `read_header` to say."""
    try:
        with path.open("rb") as file:
            return file.read(4) == b"GGUF"
    except OSError:
        return False


def read_header(path: Path, *, where: str | None = None) -> Header:
    """The header of `path`. Raises ConfigError where it is no GGUF file (versions 2 and 3), cut short, or absurd: keys
    or tensors that stand twice, an unknown type, or tensors that do not lie one after the other inside the file."""
    try:
        with path.open("rb") as file:
            return _read(file)
    except (OSError, ValueError, struct.error, MemoryError) as why:
        raise ConfigError(
            f"{path.name} is not a readable GGUF file: {why}", where=where, remedy="fetch or convert the file again"
        ) from why


def read_tokens(path: Path, *, where: str | None = None) -> list[str]:
    """The tokens of the file's vocabulary, by id. Raises ConfigError where it is no GGUF file, or has none."""
    try:
        with path.open("rb") as file:
            tokens = _tokens(file)
    except (OSError, ValueError, struct.error, MemoryError) as why:
        raise ConfigError(
            f"{path.name} is not a readable GGUF file: {why}", where=where, remedy="fetch or convert the file again"
        ) from why
    if tokens is None:
        raise ConfigError(f"{path.name} has no vocabulary", where=where, remedy="take a file that holds a whole model")
    return tokens


def _tokens(file: BinaryIO) -> list[str] | None:
    _, n_entries = _counts(file)
    for _ in range(n_entries):
        key, kind = _text(file), _scalar(file, "<I")
        if key == _TOKENS and kind == _ARRAY:
            inner, count = _scalar(file, "<I"), _scalar(file, "<Q")
            if inner != _STRING or count > _MOST_ITEMS:
                raise ValueError(f"{key} is an array of {count} items of type {inner}")
            return [_text(file) for _ in range(count)]
        _value(file, kind)
    return None


def _read(file: BinaryIO) -> Header:
    n_tensors, n_entries = _counts(file)
    metadata, seen, align = dict[str, str | int | float | bool](), set[str](), 32
    for _ in range(n_entries):
        key, kind = _text(file), _scalar(file, "<I")
        value = _value(file, kind)
        if key in seen:
            raise ValueError(f"the key {key!r} is there twice")
        seen.add(key)
        if value is not None:
            metadata[key] = value
        if key == "general.alignment":
            if kind != _UINT32 or not isinstance(value, int) or value.bit_count() != 1:
                raise ValueError(f"general.alignment is {value!r}, expected a power of two")
            align = value
    shapes: dict[str, tuple[int, ...]] = {}
    ends: dict[str, tuple[int, int, int]] = {}  # type, offset, size
    expected = 0
    for _ in range(n_tensors):
        name, n_dims = _text(file), _scalar(file, "<I")
        if n_dims > 4 or name in shapes or len(name.encode()) > _MOST_NAME:
            raise ValueError(f"tensor {name[:80]!r} has {n_dims} dimensions, is there twice, or its name is too long")
        shapes[name] = tuple(_scalar(file, "<Q") for _ in range(n_dims))
        kind, offset = _scalar(file, "<I"), _scalar(file, "<Q")
        size = _size(name, shapes[name], kind)
        if offset != expected:
            raise ValueError(f"tensor {name!r} begins at byte {offset} of the data, expected {expected}")
        ends[name] = kind, offset, size
        expected += size + -size % align
    start = file.tell() + -file.tell() % align
    length = os.fstat(file.fileno()).st_size
    for name, (_, offset, size) in ends.items():
        if start + offset + size > length:
            raise ValueError(f"tensor {name!r} ends at byte {start + offset + size}, the file at {length}")
    return Header(metadata, shapes, {name: Place(kind, start + at, size) for name, (kind, at, size) in ends.items()})


def _counts(file: BinaryIO) -> tuple[int, int]:
    """How many tensors and entries it has."""
    if file.read(4) != b"GGUF":
        raise ValueError("it does not begin with the letters GGUF")
    version = _scalar(file, "<I")
    if version not in (2, 3):
        raise ValueError(f"version {version}, expected 2 or 3")
    n_tensors, n_entries = _scalar(file, "<Q"), _scalar(file, "<Q")
    if max(n_tensors, n_entries) > _MOST_ENTRIES:
        raise ValueError(f"{n_tensors} tensors and {n_entries} entries, at most {_MOST_ENTRIES} are believed")
    return n_tensors, n_entries


def _size(name: str, shape: tuple[int, ...], kind: int) -> int:
    """The bytes of a tensor."""
    if kind not in _TYPES:
        raise ValueError(f"tensor {name!r} has the unknown type {kind}")
    block, size = _TYPES[kind]
    count = math.prod(shape)
    if not 0 < count < 2**63:
        raise ValueError(f"tensor {name!r} of shape {shape} holds {'nothing' if not count else 'too much'}")
    if (shape[0] if shape else 1) % block:
        raise ValueError(f"tensor {name!r} has rows of {shape[0] if shape else 1}, expected a multiple of {block}")
    return count // block * size


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
