"""Does an adapter belong to its base? Compared by names, shapes and ranks, before either is loaded."""

from __future__ import annotations

import json
import re
from pathlib import Path

from composer.errors import ConfigError
from composer.registry.gguf import Header, read_header

_REPOSITORY = re.compile(r"https?://[^/]+/([^/?#]+/[^/?#]+)")
HUB_NAME = re.compile(r"[\w.-]*\w(/[\w.-]+)?")


def check_adapter(adapter: Path, base: Header, *, name: str, where: str) -> None:
    """Raise ConfigError unless `adapter` is a LoRA whose tensors come in pairs and fit those of `base`, the model
    `name`."""
    lora = read_header(adapter, where=where)
    if lora.metadata.get("general.type") != "adapter" or lora.metadata.get("adapter.type") != "lora":
        raise ConfigError(
            f"{adapter.name} is no LoRA adapter (general.type {lora.metadata.get('general.type')!r}, "
            f"adapter.type {lora.metadata.get('adapter.type')!r})",
            where=where,
            remedy="convert the PEFT folder to a GGUF adapter",
        )
    for tensor, shape in lora.shapes.items():
        target, _, side = tensor.rpartition(".lora_")
        wanted = base.shapes.get(target)
        # GGUF lists the fastest dimension first: a weight is (in, out), lora_a (in, rank), lora_b (rank, out).
        place = {"a": 0, "b": 1}.get(side)
        fits = (
            wanted is not None
            and place is not None
            and min(len(shape), len(wanted)) > 1
            and shape[place] == wanted[place]
        )
        if not fits:
            found = " x ".join(map(str, wanted)) if wanted else "no such tensor"
            raise ConfigError(
                f"adapter {adapter.name} was made for another base: its tensor {tensor} has shape {shape}, "
                f"the model {name} has {found} for {target or tensor}",
                where=where,
                remedy="name the model it was trained on, or train it again on this one",
            )
    _check_pairs(lora, adapter.name, where)


def check_base(adapter: Path, declared: str, *, name: str, where: str) -> None:
    """Raise ConfigError if `adapter` says that it was made for another base than `declared`, the one of the model
    `name`. Many adapters say nothing."""
    stated = _stated_base(adapter)
    if stated is None or same(stated, declared):
        return
    raise ConfigError(
        f"adapter {adapter.name} was made for another base: it says {stated!r}, the model {name} is {declared!r}",
        where=where,
        remedy="name the model it was trained on; if both names mean the same weights, correct `base` or remove it",
    )


def _stated_base(adapter: Path) -> str | None:
    """The name that an adapter gives its base, in its own metadata or in PEFT's file beside it."""
    try:
        metadata = read_header(adapter).metadata
    except ConfigError:  # not every engine takes GGUF
        metadata = {}
    address, title = (metadata.get(f"general.base_model.0.{key}") for key in ("repo_url", "name"))
    if isinstance(address, str) and (found := _REPOSITORY.match(address)):
        return found[1]
    if isinstance(title, str) and title.strip():
        return title
    try:
        stated = json.loads((adapter.parent / "adapter_config.json").read_bytes())["base_model_name_or_path"]
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None
    # A path says where the weights lay when it was trained, not what they are.
    return stated if isinstance(stated, str) and HUB_NAME.fullmatch(stated) else None


def same(one: str, other: str) -> bool:
    """Whether two names may mean one model: the owner counts where both have one, letter case and separators do not.

    >>> same("SmolLM2 135M Instruct", "HuggingFaceTB/SmolLM2-135M-Instruct"), same("a/tiny", "b/tiny")
    (True, False)
    """
    parts = [re.sub(r"[-_. ]+", "-", name.strip().casefold()).split("/")[::-1] for name in (one, other)]
    return all(left == right for left, right in zip(*parts, strict=False))


def _check_pairs(lora: Header, name: str, where: str) -> None:
    """Every weight that an adapter changes needs both its matrices, of one rank."""
    targets = sorted({tensor.rpartition(".lora_")[0] for tensor in lora.shapes})
    again = "convert or fetch the adapter again"
    if not targets:
        raise ConfigError(f"adapter {name} holds no tensors: it changes nothing", where=where, remedy=again)
    for target in targets:
        down, up = (lora.shapes.get(f"{target}.lora_{side}") for side in "ab")
        if down is None or up is None:
            missing = f"{target}.lora_{'a' if down is None else 'b'}"
            raise ConfigError(f"adapter {name} is not whole: {missing} is missing", where=where, remedy=again)
        if down[1] != up[0]:
            raise ConfigError(
                f"adapter {name} is not whole: {target} has rank {down[1]} on one side and {up[0]} on the other",
                where=where,
                remedy=again,
            )
