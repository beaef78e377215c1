"""Text to unit vectors with a small encoder, through onnxruntime: no torch, no model hub, one thread."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from tokenizers import Tokenizer

from routers.onnx import batches, open_model, open_tokenizer, padded, plain, present
from routers.types import Array, Indices

MAX_TOKENS = 256
REMEMBERED = 24 * 2**20
"""Bytes of vectors that `Remembering` holds: of 384 coordinates 16,384, the questions of two windows of a file's run."""
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
            with present(path).open("rb") as file:
                whole.update(hashlib.file_digest(file, "sha256").digest())
        return whole.hexdigest()

    def encode(self, texts: Sequence[str]) -> Array:
        """float32 [len(texts), dim] with unit rows."""
        place = {text: row for row, text in enumerate(dict.fromkeys(texts))}
        self._seen += len(place)
        encodings = self._tokens.encode_batch([plain(text) for text in place])
        tokens = [np.array(encoding.ids, dtype=np.int64) for encoding in encodings]
        vectors = np.zeros((len(place), self.dim), dtype=np.float32)
        for rows in batches([len(row) for row in tokens], _BATCH_TOKENS):
            vectors[rows] = self._run([tokens[row] for row in rows])
        order: Indices = np.array([place[text] for text in texts], dtype=np.int64)
        return vectors[order]

    def _run(self, tokens: Sequence[Indices]) -> Array:
        """One pass over texts given as token ids, shorter ones padded and masked."""
        ids, mask = padded(tokens), padded([np.ones_like(row) for row in tokens])
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
        return open_model(self.model, self.threads, optimised=False)

    @cached_property
    def _optimised(self) -> Any:
        self.__dict__.pop("_as_written", None)
        return open_model(self.model, self.threads, optimised=True)

    @cached_property
    def _tokens(self) -> Tokenizer:
        tokens = open_tokenizer(self.tokenizer)
        tokens.no_padding()  # the file that comes with MiniLM pads all texts to 128 tokens, at five times the cost
        tokens.enable_truncation(MAX_TOKENS)
        return tokens


class Remembering:
    """An encoder that still knows the vectors of the texts it saw last, as many as fit into `most` bytes: what is scored
    and then looked up is encoded once. Thread-safe where the encoder is; of a text that two threads ask for at the same
    time, each may encode it."""

    def __init__(self, encoder: Encoder, most: int = REMEMBERED) -> None:
        self._encoder, self._most = encoder, most
        self._lock = threading.Lock()
        self._vectors: Array | None = None  # a full one is written anew from its start
        self._place: dict[bytes, int] = {}  # of a text's hash: long texts are not held
        self._keys: list[bytes] = []  # by place
        self._next = 0

    @property
    def dim(self) -> int:
        """The width of a vector."""
        return self._encoder.dim

    @property
    def fingerprint(self) -> str:
        """That of the encoder."""
        return self._encoder.fingerprint

    def encode(self, texts: Sequence[str]) -> Array:
        """float32 [len(texts), dim]: as the encoder gave them."""
        if not texts:
            return self._encoder.encode(texts)
        rows = {text: row for row, text in enumerate(dict.fromkeys(texts))}
        keys = [_key(text) for text in rows]
        found, new = self._known(keys)
        if new:
            distinct = list(rows)
            vectors = self._encoder.encode([distinct[row] for row in new])
            if found is None:
                found = vectors
            else:
                found[new] = vectors
            self._keep([keys[row] for row in new], vectors)
        assert found is not None
        order: Indices = np.array([rows[text] for text in texts], dtype=np.int64)
        return found[order]

    def _known(self, keys: Sequence[bytes]) -> tuple[Array | None, list[int]]:
        """The vectors [len(keys), dim] with those that are known, and the rows of the others; None where none is."""
        with self._lock:
            places = [self._place.get(key, -1) for key in keys]
            new = [row for row, place in enumerate(places) if place < 0]
            if self._vectors is None or len(new) == len(keys):
                return None, new
            return self._vectors[places], new

    def _keep(self, keys: Sequence[bytes], vectors: Array) -> None:
        with self._lock:
            if self._vectors is None:  # the pages of what is never written take no memory
                width = vectors.shape[1]
                self._vectors = np.empty((max(1, self._most // (4 * width)), width), dtype=np.float32)
            size = len(self._vectors)
            for key, vector in zip(keys[-size:], vectors[-size:], strict=True):
                if key in self._place:
                    continue  # another thread was first
                if len(self._keys) < size:
                    self._keys.append(key)
                else:
                    del self._place[self._keys[self._next]]
                    self._keys[self._next] = key
                self._place[key] = self._next
                self._vectors[self._next] = vector
                self._next = (self._next + 1) % size


def _key(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
