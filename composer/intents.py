"""What a question wants: something written, a fact, reasoning, or care. Told by its nearest labelled neighbours."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from composer.config import PACKAGED
from composer.errors import InputError
from composer.jsonl import lines_of
from routers.types import Array

INTENTS = ("generative", "factual", "reasoning", "safety")
EXAMPLES = PACKAGED / "intents.jsonl"
_NEAREST = 5


@dataclass(frozen=True, slots=True)
class Intents:
    """Labelled questions (`labels`, unit `vectors` [n, dim]), written by hand; `digest` changes with them and the encoder."""

    labels: tuple[str, ...]
    vectors: Array
    digest: str

    @classmethod
    def read(cls, encode: Callable[[Sequence[str]], Array], encoder: str, path: Path = EXAMPLES) -> Intents:
        """The examples of a file; `encoder` is the sha256 of what `encode` is. Raises InputError for a row that is none."""
        labels, texts = [], []
        for number, raw in lines_of(path):
            try:
                row: Any = json.loads(raw)
                label, text = row["intent"], row["question"]
            except (ValueError, TypeError, KeyError) as why:
                raise InputError(f"this is no example of an intent ({why!r})", where=f"{path}:{number}") from why
            if label not in INTENTS or not isinstance(text, str):
                raise InputError(
                    f"`intent` is {label!r}, expected one of {', '.join(INTENTS)}", where=f"{path}:{number}"
                )
            labels.append(label)
            texts.append(text)
        told = json.dumps([labels, texts, encoder, _NEAREST])
        return cls(tuple(labels), encode(texts), hashlib.sha256(told.encode()).hexdigest())

    def of(self, vectors: Array) -> list[str]:
        """The intent of each question, unit rows [n, dim]: that of most of its five nearest neighbours, of equal ones the
        nearest."""
        close = np.asarray(vectors, dtype=np.float64) @ np.asarray(self.vectors, dtype=np.float64).T
        nearest = np.argsort(-close, axis=1, kind="stable")[:, :_NEAREST]
        return [Counter(self.labels[place] for place in own).most_common(1)[0][0] for own in nearest]
