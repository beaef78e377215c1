"""Adapters of random numbers for the packaged model."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np

from composer.types import AdapterFile

WIDTH, INNER = 576, 1536


def random_adapter(path: Path, seed: int) -> AdapterFile:
    """A LoRA adapter of rank 4 on one attention and one feed-forward weight of every layer, strong enough to be seen."""
    numbers = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_string("general.type", "adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", 4.0)
    for layer in range(30):
        for module, inputs in (("attn_q", WIDTH), ("ffn_down", INNER)):
            down = numbers.normal(0, inputs**-0.5, (4, inputs)).astype(np.float32)
            up = numbers.normal(0, 0.5, (WIDTH, 4)).astype(np.float32)
            writer.add_tensor(f"blk.{layer}.{module}.weight.lora_a", down)
            writer.add_tensor(f"blk.{layer}.{module}.weight.lora_b", up)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return AdapterFile(path.stem, path, "")
