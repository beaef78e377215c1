"""Adapters as hosts take them: PEFT folders and mixtures become files of the cache, once, and real llama.cpp runs them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from composer.config import PACKAGED, load_settings
from composer.errors import ConfigError, SourceError
from composer.registry.adapting import is_adapter, sha_of
from composer.registry.check import Check, check_experts
from composer.registry.experts import Registry
from composer.registry.lora import load_lora, lost

ADAPTERS = PACKAGED / "adapters"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("composer.registry.adapting.cache_folder", lambda: tmp_path / "cache")
    return tmp_path / "cache" / "adapters"


def registry(folder: Path, smollm2: Path, packaged: Registry, experts: Sequence[str]) -> Registry:
    """The packaged model under these experts."""
    lines = [
        "models:",
        "  smollm2:",
        f"    sources: ['{smollm2}']",
        f"    sha256: {packaged.settings.models['smollm2'].sha256}",
        "    base: HuggingFaceTB/SmolLM2-135M-Instruct",
        "    template: default:chatml.jinja",
        "    slots: 2",
        "experts:",
        "  general: {model: smollm2}",
        *(f"  {line}" for line in experts),
    ]
    (folder / "experts.yaml").write_text("\n".join(lines) + "\n")
    return Registry(load_settings(folder / "experts.yaml"))


def row(name: str, place: Path, sha256: str | None = None) -> str:
    return f"{name}: {{model: smollm2, adapter: {{path: '{place}', sha256: {sha256 or sha_of(place)}}}}}"


async def test_a_peft_folder_and_mixtures_answer_as_the_converted_file_does(
    smollm2: Path, packaged: Registry, tmp_path: Path
) -> None:
    found = registry(
        tmp_path,
        smollm2,
        packaged,
        [
            row("file", ADAPTERS / "arithmetic" / "arithmetic.gguf"),
            row("folder", ADAPTERS / "arithmetic"),
            row("units", ADAPTERS / "units"),
            "alone: {model: smollm2, adapter: {sum: {folder: 1.0}}}",
            "twice: {model: smollm2, adapter: {sum: {file: 0.5, folder: 0.5}, rank: 4}}",
            "both: {model: smollm2, adapter: {sum: {folder: 0.5, units: 0.5}}}",
            "crossed: {model: smollm2, adapter: {cross: {folder: 0.5, units: 0.5}}}",
        ],
    )

    told: dict[str, Check] = {check.expert: check async for check in check_experts(found)}

    assert all(check.ok for check in told.values()), told
    assert told["file"].answer == told["folder"].answer == told["alone"].answer == told["twice"].answer
    assert told["file"].difference == told["folder"].difference
    assert len({round(told[name].difference or 0, 3) for name in ("file", "both", "crossed")}) == 3


def test_what_is_made_is_kept_and_made_anew_where_it_changed(
    smollm2: Path, packaged: Registry, tmp_path: Path, cache: Path
) -> None:
    experts = [row("folder", ADAPTERS / "units"), "half: {model: smollm2, adapter: {sum: {folder: 0.5}}}"]
    found = registry(tmp_path, smollm2, packaged, experts)

    first = found.host("smollm2", ["folder", "half"])
    made = [adapter.path for adapter in first.adapters]
    before = [(path.stat().st_mtime_ns, path.read_bytes()) for path in made]
    found.host("smollm2", ["folder", "half"])
    same = [path.stat().st_mtime_ns for path in made]
    made[1].write_bytes(made[1].read_bytes()[:-1] + b"x")
    found.host("smollm2", ["folder", "half"])

    assert all(path.is_relative_to(cache) for path in made) and same == [time for time, _ in before]
    assert made[1].read_bytes() == before[1][1]
    assert first.memory > packaged.host("smollm2", []).memory - 2**30
    whole = load_lora(ADAPTERS / "units" / "units.gguf")
    assert lost(load_lora(made[0]), whole) < 1e-6 and lost(load_lora(made[1]), whole) == pytest.approx(1.0, abs=1e-5)


def test_a_changed_folder_is_refused_also_where_only_its_config_changed(
    smollm2: Path, packaged: Registry, tmp_path: Path
) -> None:
    folder = tmp_path / "units"
    folder.mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (folder / name).write_bytes((ADAPTERS / "units" / name).read_bytes())
    found = registry(tmp_path, smollm2, packaged, [row("units", folder)])
    found.host("smollm2", ["units"])
    config = folder / "adapter_config.json"
    config.write_text(config.read_text().replace('"lora_alpha": 8', '"lora_alpha": 9'))

    with pytest.raises(SourceError, match="its sha256 is") as caught:
        found.host("smollm2", ["units"])

    assert caught.value.where is not None and str(folder) in caught.value.where


def test_a_folder_for_another_base_or_of_something_else_is_refused(
    smollm2: Path, packaged: Registry, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    found = registry(tmp_path, smollm2, packaged, [row("law", tmp_path / "empty", "ab" * 32)])

    with pytest.raises(ConfigError, match="is no PEFT folder"):
        found.host("smollm2", ["law"])


def test_an_adapter_is_told_from_a_model(smollm2: Path) -> None:
    assert is_adapter(ADAPTERS / "units") and is_adapter(ADAPTERS / "units" / "units.gguf")
    assert not is_adapter(smollm2) and not is_adapter(ADAPTERS)
