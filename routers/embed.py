"""Text to unit vectors with a small encoder, through onnxruntime: no torch, no model hub, one thread."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

from routers.errors import RouterError
from routers.types import Array, Indices

MAX_TOKENS = 256
_AT_ONCE = 4  # texts before the model is worth opening with all its optimisations
_BATCH_TOKENS = 512  # what stays in the caches of one core; from 16 texts a run on, more are no faster


class Encoder(Protocol):
    """Turns texts into vectors whose dot product is their cosine."""

    @property
    def dim(self) -> int:
        """The width of a vector."""
        ...

    @property
    def fingerprint(self) -> str:
        """Equal for two encoders only if they give equal vectors."""
        ...

    def encode(self, texts: Sequence[str]) -> Array:
        """float32 [len(texts), dim] with unit rows. Pure: a text has one vector, whatever its neighbours are."""
        ...


class OnnxEncoder:
    """A sentence encoder in ONNX form with its tokenizer.json: mean pooling over the tokens, cut at 256 tokens.

    Texts of one call are batched by length, equal ones encoded once. A vector does not depend on its batch: the int8
    all-MiniLM-L6-v2 stores its weights as int8 but computes in float32, and over 400 questions, alone, padded in
    batches of 4 to 64 and grouped by length, every vector was bitwise the same. (A model whose *activations* are
    quantised over the whole batch would break this; the tests of this module would show it.)

    The first texts, up to four, go through the model as it is in the file: optimising it takes 200 CPU ms, a text
    without that 25 instead of 6. Their vectors differ from the others by rounding (at most 1e-6 in any coordinate).

    Nothing is read before the first use. Raises RouterError when a file is missing or is not what it should be.
    """

    def __init__(self, model: Path, tokenizer: Path, threads: int = 1, *, name: str = "all-MiniLM-L6-v2") -> None:
        self.model, self.tokenizer, self.threads, self.name = model, tokenizer, threads, name
        self._seen = 0  # texts so far

    @property
    def dim(self) -> int:
        """The width of a vector; loads the model."""
        return int(self._session().get_outputs()[0].shape[-1])

    @cached_property
    def fingerprint(self) -> str:
        """The sha256 (hex) over both files and how they are used; computed once."""
        whole = hashlib.sha256(f"mean-{MAX_TOKENS}".encode())
        for path in (self.model, self.tokenizer):
            with _present(path).open("rb") as file:
                whole.update(hashlib.file_digest(file, "sha256").digest())
        return whole.hexdigest()

    def encode(self, texts: Sequence[str]) -> Array:
        """float32 [len(texts), dim] with unit rows."""
        place = {text: row for row, text in enumerate(dict.fromkeys(texts))}
        self._seen += len(place)
        # JSON may hold half a surrogate pair, which no tokenizer takes: it becomes a question mark
        clean = [text.encode(errors="replace").decode() for text in place]
        tokens = [np.array(encoding.ids, dtype=np.int64) for encoding in self._tokens.encode_batch(clean)]
        vectors = np.zeros((len(place), self.dim), dtype=np.float32)
        for rows in _batches(tokens):
            vectors[rows] = self._run([tokens[row] for row in rows])
        order: Indices = np.array([place[text] for text in texts], dtype=np.int64)
        return vectors[order]

    def _run(self, tokens: Sequence[Indices]) -> Array:
        """One pass over texts given as token ids, shorter ones padded and masked."""
        ids = np.zeros((len(tokens), max(len(row) for row in tokens)), dtype=np.int64)
        mask = np.zeros_like(ids)
        for row, own in enumerate(tokens):
            ids[row, : len(own)] = own
            mask[row, : len(own)] = 1
        feed = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        session = self._session()
        hidden = session.run(None, {one.name: feed[one.name] for one in session.get_inputs()})[0]
        pooled = (hidden * mask[:, :, None]).sum(axis=1)  # unit length next, so the sum serves as the mean
        unit: Array = (pooled / np.linalg.norm(pooled, axis=1, keepdims=True)).astype(np.float32)
        return unit

    def _session(self) -> Any:
        """The model, optimised once enough texts have come to pay for that."""
        return self._as_written if self._seen <= _AT_ONCE else self._optimised

    @cached_property
    def _as_written(self) -> Any:
        return self._open(onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL)

    @cached_property
    def _optimised(self) -> Any:
        self.__dict__.pop("_as_written", None)
        return self._open(onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL)

    def _open(self, level: Any) -> Any:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = self.threads
        options.graph_optimization_level = level
        options.log_severity_level = 4  # fatal only; what is wrong reaches the user as an exception
        path = _present(self.model)
        try:
            return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as why:  # onnxruntime's errors share no base class below Exception
            raise RouterError(
                f"{path} is not an ONNX model that onnxruntime can load: {why}\n"
                "  next: delete the file, so that it is fetched again"
            ) from why

    @cached_property
    def _tokens(self) -> Tokenizer:
        path = _present(self.tokenizer)
        try:
            tokens = Tokenizer.from_file(str(path))
        except Exception as why:  # tokenizers raises a bare Exception
            raise RouterError(f"{path} is not a tokenizer.json: {why}") from why
        tokens.no_padding()  # the file that comes with MiniLM pads all texts to 128 tokens, at five times the cost
        tokens.enable_truncation(MAX_TOKENS)
        return tokens


def _batches(tokens: Sequence[Indices]) -> Iterator[list[int]]:
    """Rows in batches of similar length, each at most `_BATCH_TOKENS` tokens with its padding."""
    rows: list[int] = []
    for row in sorted(range(len(tokens)), key=lambda i: (len(tokens[i]), i)):
        if rows and (len(rows) + 1) * len(tokens[row]) > _BATCH_TOKENS:
            yield rows
            rows = []
        rows.append(row)
    if rows:
        yield rows


def _present(path: Path) -> Path:
    if not path.is_file():
        raise RouterError(f"the encoder's file {path} is missing\n  next: check the path, or fetch the model again")
    return path
