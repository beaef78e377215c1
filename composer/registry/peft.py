"""A PEFT folder as it is: its config and the header of its weights, checked against the base before anybody loads it."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from composer.errors import ConfigError
from composer.registry.adapters import HUB_NAME, same
from composer.registry.bases import PICKLES, Base, read_json
from composer.registry.safetensors import Entry, read_tensors

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."
_MOST_RANK = 1024
_PLAIN = re.compile(r"[\w.]+")

# What changes the arithmetic of a LoRA and is not served here; anything that means "no" leaves it as it is.
_UNSUPPORTED = (
    "use_dora",
    "modules_to_save",
    "lora_bias",
    "layer_replication",
    "trainable_token_indices",
    "target_parameters",
    "use_qalora",
    "alora_invocation_tokens",
    "arrow_config",
    "megatron_config",
    "fan_in_fan_out",
)
_CHANGED_BASES = ("pissa", "olora", "corda", "loftq")  # ways to begin that leave another base than they were given


@dataclass(frozen=True, slots=True)
class Module:
    """One layer's pair of matrices by their names in the file, their rank, and the factor of their product."""

    down: str
    up: str
    rank: int
    scale: float


@dataclass(frozen=True, slots=True)
class Peft:
    """A LoRA in PEFT's form. `base` is what it calls its base, `modules` its layers as transformers calls them."""

    folder: Path
    base: str | None
    alpha: float
    modules: Mapping[str, Module]
    shapes: Mapping[str, tuple[int, ...]]


def is_peft(path: Path) -> bool:
    """Whether `path` is a folder that PEFT wrote."""
    return (path / CONFIG).is_file()


def read_peft(folder: Path, *, where: str | None = None) -> Peft:
    """The adapter in `folder`. Raises ConfigError, naming the field or the tensor, for what is no plain LoRA, is not
    whole, or contradicts itself. Loads no number."""
    if not is_peft(folder):
        raise ConfigError(f"{folder} holds no {CONFIG}", where=where, remedy="name the folder that PEFT saved")
    config = read_json(folder / CONFIG, where)

    def error(what: str, remedy: str) -> ConfigError:
        return ConfigError(f"{folder.name}/{CONFIG}: {what}", where=where, remedy=remedy)

    if config.get("peft_type") != "LORA":
        raise error(f"peft_type is {config.get('peft_type')!r}, expected 'LORA'", "train a LoRA")
    for name in _UNSUPPORTED:
        if config.get(name):
            raise error(f"{name} is {_short(config[name])}, which is not served", "train a plain LoRA, or merge it")
    if config.get("bias", "none") != "none":
        raise error(f"bias is {_short(config['bias'])}, expected 'none'", "train it with bias='none'")
    begun = str(config.get("init_lora_weights", "")).lower()
    if begun.startswith(_CHANGED_BASES):
        raise error(
            f"init_lora_weights is {begun!r}: it belongs to a base that was changed before training",
            "convert it to a plain LoRA when saving (path_initial_model_for_weight_conversion)",
        )
    rank, alpha = config.get("r"), config.get("lora_alpha", 8)
    if type(rank) is not int or not 0 < rank <= _MOST_RANK:
        raise error(f"r is {_short(rank)}, expected a whole number from 1 to {_MOST_RANK}", "save the adapter again")
    if not _positive(alpha):
        raise error(f"lora_alpha is {_short(alpha)}, expected a number above 0", "save the adapter again")
    for field in ("rank_pattern", "alpha_pattern"):
        if odd := [key for key in config.get(field) or {} if not _PLAIN.fullmatch(str(key))]:
            raise error(f"{field} has the pattern {odd[0]!r}, expected names of layers", "save the adapter again")
    weights = folder / WEIGHTS
    if not weights.is_file():
        pickled = next((path.name for path in sorted(folder.iterdir()) if path.suffix in PICKLES), None)
        raise ConfigError(
            f"{folder.name} holds no {WEIGHTS}" + (f"; {pickled} is a pickle, which is not loaded" if pickled else ""),
            where=where,
            remedy="save it with safe_serialization=True",
        )
    entries = read_tensors(weights, where=where).entries
    modules = _modules(folder.name, config, rank, float(alpha), entries, where)
    base = config.get("base_model_name_or_path")
    return Peft(
        folder,
        base if isinstance(base, str) and HUB_NAME.fullmatch(base) else None,
        float(alpha),
        modules,
        {name: entry.shape for name, entry in entries.items()},
    )


