"""The row of the registry file for a model as Hugging Face's folders hold it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from composer.errors import ConfigError
from composer.registry.cache import Cache
from composer.registry.hf import digest, settings, template_of, tensors

_LONGEST = 4096  # tokens that are asked for without being told to: memory is taken for them
Row = dict[str, Any]


def folder_row(folder: Path, place: str) -> tuple[Row, tuple[str, ...]]:
    """The row of the model in `folder`, which the registry file calls `place`, and what is to be told of it. Raises
    ConfigError where it is no model, or a part of it is missing."""
    where = str(folder)
    if not (folder / "config.json").is_file():
        raise ConfigError(
            f"{folder} is no model and no adapter: it has neither config.json nor adapter_config.json",
            where=where,
            remedy="name a folder as transformers or PEFT saves it, or a GGUF file",
        )
    config = settings(folder, where=where)
    tensors(folder, where=where)
    if missing := _missing(folder, where):
        raise ConfigError(
            f"{folder} is not whole: {', '.join(missing)} of its weights are not there",
            where=where,
            remedy="fetch the folder again",
        )
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        raise ConfigError(
            f"{folder} has no tokenizer", where=where, remedy="save the tokenizer of the model into the same folder"
        )
    length = (config.get("text_config") or config).get("max_position_embeddings")
    row = {"engine": "vllm", "sources": [place], "sha256": digest(folder, Cache()), "context": context_of(length)}
    found, notes = chatting(row, chats=template_of(folder, where=where) is not None)
    return found, ("it is a folder of Hugging Face's form: vLLM serves it", *notes)


def context_of(length: object, most: int = _LONGEST) -> int:
    """The context to ask for, of a model that was made for so many tokens: `most` of them, and 2048 where it does not say."""
    return min(length, most) if isinstance(length, int) and length >= 16 else min(2048, most)


def chatting(row: Row, *, chats: bool) -> tuple[Row, tuple[str, ...]]:
    """The row, and a note where the model only continues text."""
    if chats:
        return row, ()
    return {**row, "completion": True}, ("it has no chat template: it continues text (`completion: true`)",)


def _missing(folder: Path, where: str) -> list[str]:
    """Files that the index of split weights names, and that are not there."""
    if not (folder / "model.safetensors.index.json").is_file():
        return []
    named = settings(folder, "model.safetensors.index.json", where=where).get("weight_map")
    return sorted({str(name) for name in (named or {}).values() if not (folder / str(name)).is_file()})
