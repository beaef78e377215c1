"""The registry at work: what is sent for an arm, what identifies it, and adapters that are not what was pinned."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from composer.config import load_settings
from composer.errors import ConfigError, SourceError
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
    assert {arm for arm in arms if before.prints()[arm] != after.prints()[arm]} >= changed


def test_the_text_of_a_template_counts_not_its_name(tmp_path: Path) -> None:
    text = REGISTRY.replace("memory: 100MiB", "template: chat.jinja")
    (tmp_path / "chat.jinja").write_text("{{ messages }}")
    before = registry(tmp_path, text).fingerprint("law")
    (tmp_path / "chat.jinja").write_text("{{ messages[0] }}")

    assert registry(tmp_path, text).fingerprint("law") != before


def test_prints_change_with_sampling_and_system_message_too(tmp_path: Path) -> None:
    before = registry(tmp_path).prints()

    warmer = registry(tmp_path, REGISTRY.replace("0.5", "0.6")).prints()
    longer = registry(tmp_path, REGISTRY.replace("Be brief.", "Be long.")).prints()

    assert {arm for arm in before if warmer[arm] != before[arm]} == {"law"}
    assert {arm for arm in before if longer[arm] != before[arm]} == {"general"}


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

    with pytest.raises(SourceError, match=f"expected {SHA}"):
        Registry(settings).host("small", ["law"])


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


def test_routing_without_an_encoder_says_what_to_add(tmp_path: Path) -> None:
    found = registry(tmp_path)

    with pytest.raises(ConfigError, match="declares none") as caught:
        found.encoder_files()

    assert found.encoder_sha == ""
    assert caught.value.remedy is not None and "encoder:" in caught.value.remedy


def test_the_packaged_experts_have_fingerprints_without_any_file(packaged: Registry) -> None:
    prints = [packaged.fingerprint(arm.name) for arm in packaged.arms()]

    assert len(set(prints)) == len(prints) == len(set(packaged.prints().values()))
    assert {replace(each, adapter=None) for each in prints} == {packaged.fingerprint(packaged.generalist)}
