"""What the tests of engines share."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A folder that looks like a model's until it is loaded."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    save_file({"model.embed_tokens.weight": np.zeros((8, 4), np.float32)}, folder / "model.safetensors")
    config = {"model_type": "llama", "max_position_embeddings": 64, "num_hidden_layers": 1, "hidden_size": 4}
    (folder / "config.json").write_text(json.dumps(config | {"num_attention_heads": 2}))
    return folder
