"""The header of a GGUF file: what is read, what is refused, and an adapter that belongs to another base."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

import gguf
import numpy as np
import pytest

from composer.errors import ConfigError
from composer.registry.adapters import check_adapter, check_base
from composer.registry.gguf import Header, read_header, read_tokens

WHERE = "experts.yaml:7 (experts.law.adapter)"


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def entry(key: str, value: str) -> bytes:
    return text(key) + struct.pack("<I", 8) + text(value)


Described = tuple[str, tuple[int, ...]]


def tensor(name: str, *shape: int) -> Described:
    return name, shape


def header(entries: list[bytes], tensors: Sequence[Described], *, version: int = 3) -> bytes:
    """A file of float32 tensors, one after the other, as the format wants them."""
    raw, offset = struct.pack("<IQQ", version, len(tensors), len(entries)) + b"".join(entries), 0
    for name, shape in tensors:
        raw += text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, 0, offset)
        end, offset = offset + 4 * math.prod(shape), offset + 4 * math.prod(shape) + -4 * math.prod(shape) % 32
    raw = b"GGUF" + raw
    return raw + bytes(-len(raw) % 32 + end) if tensors else raw


def described(name: str, shape: tuple[int, ...], *, kind: int = 0, offset: int = 0) -> bytes:
    """A file that says this of its only tensor, and holds none."""
    raw = (
        b"GGUF"
        + struct.pack("<IQQ", 3, 1, 0)
        + text(name)
        + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)
    )
    return raw + bytes(-len(raw) % 32)


def lora(shapes: Mapping[str, tuple[int, ...]], *, kind: str = "lora") -> bytes:
    entries = [entry("general.type", "adapter"), entry("adapter.type", kind)]
    return header(entries, [tensor(name, *shape) for name, shape in shapes.items()])


def write(path: Path, raw: bytes) -> Path:
    path.write_bytes(raw)
    return path


def refused(path: Path, raw: bytes) -> str:
    with pytest.raises(ConfigError, match="not a readable GGUF file") as caught:
        read_header(write(path, raw), where=WHERE)
    assert (caught.value.where, caught.value.remedy) == (WHERE, "fetch or convert the file again")
    return caught.value.what


def test_a_file_of_the_gguf_library_is_read(tmp_path: Path) -> None:
    path = tmp_path / "tiny.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_uint32("llama.block_count", 2)
    writer.add_bool("tokenizer.ggml.add_bos_token", True)
    writer.add_float32("adapter.lora.alpha", 0.5)
    writer.add_array("tokenizer.ggml.tokens", ["a", "b"])
    writer.add_array("tokenizer.ggml.scores", [0.5, 1.5])
    writer.add_tensor("blk.0.attn_q.weight", np.zeros((3, 5), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    found = read_header(path)

    assert found.metadata == {
        "general.architecture": "llama",
        "llama.block_count": 2,
        "tokenizer.ggml.add_bos_token": True,
        "adapter.lora.alpha": 0.5,
    }
    assert found.shapes == {"blk.0.attn_q.weight": (5, 3)}


def test_every_cut_of_the_header_is_a_config_error(tmp_path: Path) -> None:
    array = text("scores") + struct.pack("<IIQ3f", 9, 6, 3, 1, 2, 3)
    words = text("tokens") + struct.pack("<IIQ", 9, 8, 2) + text("é") + text("b")
    flag = text("flag") + struct.pack("<I?", 7, True)
    for tensors in ([tensor("blk.0.attn_q.weight", 4, 4)], []):
        raw = header([entry("general.type", "model"), words, flag, array], tensors)
        assert read_header(write(tmp_path / "whole.gguf", raw)).metadata == {"general.type": "model", "flag": True}

        for size in range(len(raw)):
            refused(tmp_path / "cut.gguf", raw[:size])


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        (b"", "does not begin with the letters GGUF"),
        (b"PK\x03\x04" + bytes(60), "does not begin with the letters GGUF"),
        (header([], [], version=1), "version 1, expected 2 or 3"),
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "expected 2 or 3"),
        (header([entry("a", "1"), entry("a", "2")], []), "the key 'a' is there twice"),
        (header([], [tensor("w", 2, 2), tensor("w", 2, 2)]), "tensor 'w' .* there twice"),
        (header([], [tensor("w", 1, 1, 1, 1, 1)]), "5 dimensions"),
        (b"GGUF" + struct.pack("<IQQ", 3, 2**63, 0), "at most 100000 are believed"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 2**63), "at most 100000 are believed"),
        (header([struct.pack("<Q", 2**62)], []), "a text of"),
        (header([text("a") + struct.pack("<IIQ", 9, 4, 2**62)], []), "an array of"),
        (header([text("a") + struct.pack("<IIQ", 9, 9, 1)], []), "an array of type 9"),
        (header([text("a") + struct.pack("<I", 13)], []), "unknown value type 13"),
        (header([struct.pack("<Q", 2) + b"\xff\xfe"], []), "can't decode"),
        (header([], [tensor("w" * 64, 2, 2)]), "its name is too long"),
        (header([], [tensor("w", 0, 2)]), "holds nothing"),
        (described("w", (2**62, 2**62)), "holds too much"),
        (described("w", (2**40,)), "ends at byte 4398046511168, the file at"),
        (described("w", (2,), kind=77), "the unknown type 77"),
        (described("w", (33,), kind=2), "rows of 33, expected a multiple of 32"),
        (described("w", (2,), offset=32), "begins at byte 32 of the data, expected 0"),
        (header([text("general.alignment") + struct.pack("<II", 4, 48)], []), "general.alignment is 48"),
        (header([text("general.alignment") + struct.pack("<II", 4, 0)], []), "general.alignment is 0"),
    ],
)
def test_what_is_no_header_is_refused_with_the_reason(tmp_path: Path, raw: bytes, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        read_header(write(tmp_path / "odd.gguf", raw))


def test_random_bytes_never_give_another_error(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    whole = header([entry("general.type", "model"), entry("b", "c")], [tensor("w", 2, 2)])

    for _ in range(300):
        raw = bytearray(whole)
        raw[int(rng.integers(len(raw)))] = int(rng.integers(256))
        try:
            read_header(write(tmp_path / "odd.gguf", bytes(raw)))
        except ConfigError:
            continue


def test_a_missing_file_is_a_config_error_too(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not a readable GGUF file"):
        read_header(tmp_path / "none.gguf")


BASE = Header({}, {"q.weight": (64, 32), "k.weight": (64, 16)})


def check(path: Path, raw: bytes) -> None:
    check_adapter(write(path / "law.gguf", raw), BASE, name="small", where=WHERE)


def test_an_adapter_whose_tensors_fit_the_base_passes(tmp_path: Path) -> None:
    check(tmp_path, lora({"q.weight.lora_a": (64, 8), "q.weight.lora_b": (8, 32)}))


@pytest.mark.parametrize(
    ("shapes", "told"),
    [
        ({"q.weight.lora_a": (48, 8)}, r"tensor q.weight.lora_a has shape \(48, 8\), the model small has 64 x 32"),
        ({"k.weight.lora_b": (8, 32)}, r"tensor k.weight.lora_b has shape \(8, 32\), the model small has 64 x 16"),
        ({"v.weight.lora_a": (64, 8)}, "the model small has no such tensor for v.weight"),
        ({"q.weight": (64, 32)}, "for q.weight"),
        ({"q.weight.lora_c": (64, 32)}, "for q.weight"),
        ({"q.weight.lora_a": (64,)}, "for q.weight"),
        ({"q.weight.lora_a": ()}, "for q.weight"),
    ],
)
def test_an_adapter_for_another_base_is_refused(tmp_path: Path, shapes: dict[str, tuple[int, ...]], told: str) -> None:
    with pytest.raises(ConfigError, match=told) as caught:
        check(tmp_path, lora(shapes))

    assert caught.value.where == WHERE
    assert caught.value.remedy is not None and "trained on" in caught.value.remedy


@pytest.mark.parametrize(
    ("shapes", "told"),
    [
        ({}, "holds no tensors"),
        ({"q.weight.lora_a": (64, 8)}, "q.weight.lora_b is missing"),
        ({"k.weight.lora_b": (8, 16)}, "k.weight.lora_a is missing"),
        ({"q.weight.lora_a": (64, 8), "q.weight.lora_b": (4, 32)}, "rank 8 on one side and 4 on the other"),
    ],
)
def test_an_adapter_that_is_not_whole_is_refused(tmp_path: Path, shapes: dict[str, tuple[int, ...]], told: str) -> None:
    with pytest.raises(ConfigError, match=told) as caught:
        check(tmp_path, lora(shapes))

    assert (caught.value.where, caught.value.remedy) == (WHERE, "convert or fetch the adapter again")


def test_a_model_in_place_of_an_adapter_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"law\.gguf is no LoRA adapter") as caught:
        check(tmp_path, header([entry("general.type", "model")], [tensor("q.weight", 64, 32)]))

    assert (caught.value.where, caught.value.remedy) == (WHERE, "convert the PEFT folder to a GGUF adapter")


# Which base an adapter says it was made for ---------------------------------------------------------------------------

SMOL = "HuggingFaceTB/SmolLM2-135M-Instruct"
NAME, URL = "general.base_model.0.name", "general.base_model.0.repo_url"


def says(folder: Path, stated: Mapping[str, str], peft: object = None) -> Path:
    """An adapter with these keys, and PEFT's file beside it."""
    if peft is not None:
        (folder / "adapter_config.json").write_text(peft if isinstance(peft, str) else json.dumps(peft))
    entries = [entry("general.type", "adapter"), *(entry(key, value) for key, value in stated.items())]
    return write(folder / "law.gguf", header(entries, []))


