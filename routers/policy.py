"""Policies: who is asked next, given scores and what has been seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from routers.errors import RouterError
from routers.select import top_k
from routers.types import Arm, Array, Ask, Decision, Seen, Stop


@dataclass(frozen=True, slots=True)
class FixedK:
    """Asks the `k` best arms of each row at once, then stops."""

    k: int = 1

    def __post_init__(self) -> None:
        if self.k < 1:
            raise RouterError(f"k is {self.k}: at least one arm has to be asked")

    def next(self, scores: Array, arms: Sequence[Arm], seen: Sequence[Seen]) -> list[Decision]:
        """Ask (best first) where nothing was asked yet, else Stop."""
        best = top_k(scores, self.k, arms)
        return [
            Stop() if row.asked else Ask(tuple(arms[int(i)].name for i in places))
            for row, places in zip(seen, best, strict=True)
        ]
