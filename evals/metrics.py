"""From systems' results to rows with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from routers.stats import bootstrap_interval, paired_difference


@dataclass(frozen=True, slots=True)
class Result:
    """One system on every item: right (0 to 1), and the calls, tokens and seconds it needed; NaN where unknown."""

    system: str
    right: NDArray[np.float64]
    calls: NDArray[np.float64]
    tokens: NDArray[np.float64]
    seconds: NDArray[np.float64]
    chosen: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """The common form of every `coe eval`: accuracies in [0, 1], means per question, unknown is None.

    `chosen` marks what was fixed before the test questions were opened.
    """

    system: str
    group: str
    n: int
    accuracy: float
    low: float
    high: float
    calls: float | None
    tokens: float | None
    seconds: float | None
    chosen: bool


def row(result: Result, group: str, at: Sequence[int]) -> Row:
    """The result on the items at `at`, with a 95 % bootstrap interval over questions."""
    right = result.right[list(at)]
    low, high = bootstrap_interval(right)
    return Row(
        system=result.system,
        group=group,
        n=len(right),
        accuracy=round(float(right.mean()), 4),
        low=round(low, 4),
        high=round(high, 4),
        calls=known_mean(result.calls[list(at)]),
        tokens=known_mean(result.tokens[list(at)]),
        seconds=known_mean(result.seconds[list(at)]),
        chosen=result.chosen,
    )


@dataclass(frozen=True, slots=True)
class Gap:
    """How much more often one system is right than another on the same questions, with its 95 % interval."""

    system: str
    other: str
    mean: float
    low: float
    high: float


def gap(result: Result, other: Result, at: Sequence[int]) -> Gap:
    """`result` minus `other` on the items at `at`, paired by question."""
    mean, low, high = paired_difference(result.right[list(at)], other.right[list(at)])
    return Gap(result.system, other.system, mean, low, high)


def known_mean(values: NDArray[np.float64], digits: int = 4) -> float | None:
    """The mean, rounded; None where a value is not known (NaN)."""
    mean = float(values.mean())
    return None if np.isnan(mean) else round(mean, digits)


def paired_gap(right: NDArray[np.float64], other: NDArray[np.float64]) -> tuple[float, float, float]:
    """How much more is right than of `other` on the same questions, with the 95 % interval, rounded."""
    mean, low, high = paired_difference(right, other)
    return round(mean, 4), round(low, 4), round(high, 4)