def check_peft(found: Peft, base: Base, *, declared: str | None = None, where: str | None = None) -> None:
    """Raise ConfigError unless `found` was made for `base`: the name where both say one (`declared`), each layer, its
    widths, and the vocabulary."""
    name = found.folder.name
    trained = "name the model it was trained on, or train it again on this one"
    if declared is not None and found.base is not None and not same(found.base, declared):
        raise ConfigError(
            f"{name}/{CONFIG}: base_model_name_or_path is {found.base!r}, the model {base.name} is {declared!r}",
            where=where,
            remedy="name the model it was trained on; if both names mean the same weights, correct `base` or remove it",
        )
    for layer, module in found.modules.items():
        wanted = base.widths(layer)
        if wanted is None:
            raise ConfigError(
                f"adapter {name} changes {layer}, which the model {base.name} does not have",
                where=where,
                remedy=trained,
            )
        widths = found.shapes[module.down][1], found.shapes[module.up][0]
        if widths != wanted:
            tensor = module.down if widths[0] != wanted[0] else module.up
            raise ConfigError(
                f"adapter {name} was made for another base: its tensor {tensor} has shape {found.shapes[tensor]}, "
                f"the model {base.name} reads {wanted[0]} and writes {wanted[1]} numbers at {layer}",
                where=where,
                remedy=trained,
            )
    known = base.vocabulary
    if known is not None and (added := _tokens(found.folder, where)) > known:
        raise ConfigError(
            f"adapter {name} brings a tokenizer of {added} tokens, the model {base.name} knows {known}",
            where=where,
            remedy="train it without added tokens, or merge it into a model of its own",
        )


def _modules(
    name: str, config: Mapping[str, Any], rank: int, alpha: float, entries: Mapping[str, Entry], where: str | None
) -> dict[str, Module]:
    """The pairs of matrices, each of the rank that the config says."""

    def error(what: str) -> ConfigError:
        return ConfigError(f"{name}/{WEIGHTS}: {what}", where=where, remedy="save the adapter again with PEFT")

    pairs: dict[str, dict[str, str]] = {}
    for tensor, entry in entries.items():
        layer, _, side = tensor.removesuffix(".weight").rpartition(".lora_")
        if not tensor.startswith(_PREFIX) or not tensor.endswith(".weight") or side not in ("A", "B"):
            raise error(f"tensor {tensor!r} is none of a LoRA: expected {_PREFIX}LAYER.lora_A.weight or .lora_B.weight")
        if len(entry.shape) != 2 or not all(entry.shape):
            raise error(f"tensor {tensor!r} has shape {entry.shape}, expected two dimensions")
        pairs.setdefault(layer.removeprefix(_PREFIX), {})[side] = tensor
    if not pairs:
        raise error("it holds no tensors: it changes nothing")
    modules = {}
    for layer, pair in sorted(pairs.items()):
        if len(pair) < 2:
            [(side, tensor)] = pair.items()
            raise error(f"{tensor} is there, its lora_{'B' if side == 'A' else 'A'} is missing")
        wanted = _pattern(config.get("rank_pattern"), layer, rank)
        ranks = entries[pair["A"]].shape[0], entries[pair["B"]].shape[1]
        if ranks != (wanted, wanted):
            raise error(f"{layer} has rank {ranks[0]} in lora_A and {ranks[1]} in lora_B, the config says {wanted}")
        own = _pattern(config.get("alpha_pattern"), layer, alpha)
        root = math.sqrt(wanted) if config.get("use_rslora") else wanted
        modules[layer] = Module(pair["A"], pair["B"], int(wanted), own / root)
    targets = config.get("target_modules")
    if isinstance(targets, list):
        for target in targets:
            if not any(layer == target or layer.endswith(f".{target}") for layer in modules):
                raise error(f"the config names {target!r} in target_modules, no tensor belongs to it")
        for layer in modules:
            if not any(layer == target or layer.endswith(f".{target}") for target in targets):
                raise error(f"{layer} has tensors, target_modules of the config does not name it")
    return modules


def _pattern(patterns: Any, layer: str, default: float) -> float:
    """What rank_pattern or alpha_pattern say of a layer."""
    if isinstance(patterns, dict):
        for key, value in patterns.items():
            if (layer == key or layer.endswith(f".{key}")) and _positive(value):
                return float(value)
    return default


def _tokens(folder: Path, where: str | None) -> int:
    """How many tokens the folder's own tokenizer knows; 0 where it brings none."""
    if not (folder / "tokenizer.json").is_file():
        added = read_json(folder / "added_tokens.json", where) if (folder / "added_tokens.json").is_file() else {}
        return max((value for value in added.values() if type(value) is int), default=-1) + 1
    tokenizer = read_json(folder / "tokenizer.json", where)
    model, added_ = tokenizer.get("model"), tokenizer.get("added_tokens")
    words = model.get("vocab") if isinstance(model, dict) else None
    numbers = [len(words) - 1] if isinstance(words, dict | list) else []
    if isinstance(added_, list):
        numbers += [each["id"] for each in added_ if isinstance(each, dict) and type(each.get("id")) is int]
    return max(numbers, default=-1) + 1


def _positive(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf


def _short(value: Any) -> str:
    return f"{value!r:.60}"
