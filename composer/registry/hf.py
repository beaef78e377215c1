"""Folders of Hugging Face's form, models and PEFT adapters: which files count, their digest, and what headers tell."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from composer.errors import ConfigError
from composer.registry.cache import Cache
from composer.registry.safetensors import Entry, read_tensors

TOKENIZER = (
    *("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "vocab.txt", "merges.txt"),
)
"""The files of a folder that say how text becomes tokens."""

_COUNTS = (".safetensors", ".json", ".jinja", ".model", ".txt")
_PROCESSES = 2200 * 2**20  # what vLLM's three processes take beside weights and cache, measured on a CPU
_TORCH = 500 * 2**20  # what a process of torch and transformers takes beside those, measured on a CPU
_BLOCK = 128  # tokens, vLLM's on a CPU; smaller elsewhere
_SHOWN = 3


def digest(folder: Path, cache: Cache) -> str:
    """The sha256 of a folder: of the lines `sha256sum` prints for the files that count, sorted by name. Raises OSError.

    Weights, settings, tokenizer and template count, those at the top: `*.safetensors *.json *.jinja *.model *.txt`. A
    README, weights in other forms and what tools leave behind change nothing. A file that was hashed before is
    recognised by its size and time.
    """
    lines = [f"{cache.digest(path)}  {path.name}\n" for path in files(folder)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def files(folder: Path) -> list[Path]:
    """The files of the folder that count, sorted by name."""
    return sorted(path for path in folder.iterdir() if counts(path.name) and path.is_file())


def counts(name: str) -> bool:
    """Whether a file of this name is part of what its folder is; hidden ones and those in folders below are not."""
    return "/" not in name and not name.startswith(".") and name.endswith(_COUNTS)


def tensors(folder: Path, *, where: str | None = None) -> dict[str, Entry]:
    """Every tensor of the folder's safetensors files by its name. Raises ConfigError where there are none."""
    found: dict[str, Entry] = {}
    for path in sorted(folder.glob("*.safetensors")):
        found |= read_tensors(path, where=where).entries
    if not found:
        raise ConfigError(
            f"{folder} holds no weights: there is no *.safetensors",
            where=where,
            remedy="name a folder in Hugging Face's form; a GGUF file becomes one with `coe models convert FILE OUT`",
        )
    return found


def settings(folder: Path, name: str = "config.json", *, where: str | None = None) -> dict[str, Any]:
    """A folder's settings. Raises ConfigError."""
    try:
        found = json.loads((folder / name).read_bytes())
    except (OSError, ValueError, RecursionError) as why:
        raise ConfigError(
            f"{folder / name} cannot be read: {why}", where=where, remedy="fetch or save the folder again"
        ) from why
    if not isinstance(found, dict):
        raise ConfigError(f"{folder / name} is no JSON object", where=where, remedy="fetch or save the folder again")
    return found


def template_of(folder: Path, *, where: str | None = None) -> str | None:
    """The text of the folder's own chat template, from whichever of its places; None where it has none. Raises ConfigError
    where its settings cannot be read."""
    if (path := folder / "chat_template.jinja").is_file():
        return path.read_text(encoding="utf-8", errors="replace")
    for name in ("chat_template.json", "tokenizer_config.json"):
        if (folder / name).is_file() and (told := settings(folder, name, where=where).get("chat_template")):
            return told if isinstance(told, str) else json.dumps(told, sort_keys=True)
    return None


def when_served(folder: Path, context: int, slots: int) -> int:
    """Bytes that vLLM takes with such a folder: its weights, its cache, and its own processes. Raises ConfigError."""
    weights = sum(entry.end - entry.begin for entry in tensors(folder).values())
    return weights + cache_size(settings(folder), context, slots) + _PROCESSES


def when_computed(folder: Path, context: int, slots: int, dtype: str) -> int:
    """Bytes that transformers takes with such a folder in this type (`auto`: its own), with a cache for a stream of each
    slot; a request of several streams takes as many. Raises ConfigError."""
    entries = tensors(folder).values()
    width = 4 if dtype == "float32" else 2
    numbers = sum(math.prod(entry.shape) for entry in entries)
    weights = sum(entry.end - entry.begin for entry in entries) if dtype == "auto" else numbers * width
    return weights + cache_size(settings(folder), context, slots) * width // 2 + _TORCH


def cache_size(config: Mapping[str, Any], context: int, slots: int) -> int:
    """Bytes of keys and values of `slots` requests of `context` tokens, in 16 bits each, and of one more for what is
    kept of earlier prompts; 0 where the settings do not say.

    >>> cache_size({"num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3, "hidden_size": 576}, 128, 1)
    11796480
    """
    tokens = (-(-context // _BLOCK) + 1) * _BLOCK * (slots + 1)  # whole blocks
    config = config.get("text_config") or config

    def number(key: str) -> int:
        found = config.get(key)
        return found if type(found) is int and found > 0 else 0

    heads = number("num_attention_heads")
    width = number("head_dim") or (number("hidden_size") // heads if heads else 0)
    return 4 * number("num_hidden_layers") * (number("num_key_value_heads") or heads) * width * tokens


def modules(names: Sequence[str]) -> list[str]:
    """The modules that an adapter's tensors change, as the model would have to call them.

    >>> modules(["base_model.model.model.layers.0.mlp.up_proj.lora_A.weight"])
    ['model.layers.0.mlp.up_proj']
    """
    return sorted({name.removeprefix("base_model.model.").partition(".lora_")[0] for name in names})


def strangers(adapter: Path, base: Path | None) -> str:
    """A sentence on the modules that a PEFT folder changes and the model's folder does not have, with their names; for a
    model that is not here it names the adapter's. Raises ConfigError."""
    named = modules(list(tensors(adapter)))
    if base is None:
        return f"it changes {_few(named)}"
    known = {name.removesuffix(".weight").removesuffix(".bias") for name in tensors(base)}
    strange = [name for name in named if name not in known]
    if not strange:
        return f"its modules have the model's names ({_few(named)}): its numbers may all be 0"
    ends = {name.rpartition(".")[2] for name in strange}
    like = sorted(name for name in known if name.rpartition(".")[2] in ends) or sorted(known)
    return (
        f"{len(strange)} of its {len(named)} modules are not the model's: {_few(strange)}; the model has {_few(like)}"
    )


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")
