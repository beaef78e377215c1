"""A cross-encoder: reads question and passage together and says how far the one answers the other."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
from tokenizers import Tokenizer

from composer.errors import PassageError
from routers.errors import RouterError
from routers.onnx import batches, open_model, open_tokenizer, padded, plain
from routers.types import Array, Indices

MAX_TOKENS = 512  # of question and passage together; BERT and its kind know no more places
_BATCH_TOKENS = 512  # what stays in the caches of one core
_PADS = ("[PAD]", "<pad>")


class Reranker(Protocol):
    """Says how far passages answer a question."""

    def score(self, question: str, texts: Sequence[str]) -> Array:
        """One number per text [len(texts)], larger for what answers better."""
        ...


class CrossEncoder:
    """A model for the classification of pairs in ONNX form, with its tokenizer.json.

    Of one logit per pair, that logit is the score (ms-marco-MiniLM, bge-reranker, mxbai-rerank of the first version); of
    two, by how much the second, which stands for "relevant", is above the first: the log of their odds. A pair of more
    than 512 tokens, or of more than the tokenizer's file allows, loses them at the end of its longer text.

    Scores of one question are computed together and with no other's, so that they do not depend on what else is asked.
    """

    def __init__(self, model: Path, tokenizer: Path, threads: int = 1) -> None:
        self.model, self.tokenizer, self.threads = model, tokenizer, threads

    @classmethod
    def open(cls, model: Path, tokenizer: Path, threads: int = 1) -> Self:
        """Open both files and score a pair, so that what cannot be used is told at once. Raises PassageError."""
        made = cls(model, tokenizer, threads)
        try:
            made.score("question", ["text"])
        except RouterError as why:
            raise made._error(str(why)) from why
        return made

    def score(self, question: str, texts: Sequence[str]) -> Array:
        """float32 [len(texts)]. Raises PassageError where the model is none for pairs, or fails."""
        asked = plain(question)
        pairs = self._tokens.encode_batch([(asked, plain(text)) for text in texts])
        scores = np.zeros(len(texts), dtype=np.float32)
        for rows in batches([len(pair.ids) for pair in pairs], _BATCH_TOKENS):
            scores[rows] = self._run([pairs[row] for row in rows])
        return scores

    def _run(self, pairs: Sequence[Any]) -> Array:
        """One pass over encoded pairs, shorter ones padded and masked."""
        columns: dict[str, tuple[list[Indices], int]] = {
            "input_ids": ([np.array(pair.ids, dtype=np.int64) for pair in pairs], self._pad),
            "attention_mask": ([np.array(pair.attention_mask, dtype=np.int64) for pair in pairs], 0),
            "token_type_ids": ([np.array(pair.type_ids, dtype=np.int64) for pair in pairs], 0),
        }
        feed = {}
        for one in self._session.get_inputs():
            if one.name not in columns:
                raise self._error(f"it asks for {one.name!r}, which no tokenizer gives")
            rows, pad = columns[one.name]
            feed[one.name] = padded(rows, pad).astype(np.int32 if "int32" in one.type else np.int64)
        names = [one.name for one in self._session.get_outputs()]
        try:
            found = self._session.run(["logits" if "logits" in names else names[0]], feed)[0]
        except Exception as why:  # onnxruntime's errors share no base class below Exception
            raise self._error(f"it cannot be run: {why}") from why
        logits = np.asarray(found, dtype=np.float32)
        if logits.ndim == 2 and logits.shape[1] == 2:
            logits = logits[:, 1] - logits[:, 0]
        if logits.size != len(pairs) or not np.isfinite(logits).all():
            shape = " x ".join(map(str, np.shape(found)))
            raise self._error(f"it gives {shape} numbers for {len(pairs)} pairs, expected one or two finite ones each")
        return logits.reshape(len(pairs))

    def _error(self, what: str) -> PassageError:
        remedy = "declare a cross-encoder under `reranker:`, or remove `rerank`"
        return PassageError(f"the reranker cannot be used: {what}", where=str(self.model), remedy=remedy)

    @cached_property
    def _session(self) -> Any:
        return open_model(self.model, self.threads, optimised=True)

    @cached_property
    def _tokens(self) -> Tokenizer:
        tokens = open_tokenizer(self.tokenizer)
        own = tokens.truncation
        tokens.no_padding()
        tokens.enable_truncation(min(MAX_TOKENS, own["max_length"]) if own else MAX_TOKENS, strategy="longest_first")
        return tokens

    @cached_property
    def _pad(self) -> int:
        known = (self._tokens.token_to_id(name) for name in _PADS)
        return next((pad for pad in known if pad is not None), 0)
