"""The vLLM environment, which is made by `make vllm-cpu` and not by installing this package."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from vllm_kit import Env, python

from composer.folders import cache_folder
from composer.registry.to_hf import convert


@pytest.fixture(scope="session")
def vllm_env(smollm2: Path) -> Env:
    """vLLM's interpreter, and the packaged model converted once per machine."""
    found = python()
    if found is None:
        pytest.skip("vLLM's environment is not there: `make vllm-cpu` makes it, COE_VLLM names its python")
    folder = cache_folder() / "converted" / smollm2.parent.name
    if not (folder / "config.json").is_file():
        convert(smollm2, folder, python=found)
    return Env(found, folder)


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A folder that looks like a model's until it is loaded."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    save_file({"model.embed_tokens.weight": np.zeros((8, 4), np.float32)}, folder / "model.safetensors")
    config = {"model_type": "llama", "max_position_embeddings": 64, "num_hidden_layers": 1, "hidden_size": 4}
    (folder / "config.json").write_text(json.dumps(config | {"num_attention_heads": 2}))
    return folder