@pytest.mark.parametrize(
    ("stated", "peft"),
    [
        ({NAME: "SmolLM2-135M-Instruct", URL: f"https://huggingface.co/{SMOL}"}, None),
        ({URL: f"https://huggingface.co/{SMOL}/tree/main?x=1"}, None),
        ({NAME: "SmolLM2-135M-Instruct"}, None),
        ({NAME: "Smollm2 135M Instruct"}, {"base_model_name_or_path": "gpt2"}),  # its own words come first
        ({URL: "", NAME: " "}, {"base_model_name_or_path": SMOL}),
        ({}, {"base_model_name_or_path": "SmolLM2-135M-Instruct"}),
        ({}, {"base_model_name_or_path": "/models/some/folder"}),
        ({}, {"base_model_name_or_path": "../folder"}),
        ({}, {"base_model_name_or_path": ""}),
        ({}, {"base_model_name_or_path": None}),
        ({}, {}),
        ({}, [SMOL]),
        ({}, "not JSON"),
        ({}, None),
    ],
)
def test_an_adapter_that_names_its_base_or_none_passes(tmp_path: Path, stated: Mapping[str, str], peft: object) -> None:
    check_base(says(tmp_path, stated, peft), SMOL, name="small", where=WHERE)


@pytest.mark.parametrize(
    ("stated", "peft", "shown"),
    [
        ({URL: "https://huggingface.co/HuggingFaceTB/SmolLM2-360M-Instruct"}, None, "SmolLM2-360M-Instruct"),
        ({URL: "https://huggingface.co/other/SmolLM2-135M-Instruct"}, None, "other/SmolLM2-135M-Instruct"),
        ({NAME: "SmolLM2-135M"}, None, "'SmolLM2-135M'"),
        ({}, {"base_model_name_or_path": "gpt2"}, "'gpt2'"),
        ({}, {"base_model_name_or_path": "openai-community/gpt2"}, "openai-community/gpt2"),
    ],
)
def test_an_adapter_that_names_another_base_is_refused(
    tmp_path: Path, stated: Mapping[str, str], peft: object, shown: str
) -> None:
    with pytest.raises(ConfigError, match=r"adapter law\.gguf was made for another base") as caught:
        check_base(says(tmp_path, stated, peft), SMOL, name="small", where=WHERE)

    assert shown in caught.value.what and SMOL in caught.value.what
    assert caught.value.where == WHERE
    assert caught.value.remedy is not None and "`base`" in caught.value.remedy


