"""Files of experts: how much memory they will take, and each that is missing, unreadable or not what was pinned."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import gguf
import pytest
from expert_kit import OTHER, REGISTRY, SHA, registry

from composer.config import load_settings
from composer.errors import ConfigError, SourceError, UnreachableError
from composer.registry.experts import Registry


def test_memory_is_as_declared_else_by_the_size_of_the_files(tmp_path: Path) -> None:
    (tmp_path / "law.gguf").write_bytes(bytes(1000))
    (tmp_path / "plain.gguf").write_bytes(bytes(5000))
    found = registry(tmp_path)

    assert found.estimate("small", ()) == 100 * 2**20
    assert found.estimate("small", ["law"]) == 100 * 2**20 + 1000
    assert found.estimate("plain", ()) == 70 * 2**20 + 5000


def weights(path: Path, **metadata: int) -> None:
    """A file of a Llama model with this metadata and no weights."""
    writer = gguf.GGUFWriter(path, "llama")
    for key, value in metadata.items():
        writer.add_uint32("llama." + key.replace("__", "."), value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()


SHAPE = {"block_count": 30, "attention__head_count": 9, "attention__head_count_kv": 3, "embedding_length": 576}


@pytest.mark.parametrize(
    ("metadata", "per_token"),
    [
        (SHAPE, 2 * 30 * 3 * 64 * 2),
        ({key: value for key, value in SHAPE.items() if key != "attention__head_count_kv"}, 2 * 30 * 9 * 64 * 2),
        (SHAPE | {"attention__key_length": 96, "attention__value_length": 32}, 30 * 3 * (96 + 32) * 2),
        ({key: value for key, value in SHAPE.items() if key != "embedding_length"}, None),
        ({key: value for key, value in SHAPE.items() if key != "block_count"}, None),
        ({}, None),
    ],
)
def test_memory_counts_the_cache_of_every_slot_where_the_weights_say_how_large_it_is(
    tmp_path: Path, metadata: dict[str, int], per_token: int | None
) -> None:
    weights(tmp_path / "plain.gguf", **metadata)
    size = (tmp_path / "plain.gguf").stat().st_size
    found = registry(
        tmp_path, REGISTRY.replace("completion: true", "completion: true\n    context: 4096\n    slots: 3")
    )

    cache = 70 * 2**20 if per_token is None else per_token * 4096 * 3 + 100 * 2**20
    assert found.estimate("plain", ()) == size + cache


def test_a_fetched_host_is_as_large_as_its_weights_say(
    hub: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights(tmp_path / "far.gguf", **SHAPE)
    raw = (tmp_path / "far.gguf").read_bytes()
    hub.pages["/owner/repo/resolve/main/far.gguf"] = raw
    text = REGISTRY.replace("[plain.gguf]", '["hf:owner/repo@main/far.gguf"]')
    found = registry(tmp_path, text.replace(OTHER, hashlib.sha256(raw).hexdigest()))

    before, host, after = found.estimate("plain", ()), found.host("plain", ()), found.estimate("plain", ())

    assert before == 70 * 2**20
    assert host.memory == after == len(raw) + 2 * 30 * 3 * 64 * 2 * 2048 * 8 + 100 * 2**20


def pinned(folder: Path) -> tuple[Registry, Path]:
    """A registry whose weights and adapter are there (no model reads them here), and the adapter."""
    weights, adapter = folder / "small.gguf", folder / "law.gguf"
    weights.write_bytes(b"weights")
    adapter.write_bytes(b"adapter")
    text = REGISTRY.replace(f"law.gguf, sha256: {SHA}", f"law.gguf, sha256: {hashlib.sha256(b'adapter').hexdigest()}")
    return registry(folder, text.replace(SHA, hashlib.sha256(b"weights").hexdigest())), adapter


def test_a_host_without_adapters_is_its_pinned_file(tmp_path: Path) -> None:
    found, _ = pinned(tmp_path)

    host = found.host("small", ())

    assert (host.path, host.memory, host.chat) == (tmp_path / "small.gguf", 100 * 2**20, True)


def test_weights_that_are_no_model_are_refused_before_an_engine_sees_them(tmp_path: Path) -> None:
    found, _ = pinned(tmp_path)

    with pytest.raises(ConfigError, match=r"small.gguf is not a readable GGUF file") as caught:
        found.host("small", ["law"])

    assert caught.value.where is not None and caught.value.where.endswith("experts.yaml:2 (models.small)")


@pytest.mark.parametrize("content", [None, b"another"])
def test_missing_or_changed_weights_are_named_with_their_line(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "small.gguf").write_bytes(content)

    with pytest.raises(SourceError, match="no source has the file") as caught:
        registry(tmp_path).host("small", ())

    assert str(tmp_path / "small.gguf") in caught.value.what
    assert str(caught.value.where).endswith("experts.yaml:3 (models.small.sources)")
    assert (caught.value.exit_code, bool(caught.value.remedy)) == (6, True)


def test_what_cannot_be_fetched_is_named_with_its_line_and_kind(bare: None, tmp_path: Path) -> None:
    text = REGISTRY.replace("[small.gguf]", '["hf:owner/repo@main/small.gguf"]')
    (tmp_path / "experts.yaml").write_text(text)
    settings = load_settings(tmp_path / "experts.yaml")

    with pytest.raises(UnreachableError, match="offline was asked for") as caught:
        Registry(settings, offline=True).host("small", ())

    assert str(caught.value.where).endswith("experts.yaml:3 (models.small.sources)")
    assert caught.value.remedy is not None and "connected machine" in caught.value.remedy


def test_a_missing_adapter_is_named_with_its_file_and_line(packaged: Registry, smollm2: Path, tmp_path: Path) -> None:
    settings = load_settings(_like_packaged(tmp_path, packaged, smollm2, SHA))

    with pytest.raises(ConfigError, match=r"the adapter .*law\.gguf is not there") as caught:
        Registry(settings).host("small", ["law"])

    assert caught.value.where is not None
    assert caught.value.where.endswith("experts.yaml:8 (experts.law.adapter)")
    assert caught.value.remedy == "correct the path"


def test_a_changed_adapter_is_refused(packaged: Registry, smollm2: Path, tmp_path: Path) -> None:
    settings = load_settings(_like_packaged(tmp_path, packaged, smollm2, SHA))
    (tmp_path / "law.gguf").write_bytes(b"another")

    with pytest.raises(SourceError, match=f"expected {SHA}") as caught:
        Registry(settings).host("small", ["law"])

    assert str(caught.value.where).endswith("experts.yaml:8 (experts.law.adapter)")
    assert caught.value.remedy


def _like_packaged(folder: Path, packaged: Registry, weights: Path, sha256: str) -> Path:
    path = folder / "experts.yaml"
    path.write_text(
        f"models:\n  small:\n    sources: ['{weights}']\n    sha256: {packaged.settings.models['smollm2'].sha256}\n"
        f"experts:\n  general: {{model: small}}\n  law: \n    adapter: {{path: law.gguf, sha256: {sha256}}}\n"
        "    model: small\n"
    )
    return path


def test_an_unreadable_template_is_named_with_its_line(tmp_path: Path) -> None:
    found = registry(tmp_path, REGISTRY.replace("memory: 100MiB", "template: none.jinja"))

    with pytest.raises(ConfigError, match="the chat template cannot be read") as caught:
        found.fingerprint("law")

    assert caught.value.where is not None and "experts.yaml:6" in caught.value.where
    assert caught.value.remedy


ENCODER = f"encoder: {{sources: [mini.onnx], sha256: {SHA}, tokenizer: tokenizer.json}}\n"


@pytest.mark.parametrize("content", [None, b"another"])
def test_a_missing_or_changed_encoder_is_named_with_its_line(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "mini.onnx").write_bytes(content)

    with pytest.raises(SourceError, match=r"mini\.onnx") as caught:
        registry(tmp_path, REGISTRY + ENCODER).encoder_files()

    assert str(caught.value.where).endswith("experts.yaml:21 (encoder.sources)")
    assert caught.value.remedy


def test_a_missing_tokenizer_is_named_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "mini.onnx").write_bytes(b"encoder")
    text = REGISTRY + ENCODER.replace(SHA, hashlib.sha256(b"encoder").hexdigest())

    with pytest.raises(ConfigError, match=r"the tokenizer .*tokenizer\.json is not there") as caught:
        registry(tmp_path, text).encoder_files()

    assert str(caught.value.where).endswith("experts.yaml:21 (encoder.tokenizer)")
    assert caught.value.remedy == "correct the path"


def test_an_adapter_that_names_another_base_than_its_model_is_refused(tmp_path: Path) -> None:
    pinned(tmp_path)
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "gpt2"}')
    text = REGISTRY.replace(f"law.gguf, sha256: {SHA}", f"law.gguf, sha256: {hashlib.sha256(b'adapter').hexdigest()}")
    text = text.replace("{engine: http}", "{engine: http, base: owner/big}").replace(
        "model: small\n    ad", "model: far\n    ad"
    )

    with pytest.raises(ConfigError, match=r"law\.gguf was made for another base: it says 'gpt2'") as caught:
        registry(tmp_path, text).host("far", ["law"])

    assert str(caught.value.where).endswith("(experts.law.adapter)")
