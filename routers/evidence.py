"""What answers amount to: votes, weights, and the probability of each being right if arms err independently."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from routers.perarm import Table
from routers.types import Array, Indices

FREE = 10  # answers that a wrong arm may spread over where there are no options to choose from
_EDGE = 0.02


@dataclass(frozen=True, slots=True)
class Evidence:
    """Of n questions with up to T drafts each ([n, T], in plan order): for the answer in each slot, how many drafts give
    it (`votes`), the sum of their log-odds weights (`weight`), and its probability of being right (`probable`); all 0
    where a slot holds no answer. `first` marks the first slot of each distinct answer."""

    first: NDArray[np.bool_]
    votes: Indices
    weight: Table
    probable: Table

    @property
    def top(self) -> Indices:
        """The slot of the most probable answer, [n]; -1 where there is none."""
        return best_slot(self.probable, self.first)


def best_slot(worth: Table, first: NDArray[np.bool_]) -> Indices:
    """The slot of each row with the most `worth` among those marked in `first`, ties to the one planned first; -1: none."""
    if not worth.shape[1]:
        return np.full(len(worth), -1)
    masked = np.where(first, worth, -np.inf)
    # sums of the same numbers in another order differ by rounding: what is that close is a tie
    close = first & (masked >= masked.max(axis=1, keepdims=True) - 1e-9)
    return np.where(first.any(axis=1), close.argmax(axis=1), -1)


def vote_weights(probable: Table | Array, options: Indices) -> Table:
    """How much an arm's answer counts, [n, T]: log(P (m - 1) / (1 - P)) for m options, the log-likelihood ratio of its
    answer being right against each wrong one where wrong answers spread evenly (weighted majority, Nitzan and Paroush
    1982, for more than two answers). At least a little above 0: no answer counts against itself."""
    p = np.clip(np.asarray(probable, dtype=np.float64), _EDGE, 1 - _EDGE)
    spread = np.maximum(np.where(options > 1, options, FREE) - 1, 1)[:, None]
    weights: Table = np.maximum(np.log(p * spread / (1 - p)), _EDGE)
    return weights


def equal_answers(code: Indices) -> NDArray[np.bool_]:
    """Which slots hold the same answer, [n, T, T]; `code` [n, T] is -1 where a slot holds none."""
    same: NDArray[np.bool_] = (code[:, :, None] == code[:, None, :]) & (code >= 0)[:, :, None]
    return same


def first_slots(same: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The first slot of each distinct answer, [n, T]."""
    earlier = np.tril(np.ones(same.shape[1:], dtype=bool), -1)
    first: NDArray[np.bool_] = np.diagonal(same, axis1=1, axis2=2) & ~(same & earlier).any(axis=2)
    return first


def evidence(score: Table, code: Indices, options: Indices) -> Evidence:
    """Weigh answers: `score` [n, T] is each slot's arm's P(right), `code` [n, T] equal for equal answers of a question and
    -1 where there is none, `options` [n] how many there are to choose from (0: answers are free).

    `probable` is the posterior if arms err independently and wrong answers spread evenly over the options; an answer
    that nobody gave keeps its share, so one draft alone is as probable as its arm is good.
    """
    same = equal_answers(code)
    first = first_slots(same)
    weights = vote_weights(score, options) if code.size else np.zeros(code.shape)
    weight = np.einsum("nij,nj->ni", same, weights)
    votes = same.sum(axis=2)
    peak = np.maximum(weight.max(axis=1, initial=0.0), 0.0)[:, None]
    mass = np.where(first, np.exp(weight - peak), 0.0)
    unsaid = np.maximum(np.where(options > 1, options, FREE) - first.sum(axis=1), 0)[:, None]
    total = mass.sum(axis=1, keepdims=True) + unsaid * np.exp(-peak)
    own = np.where(code >= 0, np.exp(weight - peak), 0.0)
    probable = own / np.maximum(total, np.finfo(float).tiny)
    return Evidence(first, votes, weight, probable)