def test_an_adapter_in_another_form_speaks_through_the_file_beside_it(tmp_path: Path) -> None:
    says(tmp_path, {}, {"base_model_name_or_path": "gpt2"})
    weights = write(tmp_path / "adapter_model.safetensors", b"no GGUF")

    with pytest.raises(ConfigError, match="gpt2"):
        check_base(weights, SMOL, name="small", where=WHERE)


def tokens(*words: str, inner: int = 8) -> bytes:
    """The entry of a vocabulary."""
    raw = text("tokenizer.ggml.tokens") + struct.pack("<IIQ", 9, inner, len(words))
    return raw + b"".join(map(text, words))


def test_a_vocabulary_is_read_by_id(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(header([entry("general.name", "x"), tokens("a", "", "Ġé"), entry("y", "z")], []))

    assert read_tokens(path) == ["a", "", "Ġé"]


@pytest.mark.parametrize(
    ("raw", "problem"),
    [
        (header([entry("general.name", "x")], []), "no vocabulary"),
        (header([tokens("a", "b")], [])[:-1], "ends within the header"),
        (header([tokens(inner=4)], []), "items of type 4"),
        (b"PK", "letters GGUF"),
    ],
    ids=["none", "cut", "numbers", "another file"],
)
def test_a_vocabulary_that_cannot_be_read_is_refused(tmp_path: Path, raw: bytes, problem: str) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(raw)

    with pytest.raises(ConfigError, match=problem):
        read_tokens(path, where=WHERE)
