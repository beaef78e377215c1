"""The registry at work: what is sent for an arm, what identifies it, and adapters that are not what was pinned."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import pytest

from composer.config import load_settings
from composer.engines.llamacpp import LlamaCppEngine
from composer.errors import ConfigError, SourceError, UnreachableError
from composer.registry.experts import Registry
from composer.types import Message, Request, Stream, Usage
from routers.types import Arm

SHA, OTHER = "ab" * 32, "cd" * 32
REGISTRY = f"""\
models:
  small:
    sources: [small.gguf]
    sha256: {SHA}
    price: {{in: 1.0, out: 3.0}}
    memory: 100MiB
  plain:
    sources: [plain.gguf]
    sha256: {OTHER}
    completion: true
  far: {{engine: http}}
experts:
  general: {{model: small, system: Be brief.}}
  law:
    model: small
    adapter: {{path: law.gguf, sha256: {SHA}}}
    answers: choice
    sampling: {{temperature: 0.5}}
  poet: {{model: plain}}
  cloud: {{model: far}}
"""


def registry(folder: Path, text: str = REGISTRY) -> Registry:
    (folder / "experts.yaml").write_text(text)
    return Registry(load_settings(folder / "experts.yaml"))


def test_arms_stand_in_file_order_with_the_price_of_their_model(tmp_path: Path) -> None:
    arms = registry(tmp_path).arms()

    assert arms == (Arm("general", 4.0), Arm("law", 4.0), Arm("poet", 1.0), Arm("cloud", 1.0))


def test_a_chat_model_gets_a_turn_after_the_system_message_and_a_plain_one_the_text(tmp_path: Path) -> None:
    found = registry(tmp_path)

    assert found.messages("general", "Hi") == (Message("system", "Be brief."), Message("user", "Hi"))
    assert found.messages("law", "Hi") == (Message("user", "Hi"),)
    assert found.messages("poet", "Hi") == "Hi"


def test_an_arm_is_its_expert_with_its_adapter_sampling_and_kind(tmp_path: Path) -> None:
    found = registry(tmp_path)

    assert found.stream("law", "Hi") == Stream("law", "Hi", adapter="law")
    assert found.stream("general", "Hi") == Stream("general", "Hi")
    assert found.sampling("law").temperature == 0.5
    assert (found.kind("law"), found.kind("general"), found.generalist) == ("choice", "text", "general")
    assert (found.host_of("law"), found.host_of("poet")) == ("small", "plain")


@pytest.mark.parametrize(
    ("old", "new", "changed"),
    [
        (f"sha256: {SHA}\n    price", f"sha256: {OTHER}\n    price", {"general", "law"}),
        (f"law.gguf, sha256: {SHA}", f"law.gguf, sha256: {OTHER}", {"law"}),
        ("memory: 100MiB", "template: chat.jinja", {"general", "law"}),
        ("memory: 100MiB", "context: 4096", {"general", "law"}),
        ("temperature: 0.5", "temperature: 0.6", set()),
        ("Be brief.", "Be long.", set()),
        ("memory: 100MiB", "memory: 200MiB", set()),
        ("in: 1.0", "in: 2.0", set()),
    ],
)
def test_a_fingerprint_changes_with_what_determines_the_text(
    tmp_path: Path, old: str, new: str, changed: set[str]
) -> None:
    (tmp_path / "chat.jinja").write_text("{{ messages }}")
    before = registry(tmp_path)

    after = registry(tmp_path, REGISTRY.replace(old, new))

    arms = [arm.name for arm in before.arms()]
    assert {arm for arm in arms if before.fingerprint(arm) != after.fingerprint(arm)} == changed


def test_the_text_of_a_template_counts_not_its_name(tmp_path: Path) -> None:
    text = REGISTRY.replace("memory: 100MiB", "template: chat.jinja")
    (tmp_path / "chat.jinja").write_text("{{ messages }}")
    before = registry(tmp_path, text).fingerprint("law")
    (tmp_path / "chat.jinja").write_text("{{ messages[0] }}")

    assert registry(tmp_path, text).fingerprint("law") != before


@pytest.mark.parametrize(
    ("old", "new", "changed"),
    [
        (f"sha256: {SHA}\n    price", f"sha256: {OTHER}\n    price", {"general", "law"}),
        (f"law.gguf, sha256: {SHA}", f"law.gguf, sha256: {OTHER}", {"law"}),
        ("memory: 100MiB", "template: chat.jinja", {"general", "law"}),
        ("temperature: 0.5", "temperature: 0.6", {"law"}),
        ("Be brief.", "Be long.", {"general"}),
        ("memory: 100MiB", "context: 4096", set()),
        ("memory: 100MiB", "options: {flash_attention: true}", set()),
    ],
)
def test_prints_change_with_what_decides_how_good_an_arm_is(
    tmp_path: Path, old: str, new: str, changed: set[str]
) -> None:
    (tmp_path / "chat.jinja").write_text("{{ messages }}")
    before = registry(tmp_path).prints()

    after = registry(tmp_path, REGISTRY.replace(old, new)).prints()

    assert {arm for arm in before if after[arm] != before[arm]} == changed


def test_what_somebody_else_serves_proves_no_identity_and_takes_no_memory(tmp_path: Path) -> None:
    found = registry(tmp_path)

    assert found.fingerprint("cloud").weights is None
    assert (found.weights("far"), found.estimate("far", ())) == ("far", 0)
    assert found.host("far", ()).path is None


def test_a_call_costs_its_tokens_and_nothing_is_known_without_a_price(tmp_path: Path) -> None:
    found = registry(tmp_path)
    usage = Usage(tokens_in=1_000_000, tokens_out=2_000_000)

    assert found.cost(Request("1", (Stream("law", "Hi"),)), usage) == 7.0
    assert found.cost(Request("1", (Stream("poet", "Hi"),)), usage) is None


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


def test_routing_without_an_encoder_says_what_to_add(tmp_path: Path) -> None:
    found = registry(tmp_path)

    with pytest.raises(ConfigError, match="declares none") as caught:
        found.encoder_files()

    assert found.encoder_sha == ""
    assert caught.value.remedy is not None and "encoder:" in caught.value.remedy


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


# Options of the engine ------------------------------------------------------------------------------------------------


def with_options(options: str, engine: str = "llamacpp") -> str:
    return REGISTRY.replace("price:", f"engine: {engine}\n    options: {{{options}}}\n    price:")


@pytest.mark.parametrize(
    ("options", "engine", "told"),
    [
        ("flash_atention: true", "llamacpp", "unknown key `flash_atention`"),
        ("mlock: true", "llamacpp", "unknown key `mlock`"),
        ("flash_attention: yes", "llamacpp", "`yes` is text in YAML 1.2"),
        ("recordings: x", "replay", "unknown key `recordings`"),
    ],
)
def test_an_option_that_the_engine_does_not_take_is_refused_at_its_line(
    tmp_path: Path, options: str, engine: str, told: str
) -> None:
    with pytest.raises(ConfigError, match=told) as caught:
        registry(tmp_path, with_options(options, engine))

    name = options.partition(":")[0]
    assert str(caught.value.where).endswith(f"experts.yaml:6 (models.small.options.{name})")
    assert caught.value.remedy


def test_how_long_an_engine_waits_is_no_part_of_what_it_says(tmp_path: Path) -> None:
    def engine(options: str) -> str:
        return (
            registry(tmp_path, with_options(f"url: 'http://127.0.0.1:9', model: m{options}", "openai"))
            .fingerprint("general")
            .engine
        )

    assert engine("") == engine(", first: 9, idle: 9, longest: 9, retries: 1, preflight: false")
    assert engine("") != engine(", serves_as: other")


def test_an_option_reaches_the_engine_and_the_fingerprint(tmp_path: Path) -> None:
    plain, fast = registry(tmp_path), registry(tmp_path, with_options("flash_attention: true"))

    engine = fast.engine("small")

    assert isinstance(engine, LlamaCppEngine)
    assert engine.flash_attention is True
    assert {arm.name for arm in plain.arms() if plain.fingerprint(arm.name) != fast.fingerprint(arm.name)} == {
        "general",
        "law",
    }


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


def test_the_packaged_experts_have_fingerprints_without_any_file(packaged: Registry) -> None:
    prints = [packaged.fingerprint(arm.name) for arm in packaged.arms()]

    assert len(set(prints)) == len(prints) == len(set(packaged.prints().values()))
    assert {replace(each, adapter=None) for each in prints} == {packaged.fingerprint(packaged.generalist)}
