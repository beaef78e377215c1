"""Policies: who is asked next, given scores and what has been seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from routers.errors import RouterError
from routers.select import NOBODY, Rule
from routers.types import Arm, Array, Ask, Decision, Seen, Stop


@dataclass(frozen=True, slots=True)
class Fixed:
    """Asks whom the rule chooses, all at once, then stops. An arm that is chosen twice (drawn with replacement) is asked
    once: it would say the same again."""

    rule: Rule

    def next(self, scores: Array, arms: Sequence[Arm], seen: Sequence[Seen]) -> list[Decision]:
        """Ask (best first) where nothing was asked yet, else Stop. Raises RouterError if the rule chooses nobody."""
        fresh = [i for i, row in enumerate(seen) if not row.asked]
        decisions: list[Decision] = [Stop()] * len(seen)
        ids = [seen[i].id for i in fresh]
        chosen = self.rule.choose(scores[fresh], arms, ids if all(ids) else ())
        for i, places in zip(fresh, chosen.tolist(), strict=True):
            names = tuple(dict.fromkeys(arms[place].name for place in places if place != NOBODY))
            if not names:
                raise RouterError(f"{self.rule} chooses nobody: at least one arm has to be asked")
            decisions[i] = Ask(names)
        return decisions
