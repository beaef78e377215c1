"""A GGUF file -> a folder in Hugging Face's form, run by an interpreter that has torch and transformers.

Run as a script, and it imports nothing of `composer`. Arguments: the file, an empty folder, the type of the numbers.
The last line that goes out is JSON: `{"tensors": …}` or `{"error": …, "missing": …}`.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any


def main(gguf: Path, out: Path, dtype: str) -> dict[str, Any]:
    """Convert; what came of it."""
    os.environ["HF_HUB_OFFLINE"] = "1"  # all that is needed is in the file
    try:
        import gguf as _reader  # noqa: F401, PLC0415 - transformers would complain at length
        import torch  # noqa: PLC0415 - its absence is told like every other error
        from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: PLC0415
    except ImportError as why:
        return {"error": str(why), "missing": why.name or "transformers"}
    torch.set_num_threads(1)
    try:
        source: dict[str, Any] = {"gguf_file": gguf.name}
        tokenizer = AutoTokenizer.from_pretrained(str(gguf.parent), **source)
        model = AutoModelForCausalLM.from_pretrained(str(gguf.parent), dtype=torch.float32, **source)
        model = model.to(getattr(torch, dtype))
        model.hf_quantizer = None  # the weights are plain now; saving would quantise them again
        for name in ("quantization_config", "_pre_quantization_dtype"):
            if hasattr(model.config, name):
                delattr(model.config, name)
        model.is_quantized = False
        model.save_pretrained(out)
        tokenizer.save_pretrained(out)
    except Exception as why:
        return {"error": f"{type(why).__name__}: {why}", "missing": None}
    return {"tensors": sum(1 for _ in model.parameters())}


if __name__ == "__main__":
    told = main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
    sys.stdout.write(json.dumps(told) + "\n")
    sys.exit(1 if "error" in told else 0)
