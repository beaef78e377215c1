"""From scores to a token, in the order of vLLM: penalty, temperature, min_p, top_k, top_p; numpy alone."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import TYPE_CHECKING

import numpy as np

from composer.decoding.combine import log_softmax, plausible
from composer.types import Sampling

if TYPE_CHECKING:  # a process of another interpreter has no `routers`
    from routers.types import Array


class Draws:
    """Draws the tokens of one sample. The same seed and scores give the same tokens, whatever is drawn beside them."""

    def __init__(self, sampling: Sampling) -> None:
        self._sampling = sampling
        self._rng = np.random.default_rng(sampling.seed)

    def next(self, scores: Array, said: Collection[int] = ()) -> int:
        """A token for these scores [tokens] (-inf: never); `said` are the ids that the penalty counts as repeated. Of equal
        scores greedy takes the first. Raises ValueError where no token is possible."""
        sampling = self._sampling
        logits = np.array(scores, dtype=np.float64)
        if not (logits > -math.inf).any():
            raise ValueError("no token is possible")
        if sampling.repetition_penalty != 1 and said:
            places = np.fromiter(said, dtype=np.int64)
            own = logits[places]
            logits[places] = np.where(own > 0, own / sampling.repetition_penalty, own * sampling.repetition_penalty)
        if sampling.temperature == 0:
            return int(logits.argmax())
        logits /= sampling.temperature
        if sampling.min_p > 0:
            logits[~plausible(logits, sampling.min_p)] = -math.inf
        if 0 < sampling.top_k < len(logits):
            logits[logits < np.partition(logits, -sampling.top_k)[-sampling.top_k]] = -math.inf
        if sampling.top_p < 1:
            logits[~plausible(logits, 0.0, sampling.top_p)] = -math.inf
        # One number per token, so that a draw depends on nothing but what can be said here.
        upto = np.cumsum(np.exp(log_softmax(logits)))
        return int(np.searchsorted(upto, self._rng.random() * upto[-1], side="right"))
