"""LoRA adapters as arrays: read from either form, combined, and written in either form."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from composer.errors import ConfigError
from composer.registry.bases import AS_THEY_ARE, TURNED, GgufBase
from composer.registry.gguf import BF16, F16, F32, Header, read_header
from composer.registry.peft import CONFIG, WEIGHTS, Peft, read_peft
from composer.registry.safetensors import load_arrays, save_arrays
from composer.settings.adapter import Form
from routers.types import Array


@dataclass(frozen=True, slots=True)
class Pair:
    """What an adapter adds to a layer: `scale * up @ down`; `down` is [rank, in], `up` [out, rank]."""

    down: Array
    up: Array
    scale: float = 1.0

    @property
    def rank(self) -> int:
        """How many directions it has."""
        return len(self.down)

    def change(self) -> Array:
        """The whole matrix, [out, in]."""
        return np.asarray(self.up @ self.down * self.scale, dtype=np.float32)


@dataclass(frozen=True, slots=True)
class Lora:
    """An adapter: its layers by name, as transformers calls them or (`gguf`) as llama.cpp does, and its base's name."""

    layers: Mapping[str, Pair]
    gguf: bool
    base: str | None = None


def load_lora(path: Path, *, where: str | None = None) -> Lora:
    """The adapter at `path`, a PEFT folder or a GGUF file. Raises ConfigError."""
    return from_peft(read_peft(path, where=where)) if path.is_dir() else _from_gguf(path, where)


def from_peft(found: Peft) -> Lora:
    """The numbers of a folder that was read."""
    arrays = load_arrays(found.folder / WEIGHTS)
    layers = {name: Pair(arrays[one.down], arrays[one.up], one.scale) for name, one in found.modules.items()}
    return Lora(layers, gguf=False, base=found.base)


def combine(loras: Sequence[Lora], weights: Sequence[float], form: Form = "sum", rank: int | None = None) -> Lora:
    """One adapter of several with these weights; those of weight 0 leave no trace. With `rank`, each layer is the
    nearest one of at most this rank. Raises ConfigError where they do not fit each other.

    As a `sum`, ranks add up; as `cross`, every adapter must have the same ranks and layers (`Form` says what they are).
    """
    taken = [(lora, float(weight)) for lora, weight in zip(loras, weights, strict=True) if weight]
    if not taken or not all(math.isfinite(weight) for _, weight in taken):
        raise ConfigError(
            f"the weights {list(weights)} leave nothing", remedy="give at least one a weight other than 0"
        )
    if len({lora.gguf for lora, _ in taken}) > 1:
        raise ConfigError("PEFT folders and GGUF adapters do not mix", remedy="convert all of them to GGUF first")
    layers = {}
    for name in sorted({name for lora, _ in taken for name in lora.layers}):
        pairs = [(lora.layers[name], weight) for lora, weight in taken if name in lora.layers]
        if len({(pair.down.shape[1], pair.up.shape[0]) for pair, _ in pairs}) > 1:
            raise ConfigError(f"the adapters have other widths at {name}", remedy="combine adapters of one base")
        if form == "sum":
            made = _sum(pairs)
        else:
            if len(pairs) < len(taken) or len({pair.rank for pair, _ in pairs}) > 1:
                raise ConfigError(
                    f"the adapters have other ranks at {name}, or not all change it: their matrices cannot be added",
                    remedy="combine them as `sum`",
                )
            made = _cross(pairs)
        layers[name] = made if rank is None else truncate(made, rank)
    bases = {lora.base for lora, _ in taken if lora.base is not None}
    return Lora(layers, taken[0][0].gguf, bases.pop() if len(bases) == 1 else None)


def _sum(pairs: Sequence[tuple[Pair, float]]) -> Pair:
    """Side by side, each with its own factor: the products are added and nothing else."""
    if len(pairs) == 1:
        [(pair, weight)] = pairs
        return replace(pair, scale=pair.scale * weight)
    down = np.concatenate([pair.down for pair, _ in pairs])
    up = np.concatenate([pair.up * np.float32(pair.scale * weight) for pair, weight in pairs], axis=1)
    return Pair(down, up)


