"""Small PEFT folders and their base, for the tests of adapters."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from safetensors.numpy import save_file

from composer.registry.bases import GgufBase
from composer.registry.gguf import Header

BASE = "owner/small"
WIDE, INNER, HEADS, RANK = 128, 96, 2, 4
LAYERS = {"self_attn.q_proj": (WIDE, WIDE), "self_attn.k_proj": (WIDE, WIDE), "mlp.down_proj": (INNER, WIDE)}
NAMES = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "mlp.down_proj": "ffn_down"}


def base(layers: int = 2, **metadata: Any) -> GgufBase:
    """What reading the GGUF file of a small Llama gives."""
    shapes = {f"blk.{i}.{NAMES[name]}.weight": LAYERS[name] for i in range(layers) for name in LAYERS}
    told = {"general.architecture": "llama", "llama.block_count": layers, "llama.attention.head_count": HEADS}
    return GgufBase("small", Header({**told, **metadata}, {**shapes, "token_embd.weight": (WIDE, 64)}))


def tensors(seed: int = 0, *, layers: int = 2, rank: int = RANK) -> dict[str, np.ndarray]:
    """The matrices of an adapter on all layers, in float16."""
    rng = np.random.default_rng(seed)
    found = {}
    for i in range(layers):
        for name, (reads, writes) in LAYERS.items():
            stem = f"base_model.model.model.layers.{i}.{name}.lora"
            found[f"{stem}_A.weight"] = rng.normal(size=(rank, reads)).astype("f2")
            found[f"{stem}_B.weight"] = rng.normal(size=(writes, rank)).astype("f2")
    return found


def peft(folder: Path, held: dict[str, np.ndarray] | None = None, **changes: Any) -> Path:
    """A PEFT folder; `changes` are to its config."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors() if held is None else held, str(folder / "adapter_model.safetensors"))
    config = {
        "base_model_name_or_path": BASE,
        "bias": "none",
        "lora_alpha": 8,
        "peft_type": "LORA",
        "r": RANK,
        "target_modules": ["q_proj", "k_proj", "down_proj"],
    }
    (folder / "adapter_config.json").write_text(json.dumps({**config, **changes}))
    return folder


def read_gguf(path: Path) -> tuple[dict[str, np.ndarray], float]:
    """The tensors and the alpha of a GGUF adapter, as the library reads them."""
    reader = gguf.GGUFReader(str(path))
    alpha = reader.fields["adapter.lora.alpha"]
    held = {tensor.name: np.array(tensor.data, dtype=np.float32) for tensor in reader.tensors}
    return held, float(alpha.parts[alpha.data[0]][0])
