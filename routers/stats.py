"""Intervals, paired differences and tests, and the cut of the calibration split."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from numpy.typing import ArrayLike, NDArray

from routers.errors import RouterError
from routers.types import Array

_CELLS = 4_000_000  # how many drawn indices are held at once
_TWINS = 0.95  # questions whose vectors have at least this cosine are one question in other words


def bootstrap_interval(
    values: ArrayLike, *, resamples: int = 1000, seed: int = 0, level: float = 0.95
) -> tuple[float, float]:
    """The percentile interval of the mean of `values` (one per question), by resampling questions.

    Raises RouterError for no values.

    >>> bootstrap_interval([0.0, 1.0] * 50)
    (0.4, 0.6)
    """
    means = _resampled(np.asarray(values, dtype=np.float64), resamples, seed)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def paired_difference(
    a: ArrayLike, b: ArrayLike, *, resamples: int = 1000, seed: int = 0, level: float = 0.95
) -> tuple[float, float, float]:
    """The mean of a - b over the same questions, and its bootstrap interval: (mean, low, high).

    Raises RouterError when they are not of one length, or empty.

    >>> paired_difference([1, 1, 1, 1], [1, 0, 1, 0])
    (0.5, 0.0, 1.0)
    """
    left, right = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if left.shape != right.shape:
        raise RouterError(f"paired values need the same questions, got {left.shape} and {right.shape}")
    low, high = bootstrap_interval(left - right, resamples=resamples, seed=seed, level=level)
    return float((left - right).mean()), low, high


def paired_test(a: ArrayLike, b: ArrayLike, *, resamples: int = 10_000, seed: int = 0) -> float:
    """The two-sided p-value of a - b over the same questions, were each difference as likely the other way round (sign flips): exact
    where all differences are of one size, which makes it the sign test, else by `resamples` draws.

    Raises RouterError when they are not of one length.

    >>> paired_test([1, 1, 1, 1, 1, 0], [0, 0, 0, 0, 0, 0])
    0.0625
    """
    left, right = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if left.shape != right.shape:
        raise RouterError(f"paired values need the same questions, got {left.shape} and {right.shape}")
    values = (left - right)[left != right]
    if not len(values):
        return 1.0
    if np.allclose(np.abs(values), abs(values[0])):
        most = int(max((values > 0).sum(), (values < 0).sum()))
        tail = sum(math.comb(len(values), count) for count in range(most, len(values) + 1))
        return min(1.0, float(Fraction(2 * tail, 2 ** len(values))))
    rng, seen, far = np.random.default_rng(seed), abs(values.sum()) * (1 - 1e-9), 1
    step = max(1, _CELLS // len(values))
    for start in range(0, resamples, step):
        signs = rng.integers(0, 2, (min(step, resamples - start), len(values)), dtype=np.int8)
        far += int((np.abs((2 * signs - 1) @ values) >= seen).sum())
    return far / (1 + resamples)


def holm(values: ArrayLike) -> NDArray[np.float64]:
    """These p-values as they are after Holm's correction for their number: whoever calls those up to 0.05 shown is wrong anywhere
    with a chance of at most 5 %, however the tests hang together.

    >>> holm([0.01, 0.9, 0.02]).tolist()
    [0.03, 0.9, 0.04]
    """
    told = np.asarray(values, dtype=np.float64)
    order = np.argsort(told, kind="stable")
    found = np.empty(len(told))
    found[order] = np.minimum(1.0, np.maximum.accumulate(told[order] * np.arange(len(told), 0, -1)))
    return found


def calibration_split(
    ids: Sequence[str], vectors: Array | None = None, share: float = 0.2, seed: int = 0
) -> NDArray[np.bool_]:
    """Which questions of a profile are its calibration part: bool [n], about `share` of them True.

    Near-duplicates (cosine of at least 0.95 between `vectors`, unit rows [n, dim]) stay on one side, also when only
    a chain of others links them. The cut depends on the ids and the seed, not on the order of the rows. Raises
    RouterError for ids that repeat.
    """
    if len(set(ids)) != len(ids):
        raise RouterError("question ids repeat, so the calibration split would not be reproducible")
    chosen = np.zeros(len(ids), dtype=bool)
    room = round(share * len(ids))
    for rows in _bunches(ids, vectors, seed):
        if len(rows) <= room:
            chosen[rows] = True
            room -= len(rows)
    return chosen


def folds(ids: Sequence[str], vectors: Array | None, count: int, seed: int = 0) -> NDArray[np.int64]:
    """The part, 0 to `count` - 1, of each question: parts of about equal size, near-duplicates in one part.

    Like `calibration_split` it depends on the ids and the seed, not on the order of the rows.
    """
    chosen = np.zeros(len(ids), dtype=np.int64)
    sizes = [0] * count
    for rows in _bunches(ids, vectors, seed):
        part = sizes.index(min(sizes))
        chosen[rows] = part
        sizes[part] += len(rows)
    return chosen


def differences(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scores [question, arm] less their question's mean over the arms that were observed (the others are NaN); as they
    are where no question has two.

    >>> differences(np.array([[1.0, 0.0, np.nan], [1.0, 1.0, 1.0]])).tolist()
    [[0.5, -0.5, nan], [0.0, 0.0, 0.0]]
    """
    seen = ~np.isnan(scores)
    count = seen.sum(axis=1, keepdims=True)
    if not (count > 1).any():
        return scores
    mean = np.where(seen, scores, 0).sum(axis=1, keepdims=True) / np.maximum(count, 1)
    found: NDArray[np.float64] = scores - mean
    return found