def _cross(pairs: Sequence[tuple[Pair, float]]) -> Pair:
    down = sum(np.float32(weight) * pair.down for pair, weight in pairs)
    up = sum(np.float32(weight * pair.scale) * pair.up for pair, weight in pairs)
    return Pair(np.asarray(down), np.asarray(up))


def truncate(pair: Pair, rank: int) -> Pair:
    """The nearest pair of at most this rank (by SVD, in the small space that both matrices span)."""
    if pair.rank <= rank:
        return pair
    outer, right = np.linalg.qr(pair.up.astype(np.float64))
    inner, left = np.linalg.qr(pair.down.T.astype(np.float64))
    u, s, vt = np.linalg.svd(right @ left.T * pair.scale)
    root = np.sqrt(s[:rank])
    down, up = (root[:, None] * vt[:rank]) @ inner.T, outer @ (u[:, :rank] * root)
    return Pair(down.astype(np.float32), up.astype(np.float32))


def lost(whole: Lora, part: Lora) -> float:
    """The share of `whole` that `part` has not, by the size of what they change (Frobenius norm).

    Computed from the small matrices: the large ones are never made.
    """
    missing = combine([whole, part], [1.0, -1.0])
    return _size(missing) / max(_size(whole), 1e-30)


def similarity(one: Lora, other: Lora) -> float:
    """The cosine of what two adapters change, over all layers (METHODS H: of the products, not of the matrices)."""
    inner = sum(_inner(pair, other.layers[name]) for name, pair in one.layers.items() if name in other.layers)
    return inner / max(_size(one) * _size(other), 1e-30)


def _size(lora: Lora) -> float:
    return math.sqrt(max(sum(_inner(pair, pair) for pair in lora.layers.values()), 0.0))


def _inner(one: Pair, other: Pair) -> float:
    """The inner product of two changes: the trace of their product, in ranks instead of widths."""
    ups = one.up.T.astype(np.float64) @ other.up
    downs = one.down.astype(np.float64) @ other.down.T
    return float(np.sum(ups * downs)) * one.scale * other.scale


# Writing


def save_peft(lora: Lora, folder: Path, *, half: bool = False) -> None:
    """Write a PEFT folder that means this adapter: alpha equals the rank, and the factors are in the numbers. In float16
    where `half`, else float32. Raises OSError."""
    assert not lora.gguf, "llama.cpp's names are not PEFT's"
    folder.mkdir(parents=True, exist_ok=True)
    ranks = {name: pair.rank for name, pair in lora.layers.items()}
    most = max(ranks.values())
    own = {name: rank for name, rank in ranks.items() if rank != most}
    config = {
        "base_model_name_or_path": lora.base,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "lora_alpha": most,
        "alpha_pattern": own,
        "lora_dropout": 0.0,
        "peft_type": "LORA",
        "r": most,
        "rank_pattern": own,
        "target_modules": sorted({name.rpartition(".")[2] for name in lora.layers}),
        "task_type": "CAUSAL_LM",
    }
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    kind = np.float16 if half else np.float32
    arrays = {}
    for name, pair in lora.layers.items():
        arrays[f"base_model.model.{name}.lora_A.weight"] = pair.down.astype(kind)
        arrays[f"base_model.model.{name}.lora_B.weight"] = (pair.up * np.float32(pair.scale)).astype(kind)
    save_arrays(folder / WEIGHTS, arrays)


