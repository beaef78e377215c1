"""A PEFT adapter of a Llama model as the GGUF that llama.cpp loads beside its base."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

_TENSOR = re.compile(r"layers\.(\d+)\.(?:self_attn|mlp)\.(\w+)\.lora_([AB])\.weight$")
_NAMES = {
    "q_proj": "attn_q",
    "k_proj": "attn_k",
    "v_proj": "attn_v",
    "o_proj": "attn_output",
    "gate_proj": "ffn_gate",
    "up_proj": "ffn_up",
    "down_proj": "ffn_down",
}
_HEAD = 64  # the width of one attention head of SmolLM2-135M


def to_gguf(folder: Path, out: Path, *, head: int = _HEAD) -> Path:
    """Write the adapter of a PEFT folder as a GGUF file in float16; return its path.

    The rows of q and k are reordered: llama.cpp turns neighbouring pairs of a head where
    transformers turns its two halves.
    """
    import gguf
    from safetensors.numpy import load_file

    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    writer = gguf.GGUFWriter(str(out), "llama")
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_name(folder.name)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    base = config["base_model_name_or_path"]
    writer.add_base_model_count(1)
    writer.add_base_model_name(0, base.rpartition("/")[2])
    writer.add_base_model_repo_url(0, f"https://huggingface.co/{base}")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, float(config["lora_alpha"]))
    for name, value in sorted(load_file(str(folder / "adapter_model.safetensors")).items()):
        found = _TENSOR.search(name)
        if not found:
            raise ValueError(f"{folder}: no place in a Llama adapter for the tensor {name!r}")
        layer, part, side = found.groups()
        if side == "B" and part in ("q_proj", "k_proj"):
            value = interleave(value, value.shape[0] // head)
        writer.add_tensor(f"blk.{layer}.{_NAMES[part]}.weight.lora_{side.lower()}", value.astype("float16"))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return out


def interleave(rows: Any, heads: int) -> Any:
    """Per head, row i of the first half, then row i of the second, for every i.

    >>> import numpy as np
    >>> interleave(np.arange(8).reshape(8, 1), heads=2).ravel().tolist()
    [0, 2, 1, 3, 4, 6, 5, 7]
    """
    width = rows.shape[0] // heads
    parted = rows.reshape(heads, 2, width // 2, *rows.shape[1:])
    return parted.swapaxes(1, 2).reshape(rows.shape)
