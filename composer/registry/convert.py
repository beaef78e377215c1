"""A PEFT folder as the GGUF adapter that llama.cpp loads: checked, converted, and written as a whole."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from composer.errors import InputError
from composer.registry.bases import GgufBase
from composer.registry.lora import Lora, from_peft, save_gguf, to_gguf
from composer.registry.peft import check_peft, read_peft

_MOST_HALF = 65504  # the largest float16


def convert_peft(
    folder: Path, base: GgufBase, out: Path, *, declared: str | None = None, where: str | None = None
) -> None:
    """Write the adapter in `folder` to `out`, for the model `base` that calls itself `declared`. Raises ConfigError where
    they do not fit each other, InputError where `out` cannot be written."""
    found = read_peft(folder, where=where)
    check_peft(found, base, declared=declared, where=where)
    write_gguf(to_gguf(from_peft(found), base, where=where), out, base.family)


def write_gguf(lora: Lora, out: Path, family: str, *, exact: bool = False) -> None:
    """`out` appears when it is whole: in float16, or in float32 if `exact`, or where a number needs it."""
    large = max(float(np.abs(side).max()) for pair in lora.layers.values() for side in (pair.down, pair.up))
    draft = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        save_gguf(lora, draft, family, half=not exact and large < _MOST_HALF)
        draft.replace(out)
    except OSError as why:
        raise InputError(
            f"no adapter can be written here: {why.strerror or why}", where=str(out), remedy="check folder and space"
        ) from why
    finally:
        draft.unlink(missing_ok=True)