def to_gguf(lora: Lora, base: GgufBase, *, where: str | None = None) -> Lora:
    """The adapter under llama.cpp's names, with the rows of q and k in its order. Raises ConfigError, naming the layer,
    where it has no place in `base`."""
    if lora.gguf:
        return lora
    if base.family not in (*TURNED, *AS_THEY_ARE):
        raise ConfigError(
            f"the family {base.family!r} of {base.name} may keep its layers in an order of its own",
            where=where,
            remedy="convert the adapter with llama.cpp's convert_lora_to_gguf.py",
        )
    layers = {}
    for name, pair in lora.layers.items():
        tensor = base.tensor(name)
        if tensor is None or base.widths(name) is None:
            raise ConfigError(
                f"the adapter changes {name}, which the model {base.name} does not have",
                where=where,
                remedy="name the model it was trained on",
            )
        if base.family in TURNED and tensor.endswith(("attn_q", "attn_k")):
            heads = base.heads(tensor)
            if not heads or len(pair.up) % (2 * heads):
                raise ConfigError(
                    f"{base.name} says {heads} heads, {name} writes {len(pair.up)} numbers",
                    where=where,
                    remedy="name the model it was trained on",
                )
            pair = replace(pair, up=turned(pair.up, heads))
        layers[f"{tensor}.weight"] = pair
    return replace(lora, layers=layers, gguf=True)


def turned(rows: Array, heads: int) -> Array:
    """Per head, row i of the first half, then row i of the second: llama.cpp turns neighbours of a head where
    transformers turns its halves.

    >>> turned(np.arange(8).reshape(8, 1), heads=2).ravel().tolist()
    [0, 2, 1, 3, 4, 6, 5, 7]
    """
    width = len(rows) // heads
    return rows.reshape(heads, 2, width // 2, -1).swapaxes(1, 2).reshape(rows.shape)


def save_gguf(lora: Lora, path: Path, family: str, *, half: bool = True) -> None:
    """Write an adapter with llama.cpp's names as the file it loads. Raises OSError.

    llama.cpp divides one alpha by each layer's rank; layers of another factor have the rest in their numbers.
    """
    import gguf  # noqa: PLC0415 a tenth of a second, and most runs write none

    assert lora.gguf
    first = next(iter(lora.layers.values()))
    alpha = first.scale * first.rank
    kind = np.float16 if half else np.float32
    writer = gguf.GGUFWriter(path, family)
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16 if half else gguf.LlamaFileType.ALL_F32)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    if lora.base is not None:
        writer.add_base_model_count(1)
        writer.add_base_model_name(0, lora.base.rpartition("/")[2])
        if "/" in lora.base:
            writer.add_base_model_repo_url(0, f"https://huggingface.co/{lora.base}")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, alpha)
    for name, pair in sorted(lora.layers.items()):
        rest = pair.scale * pair.rank / alpha
        up = pair.up if math.isclose(rest, 1.0, rel_tol=1e-12) else pair.up * np.float32(rest)
        writer.add_tensor(f"{name}.lora_a", pair.down.astype(kind))
        writer.add_tensor(f"{name}.lora_b", up.astype(kind))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _from_gguf(path: Path, where: str | None) -> Lora:
    header = read_header(path, where=where)
    alpha = header.metadata.get("adapter.lora.alpha")
    layers = {}
    with path.open("rb") as file:
        for name in header.shapes:
            layer, _, side = name.rpartition(".lora_")
            if side != "a" or f"{layer}.lora_b" not in header.shapes:
                continue
            down, up = (_numbers(file.fileno(), header, f"{layer}.lora_{each}", where) for each in "ab")
            scale = float(alpha) / len(down) if isinstance(alpha, int | float) and alpha else 1.0
            layers[layer] = Pair(down, up, scale)
    if not layers:
        raise ConfigError(f"{path.name} holds no LoRA", where=where, remedy="convert the PEFT folder again")
    url = header.metadata.get("general.base_model.0.repo_url")
    base = "/".join(url.split("/")[3:5]) if isinstance(url, str) else None
    return Lora(layers, gguf=True, base=base or None)


def _numbers(file: int, header: Header, name: str, where: str | None) -> Array:
    place, kinds = header.places[name], {F32: "<f4", F16: "<f2", BF16: "<u2"}
    if place.type not in kinds:
        raise ConfigError(
            f"tensor {name!r} is quantised (type {place.type})", where=where, remedy="convert it with --outtype f16"
        )
    raw = np.frombuffer(os.pread(file, place.size, place.begin), dtype=kinds[place.type])
    if place.type == BF16:
        raw = (raw.astype(np.uint32) << 16).view(np.float32)
    return raw.astype(np.float32).reshape(header.shapes[name][::-1])
