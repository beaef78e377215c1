"""What models in ONNX form share: opening the file and its tokenizer.json, and texts in padded batches of similar length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

from routers.errors import RouterError
from routers.types import Indices


def open_model(path: Path, threads: int, *, optimised: bool) -> Any:
    """A session of onnxruntime on the processor. Raises RouterError."""
    level = onnxruntime.GraphOptimizationLevel
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = threads
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimised else level.ORT_DISABLE_ALL
    options.log_severity_level = 4  # fatal only; what is wrong reaches the user as an exception
    try:
        return onnxruntime.InferenceSession(str(present(path)), options, providers=["CPUExecutionProvider"])
    except RouterError:
        raise
    except Exception as why:  # onnxruntime's errors share no base class below Exception
        raise RouterError(
            f"{path} is not an ONNX model that onnxruntime can load: {why}\n"
            "  next: delete the file, so that it is fetched again"
        ) from why


def open_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer as its file says. Raises RouterError."""
    try:
        return Tokenizer.from_file(str(present(path)))
    except RouterError:
        raise
    except Exception as why:  # tokenizers raises a bare Exception
        raise RouterError(f"{path} is not a tokenizer.json: {why}") from why


def padded(rows: Sequence[Indices], pad: int = 0) -> Indices:
    """Rows of different lengths as one array [len(rows), longest], filled up with `pad`."""
    whole = np.full((len(rows), max(len(row) for row in rows)), pad, dtype=np.int64)
    for place, row in enumerate(rows):
        whole[place, : len(row)] = row
    return whole


def batches(lengths: Sequence[int], most: int) -> Iterator[list[int]]:
    """Rows in batches of similar length, each at most `most` tokens with its padding, or one row.

    >>> list(batches([9, 2, 3], 6))
    [[1, 2], [0]]
    """
    rows: list[int] = []
    for row in sorted(range(len(lengths)), key=lambda i: (lengths[i], i)):
        if rows and (len(rows) + 1) * lengths[row] > most:
            yield rows
            rows = []
        rows.append(row)
    if rows:
        yield rows


def plain(text: str) -> str:
    """A text that tokenizers take: JSON may hold half a surrogate pair, which becomes a question mark."""
    return text.encode(errors="replace").decode()


def present(path: Path) -> Path:
    """The path of a file. Raises RouterError where there is none."""
    if not path.is_file():
        raise RouterError(f"the model's file {path} is missing\n  next: check the path, or fetch the model again")
    return path
