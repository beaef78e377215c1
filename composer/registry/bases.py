"""The model that an adapter is for, as far as checking and converting need it: its layers' widths and its vocabulary."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from composer.errors import ConfigError
from composer.registry.gguf import Header, is_gguf, read_header
from composer.registry.safetensors import read_tensors

Widths = tuple[int, int]
"""How many numbers a layer reads and how many it writes."""

# Families of llama.cpp whose q and k rows it keeps in another order than transformers, and those whose it does not.
TURNED = ("arcee", "granite", "llama", "smollm3")
AS_THEY_ARE = ("gemma", "gemma2", "gemma3", "phi2", "qwen2", "qwen2moe", "qwen3", "qwen3moe", "starcoder2")


class GgufBase:
    """A base by the header of its GGUF file."""

    def __init__(self, name: str, header: Header) -> None:
        self.name, self.header = name, header

    def widths(self, module: str) -> Widths | None:
        """Of a layer as transformers calls it (`model.layers.0.self_attn.q_proj`) or as the file does."""
        found = self.header.shapes.get(module) or self.header.shapes.get(f"{self.tensor(module)}.weight")
        return (found[0], found[1]) if found is not None and len(found) == 2 else None

    def tensor(self, module: str) -> str | None:
        """What llama.cpp calls a layer of transformers, without `.weight`."""
        found: str | None = self._names.get_name(module)
        return found

    @property
    def family(self) -> str:
        """The architecture as llama.cpp calls it."""
        return str(self.header.metadata.get("general.architecture"))

    @property
    def vocabulary(self) -> int | None:
        """How many tokens it knows."""
        found = self.header.shapes.get("token_embd.weight", ())
        return found[1] if len(found) == 2 else None

    def heads(self, tensor: str) -> int:
        """The heads of an attention layer; 0 where the header does not say."""
        key = "head_count_kv" if tensor.endswith("attn_k") else "head_count"
        found = self._number(f"attention.{key}") or self._number("attention.head_count")
        return found

    def _number(self, key: str) -> int:
        found = self.header.metadata.get(f"{self.family}.{key}")
        return found if isinstance(found, int) else 0

    @cached_property
    def _names(self) -> Any:
        import gguf  # noqa: PLC0415 a tenth of a second, and only PEFT folders need its table of names

        families = {name: kind for kind, name in gguf.MODEL_ARCH_NAMES.items()}
        if self.family not in families:
            raise ConfigError(
                f"the model {self.name} is of the family {self.family!r}, whose layers' names are not known here",
                remedy="convert the adapter with llama.cpp's convert_lora_to_gguf.py",
            )
        return gguf.get_tensor_name_map(families[self.family], self._number("block_count"))


@dataclass(frozen=True, slots=True)
class FolderBase:
    """A base by a folder of transformers: its config and the headers of its safetensors."""

    name: str
    shapes: Mapping[str, tuple[int, ...]]

    def widths(self, module: str) -> Widths | None:
        """Of a layer by its name."""
        found = self.shapes.get(f"{module}.weight")
        return (found[1], found[0]) if found is not None and len(found) == 2 else None

    @property
    def vocabulary(self) -> int | None:
        """How many tokens it knows."""
        found = self.shapes.get("model.embed_tokens.weight", ())
        return found[0] if len(found) == 2 else None


Base = GgufBase | FolderBase


def read_base(path: Path, name: str, *, where: str | None = None) -> Base:
    """The base at `path`: a GGUF file or a folder of transformers. Raises ConfigError."""
    if path.is_dir():
        files = sorted(path.glob("*.safetensors"))
        if not files:
            raise ConfigError(
                f"the base {path} holds no .safetensors file", where=where, remedy="name a GGUF file or such a folder"
            )
        return FolderBase(
            name, {key: entry.shape for file in files for key, entry in read_tensors(file, where=where).entries.items()}
        )
    return GgufBase(name, read_header(path, where=where))


def check_weights(path: Path, allowed: Mapping[str, str], *, where: str | None = None) -> None:
    """Raise ConfigError unless the weights at `path` (a file, or a folder of transformers) are what a native parser may
    see: headers that hold together, no pickle, and no code but the files `allowed`, by name and sha256."""
    if path.is_dir():
        _check_folder(path, allowed, where)
    elif path.suffix.lower() in PICKLES:
        raise _pickled(path, where)
    elif path.suffix == ".safetensors":
        read_tensors(path, where=where)
    elif path.suffix == ".gguf" or is_gguf(path):
        read_header(path, where=where)


PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")
"""How the names of files end that run code when they are loaded."""


def _pickled(path: Path, where: str | None) -> ConfigError:
    return ConfigError(
        f"{path.name} is a pickle: loading it runs whatever code is in it",
        where=where,
        remedy="take the .safetensors file of the same weights, or save it as one where you trust it",
    )


def _check_folder(folder: Path, allowed: Mapping[str, str], where: str | None) -> None:
    tensors = sorted(folder.glob("*.safetensors"))
    pickles = [path for path in sorted(folder.iterdir()) if path.suffix.lower() in PICKLES]
    if pickles and not tensors and not list(folder.glob("*.gguf")):
        raise _pickled(pickles[0], where)
    for path in (*tensors, *sorted(folder.glob("*.gguf"))):
        check_weights(path, {}, where=where)
    for name in ("config.json", "tokenizer_config.json"):
        path = folder / name
        if path.is_file() and (named := _code(path, where)):
            _check_code(folder, named, allowed, f"{name} of {folder.name}", where)


def _code(path: Path, where: str | None) -> list[str]:
    """The Python files that `auto_map` of a config names."""
    found = read_json(path, where).get("auto_map")
    if not found:
        return []
    flat: list[Any] = [each for value in found.values() for each in (value if isinstance(value, list) else [value])]
    return sorted({f"{str(each).rpartition('--')[2].rpartition('.')[0]}.py" for each in flat if each is not None})


def _check_code(folder: Path, named: list[str], allowed: Mapping[str, str], told: str, where: str | None) -> None:
    """Every Python file of the folder counts: what is allowed may import its neighbours."""
    import hashlib  # noqa: PLC0415 few folders have code

    there = {path.name: path for path in folder.rglob("*.py")}
    for name in sorted({*named, *there}):
        if name not in there:
            raise ConfigError(
                f"{told} asks for code of another place: {name}", where=where, remedy="take a model without it"
            )
        found = hashlib.sha256(there[name].read_bytes()).hexdigest()
        if name not in allowed:
            raise ConfigError(
                f"{told} asks for the code in {name} (auto_map), which nobody allowed",
                where=where,
                remedy=f"read it; if it may run here, write `allow_code: {{{name}: {found}}}` at the model",
            )
        if allowed[name] != found:
            raise ConfigError(
                f"the code in {name} has the sha256 {found}, allowed is {allowed[name]}",
                where=where,
                remedy="read what has changed; if it may run here, write its new sha256 into `allow_code`",
            )


def read_json(path: Path, where: str | None) -> dict[str, Any]:
    """A JSON object of at most 64 MiB. Raises ConfigError."""
    try:
        if path.stat().st_size > 64 * 2**20:
            raise ValueError("it is longer than 64 MiB")
        found = json.loads(path.read_bytes())
        if not isinstance(found, dict):
            raise ValueError("it is no mapping")
    except (OSError, ValueError, RecursionError) as why:
        raise ConfigError(f"{path.name} cannot be read: {why}", where=where, remedy="fetch the folder again") from why
    return found