def entropy(probable: NDArray[np.float64]) -> NDArray[np.float64]:
    """The entropy of each row, divided by that of the uniform distribution: 0 to 1.

    >>> entropy(np.array([[0.5, 0.5], [1.0, 0.0]])).tolist()
    [1.0, 0.0]
    """
    logs = np.log(np.where(probable > 0, probable, 1.0))
    found: NDArray[np.float64] = np.abs(-(probable * logs).sum(axis=1) / np.log(max(2, probable.shape[1])))
    return found


def _resampled(values: NDArray[np.float64], resamples: int, seed: int) -> NDArray[np.float64]:
    """The means of `resamples` draws of all questions with replacement."""
    if values.ndim != 1 or len(values) == 0:
        raise RouterError(f"an interval needs one value per question, got the shape {values.shape}")
    rng = np.random.default_rng(seed)
    step = max(1, _CELLS // len(values))
    parts = [
        values[rng.integers(0, len(values), (min(step, resamples - start), len(values)))].mean(axis=1)
        for start in range(0, resamples, step)
    ]
    return np.concatenate(parts)


def _bunches(ids: Sequence[str], vectors: Array | None, seed: int) -> list[list[int]]:
    """Rows that are near-duplicates of each other, in an order that only ids and seed decide."""
    groups: dict[int, list[int]] = {}
    for row, root in enumerate(_components(vectors) if vectors is not None else range(len(ids))):
        groups.setdefault(root, []).append(row)
    return sorted(groups.values(), key=lambda rows: _hash(seed, min(ids[row] for row in rows)))


def _components(vectors: Array) -> list[int]:
    """For each row the smallest row it is linked to through near-duplicates."""
    parent = list(range(len(vectors)))

    def root(row: int) -> int:
        while parent[row] != row:
            parent[row] = parent[parent[row]]
            row = parent[row]
        return row

    step = max(1, _CELLS // max(1, len(vectors)))
    for start in range(0, len(vectors), step):
        near = np.argwhere(vectors[start : start + step] @ vectors.T >= _TWINS)
        near[:, 0] += start
        for own, other in near[near[:, 0] < near[:, 1]].tolist():
            low, high = sorted((root(own), root(other)))
            parent[high] = low
    return [root(row) for row in range(len(vectors))]


def _hash(seed: int, text: str) -> bytes:
    return hashlib.sha256(f"{seed}:{text}".encode()).digest()
