"""What a native parser may see: whole headers, no pickle, and no code that nobody allowed."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from composer.errors import ConfigError
from composer.registry.bases import check_weights, read_base

CODE = "class Model: ..."


def folder(path: Path, **config: object) -> Path:
    path.mkdir()
    save_file(
        {"model.layers.0.mlp.up_proj.weight": np.zeros((6, 4), "f4"), "model.embed_tokens.weight": np.zeros((9, 4), "f4")},
        str(path / "model.safetensors"),
    )  # fmt: skip
    (path / "config.json").write_text(json.dumps(config))
    return path


def test_a_folder_of_transformers_tells_its_widths(tmp_path: Path) -> None:
    base = read_base(folder(tmp_path / "small"), "small")

    assert base.widths("model.layers.0.mlp.up_proj") == (4, 6)
    assert (base.widths("model.layers.1.mlp.up_proj"), base.vocabulary) == (None, 9)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "weights.PKL", "old.ckpt"])
def test_a_pickle_is_refused_by_its_name_and_never_opened(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"cos\nsystem\n")

    for place in (tmp_path / name, tmp_path):
        with pytest.raises(ConfigError, match="is a pickle"):
            check_weights(place, {})


def test_a_pickle_beside_safetensors_is_left_alone(tmp_path: Path) -> None:
    (folder(tmp_path / "small") / "pytorch_model.bin").write_bytes(b"")

    check_weights(tmp_path / "small", {})


def test_a_broken_file_of_a_folder_is_named(tmp_path: Path) -> None:
    (folder(tmp_path / "small") / "other.safetensors").write_bytes(b"none")

    with pytest.raises(ConfigError, match=r"other\.safetensors is not a readable"):
        check_weights(tmp_path / "small", {})


def test_code_runs_only_where_its_sha256_is_allowed(tmp_path: Path) -> None:
    small = folder(
        tmp_path / "small", auto_map={"AutoModel": "modeling.Model", "AutoTokenizer": ["other--tok.T", None]}
    )
    (small / "modeling.py").write_text(CODE)
    sha = hashlib.sha256(CODE.encode()).hexdigest()

    with pytest.raises(ConfigError, match=r"code in modeling\.py \(auto_map\), which nobody allowed") as caught:
        check_weights(small, {}, where="experts.yaml:2 (models.small)")
    with pytest.raises(ConfigError, match=r"asks for code of another place: tok\.py"):
        check_weights(small, {"modeling.py": sha})
    (small / "tok.py").write_text("T = 1")
    with pytest.raises(ConfigError, match=r"code in tok\.py"):
        check_weights(small, {"modeling.py": sha})
    (small / "tok.py").write_text(CODE)
    check_weights(small, {"modeling.py": sha, "tok.py": sha})
    (small / "modeling.py").write_text("import os")
    with pytest.raises(ConfigError, match=f"allowed is {sha}"):
        check_weights(small, {"modeling.py": sha, "tok.py": sha})

    assert caught.value.remedy is not None and f"modeling.py: {sha}" in caught.value.remedy
