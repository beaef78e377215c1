"""The header of a safetensors file: read as the library writes it, and refused, with the tensor, where it is not whole."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from composer.errors import ConfigError
from composer.registry.safetensors import load_arrays, read_tensors, save_arrays

WHERE = "experts.yaml:7 (experts.law.adapter)"


def row(shape: list[Any], begin: int, end: int, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def raw(header: object, data: int = 0) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(data)


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def test_what_the_library_writes_is_read_and_what_we_write_it_reads(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = {
        "b": rng.normal(size=(3, 5)).astype("f4"),
        "a": rng.normal(size=(4,)).astype("f2"),
        "none": np.zeros((0, 2), "f4"),
    }
    save_file(arrays, str(tmp_path / "theirs.safetensors"), metadata={"format": "pt"})

    found = read_tensors(tmp_path / "theirs.safetensors")
    save_arrays(tmp_path / "ours.safetensors", arrays)

    assert found.metadata == {"format": "pt"}
    assert {name: (entry.dtype, entry.shape) for name, entry in found.entries.items()} == {
        "a": ("F16", (4,)),
        "b": ("F32", (3, 5)),
        "none": ("F32", (0, 2)),
    }
    for name, array in load_arrays(tmp_path / "theirs.safetensors").items():
        np.testing.assert_array_equal(array, arrays[name].astype("f4"))
    theirs = load_file(str(tmp_path / "ours.safetensors"))
    assert all((theirs[name] == arrays[name]).all() and theirs[name].dtype == arrays[name].dtype for name in arrays)


def test_bfloat16_is_the_upper_half_of_a_float(tmp_path: Path) -> None:
    numbers = np.array([1.0, -2.5, 0.0], dtype="f4")
    halves = (numbers.view("u4") >> 16).astype("<u2").tobytes()
    path = write(tmp_path / "b.safetensors", raw({"w": row([3], 0, 6, "BF16")}) + halves)

    np.testing.assert_array_equal(load_arrays(path)["w"], numbers)


def test_every_cut_is_refused(tmp_path: Path) -> None:
    whole = raw({"w": row([2, 2], 0, 16)}, 16)
    read_tensors(write(tmp_path / "whole.safetensors", whole))

    for size in range(len(whole)):
        with pytest.raises(ConfigError, match="not a readable safetensors file"):
            read_tensors(write(tmp_path / "cut.safetensors", whole[:size]))


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "a header of 0 bytes"),
        (struct.pack("<Q", 2**63) + b"{}", "a header of 9223372036854775808 bytes in a file of 10"),
        (raw(b"[]"), "no JSON object"),
        (raw(b"{" * 50_000), "Expecting property name"),
        (raw(b'{"a":' + b"[" * 50_000 + b"]" * 50_000 + b"}"), "recursion"),
        (raw(b'{"a":\xff}'), "can't decode"),
        (raw(b'{"w": 1, "w": 2}'), "'w' is there twice"),
        (raw(b'{"w": NaN}'), "NaN is no number"),
        (raw({"__metadata__": {"a": 1}}), "no mapping of texts"),
        (raw({"w": {"dtype": "F32"}}), "tensor 'w': expected dtype, shape and data_offsets"),
        (raw({"w": row([2], 0, 8, "F99")}, 8), "tensor 'w' has the unknown type 'F99'"),
        (raw({"w": row([-2], 0, 8)}, 8), "tensor 'w': shape and data_offsets must be lists of whole numbers"),
        (raw({"w": row([True], 0, 4)}, 4), "tensor 'w': shape and data_offsets must be"),
        (raw({"w": row([1.0], 0, 4)}, 4), "tensor 'w': shape and data_offsets must be"),
        (raw({"w": row([2**62, 2**62], 0, 4)}, 4), "tensor 'w': F32 of shape"),
        (raw({"w": row([2**32, 2**32, 4], 0, 0)}), "tensor 'w': F32 of shape"),  # 2**66 elements, 0 in 64 bits
        (raw({"w": row([2, 2], 0, 12)}, 12), r"takes 16 bytes, its data_offsets are \[0, 12\]"),
        (raw({"w": row([2], 8, 0)}, 8), "takes 8 bytes"),
        (raw({"w": row([2], 0, 8)}, 4), "its tensors end at byte"),
        (raw({"w": row([2], 0, 8)}, 12), "its tensors end at byte"),
        (raw({"a": row([2], 0, 8), "w": row([2], 4, 12)}, 12), "tensor 'w' begins at byte"),
        (raw({"a": row([2], 0, 8), "w": row([2], 12, 20)}, 20), "tensor 'w' begins at byte"),
        (raw({str(i): row([0], 0, 0) for i in range(100_001)}), "100001 entries, at most 100000 are believed"),
    ],
)  # fmt: skip
def test_what_is_not_whole_is_refused_with_the_tensor(tmp_path: Path, content: bytes, told: str) -> None:
    with pytest.raises(ConfigError, match=told) as caught:
        read_tensors(write(tmp_path / "odd.safetensors", content), where=WHERE)

    assert (caught.value.where, caught.value.remedy) == (WHERE, "fetch or save the file again")


def test_numbers_that_are_no_floats_are_named(tmp_path: Path) -> None:
    path = write(tmp_path / "i.safetensors", raw({"w": row([2], 0, 2, "I8")}, 2))

    with pytest.raises(ConfigError, match=r"tensor 'w' of i\.safetensors holds I8"):
        load_arrays(path)
