"""The base model as a folder that transformers can train on, dequantised from its GGUF."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path
from typing import Any

from composer.config import load_settings, packaged_registry
from composer.registry.experts import Registry

BASE_NAME = "HuggingFaceTB/SmolLM2-135M-Instruct"

#: the chat format of training and of serving: no system message is added
TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content']"
    " + '<|im_end|>' + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def prompt(question: str) -> str:
    """What the model reads before it answers: `TEMPLATE` of one user message.

    >>> prompt("Hi")
    '<|im_start|>user\\nHi<|im_end|>\\n<|im_start|>assistant\\n'
    """
    return f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"


def base_gguf(path: str | Path | None) -> Path:
    """The base model's GGUF file: `path`, or the packaged registry's model, fetched if need be."""
    if path is None:
        registry = Registry(load_settings(packaged_registry()))
        fetched = registry.host(registry.settings.generalist.model, ()).path
        assert fetched is not None
        return fetched
    found = Path(path)
    if not found.is_file():
        raise FileNotFoundError(f"no base model at {found}; pass --base FILE.gguf")
    return found


def base_folder(gguf: Path, cache: Path) -> Path:
    """The dequantised model and tokenizer of a GGUF file, made once per file content."""
    with gguf.open("rb") as file:
        name = hashlib.file_digest(file, "sha256").hexdigest()[:16]
    folder = cache / f"base-{name}"
    if (folder / "model.safetensors").is_file():
        return folder
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source: dict[str, Any] = {"gguf_file": gguf.name}
    model = AutoModelForCausalLM.from_pretrained(str(gguf.parent), dtype="float32", **source)
    tokenizer = AutoTokenizer.from_pretrained(str(gguf.parent), **source)
    model.hf_quantizer = None  # the weights are plain now; saving would quantise them again
    for name in ("quantization_config", "_pre_quantization_dtype"):
        if hasattr(model.config, name):
            delattr(model.config, name)
    model.is_quantized = False
    partial = folder.with_name(f"{folder.name}.{os.getpid()}")
    model.save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
    return folder
