"""Folders in Hugging Face's form: their digest, their size, their modules, and how one comes from the hub."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from composer.errors import ConfigError, SourceError, UnreachableError
from composer.registry.cache import Cache
from composer.registry.hf import cache_size, digest, strangers, tensors, when_served
from composer.registry.sources import fetch
from composer.settings.sources import HfSource, PathSource

ADAPTERS = Path(__file__).parents[3] / "composer" / "default" / "adapters"
CONFIG = {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "hidden_size": 32}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "tokenizer.json").write_text("{}")
    (folder / "README.md").write_text("about it")
    weights = {f"model.layers.{i}.mlp.down_proj.weight": np.zeros((32, 64), np.float16) for i in range(2)}
    save_file(weights, folder / "model.safetensors")
    return folder


def test_the_digest_is_what_sha256sum_says_of_the_files_that_count(model: Path, tmp_path: Path) -> None:
    told = subprocess.run(
        "sha256sum *.safetensors *.json | LC_ALL=C sort -k2 | sha256sum",
        shell=True,
        cwd=model,
        capture_output=True,
        text=True,
        check=True,
    )
    cache = Cache(tmp_path / "cache")

    found = digest(model, cache)
    (model / "README.md").write_text("other words")
    (model / ".cache").mkdir()
    same = digest(model, cache)
    (model / "tokenizer.json").write_text('{"other": 1}')

    assert found == same == told.stdout.split()[0]
    assert digest(model, cache) != found


def test_what_vllm_takes_is_weights_and_cache_and_its_processes(model: Path) -> None:
    weights = sum(entry.end - entry.begin for entry in tensors(model).values())
    one, two = (when_served(model, 1024, slots) for slots in (8, 16))

    assert weights == 2 * 32 * 64 * 2
    assert two - one == 8 * (1024 + 128) * 2 * 2 * 2 * 8 * 2  # slots, tokens, K and V, layers, heads, width, bytes
    assert cache_size({"model_type": "strange"}, 1024, 8) == 0
    assert cache_size({"text_config": CONFIG}, 1024, 8) == cache_size(CONFIG, 1024, 8)


def test_modules_that_the_model_does_not_have_are_named(model: Path) -> None:
    told = strangers(ADAPTERS / "units", model)

    assert told.startswith("208 of its 210 modules are not the model's: model.layers.0.mlp.gate_proj")
    assert "the model has model.layers.0.mlp.down_proj" in told
    assert strangers(ADAPTERS / "units", None).startswith("it changes model.layers.0")


def test_a_folder_without_weights_says_what_is_expected(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"there is no \*.safetensors") as caught:
        tensors(tmp_path)

    assert "coe models convert" in str(caught.value.remedy)


def test_a_folder_is_a_source_that_is_pinned(model: Path, tmp_path: Path) -> None:
    sha256 = digest(model, Cache(tmp_path / "cache"))
    options: dict[str, Any] = {"name": "m", "base": tmp_path, "cache": tmp_path / "cache"}

    assert fetch([PathSource("model")], sha256, **options) == model
    (model / "config.json").write_text("{}")
    with pytest.raises(SourceError, match=f"expected {sha256}") as caught:
        fetch([PathSource("model")], sha256, **options)
    assert "if this is the folder you want" in str(caught.value.remedy)


@pytest.mark.usefixtures("bare")
def test_a_whole_repository_comes_from_the_hub_once(hub: Any, model: Path, tmp_path: Path) -> None:
    source, listing = HfSource("owner/repo", "9c925d6", ""), "/api/models/owner/repo/revision/9c925d6"
    names = [path.name for path in model.iterdir()] + ["onnx/model.json", "pytorch_model.bin"]
    hub.pages[listing] = json.dumps({"siblings": [{"rfilename": name} for name in names]}).encode()
    for path in model.iterdir():
        hub.pages[f"/owner/repo/resolve/9c925d6/{path.name}"] = path.read_bytes()
    sha256 = digest(model, Cache(tmp_path / "other"))

    first = fetch([source], sha256, name="m", base=tmp_path)
    asked = [seen.path.rpartition("/")[2] for seen in hub.seen]
    again = fetch([source], sha256, name="m", base=tmp_path, offline=True)

    assert first == again == tmp_path / "cache" / "folders" / sha256
    assert sorted(path.name for path in first.iterdir()) == ["config.json", "model.safetensors", "tokenizer.json"]
    assert sorted(asked[1:]) == ["config.json", "model.safetensors", "tokenizer.json"]
    shutil.rmtree(first)
    wrong = hashlib.sha256(b"other").hexdigest()
    with pytest.raises(SourceError, match=f"expected {wrong}"):
        fetch([source], wrong, name="m", base=tmp_path)
    with pytest.raises(UnreachableError, match="offline was asked for"):
        fetch([source], sha256, name="m", base=tmp_path, offline=True)
    hub.pages[listing] = b'{"siblings": [{"rfilename": "pytorch_model.bin"}]}'
    with pytest.raises(SourceError, match=r"holds no \*.safetensors"):
        fetch([source], sha256, name="m", base=tmp_path)
