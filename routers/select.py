"""From rows of scores to arms, best first; the rest of the selection rules are in `routers.rules`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Protocol, runtime_checkable

import numpy as np
from annotated_types import Ge

from routers.errors import RouterError
from routers.types import Arm, Array, Indices

NOBODY = -1


class Rule(Protocol):
    """Chooses arms by their scores. Pure: the same scores and ids, the same choice, alone or in a batch (`Balanced`,
    which levels a batch, excepted)."""

    def choose(self, scores: Array, arms: Sequence[Arm], ids: Sequence[str] = ()) -> Indices:
        """The arms of each row, best first: int64 [n, most], padded with NOBODY. `ids` seed draws."""
        ...


@runtime_checkable
class Levelling(Protocol):
    """A rule that gives up score for something else, and tells how much."""

    def given_up(self, scores: Array, arms: Sequence[Arm]) -> float:
        """The mean summed score per row that the choice costs on this batch."""
        ...


@dataclass(frozen=True, slots=True)
class TopK:
    """The `k` best arms."""

    k: Annotated[int, Ge(1)] = 1

    def choose(self, scores: Array, arms: Sequence[Arm], ids: Sequence[str] = ()) -> Indices:
        """Best first."""
        return top_k(scores, self.k, arms)


def top_k(scores: Array, k: int, arms: Sequence[Arm]) -> Indices:
    """The `k` best arms of each row, best first: int64 [n, min(k, arms)]. Equal scores go to the cheaper arm, then by name.

    >>> top_k(np.array([[0.5, 0.5, 0.9]], dtype=np.float32), 2, [Arm("b"), Arm("a"), Arm("c")]).tolist()
    [[2, 1]]
    """
    if k < 1:
        raise RouterError(f"k is {k}: at least one arm has to be asked")
    return ranked(scores, arms)[:, :k]


def ranked(scores: Array, arms: Sequence[Arm]) -> Indices:
    """All arms of each row, best first: int64 [n, arm]. Equal scores go to the cheaper arm, then by name.

    Raises RouterError for another number of arms, or a score that is not a number.
    """
    if scores.ndim != 2 or scores.shape[1] != len(arms):
        raise RouterError(f"scores have the shape {scores.shape}, but there are {len(arms)} arms")
    if np.isnan(scores).any():
        raise RouterError("a score is not a number\n  next: check the router's outcomes for missing scores")
    order = np.array(sorted(range(len(arms)), key=lambda i: (arms[i].price, arms[i].name)), dtype=np.int64)
    found: Indices = order[np.argsort(-scores[:, order], axis=1, kind="stable")]
    return found
