"""The registry at work: what is sent for an arm, what identifies it, what it costs, and options of its engine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from expert_kit import OTHER, REGISTRY, SHA, registry

from composer.engines.llamacpp import LlamaCppEngine
from composer.errors import ConfigError
from composer.registry.experts import Registry
from composer.types import Message, Request, Stream, Usage
from routers.types import Arm


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
