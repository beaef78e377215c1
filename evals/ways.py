"""The ways to use scores that `coe eval routers` chooses among: selection rules, votes, and stopping when two agree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from composer.learning.grid import Grid
from evals.replayed import Played, ask, until_two_agree
from routers.evidence import vote_weights
from routers.rules import NullArm, Recruit, ReluGate, Rule, TopK, TopP, Utility
from routers.types import Array

_WEIGHTS = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.8)


@dataclass(frozen=True, slots=True)
class Way:
    """How scores are used: a selection rule, votes counted or weighted; with `stops` the arms are asked one after the
    other until two agree."""

    name: str
    rule: Rule
    weighted: bool = False
    stops: bool = False

    def fitted(self, scores: Array, grid: Grid) -> Way:
        """The way with the rule's threshold set on these (calibration) scores, where it has one."""
        return replace(self, rule=self.rule.fit(scores, grid.arms)) if isinstance(self.rule, ReluGate) else self

    def play(self, grid: Grid, scores: Array, ids: Sequence[str]) -> Played:
        """Each question's answer by this way."""
        weights = vote_weights(scores, grid.options) if self.weighted else None
        chosen = self.rule.choose(scores, grid.arms, ids)
        if self.stops:
            return until_two_agree(grid, chosen, chosen.shape[1], weights)
        return ask(grid, chosen, weights)


ONE = Way("1", TopK(1))


def ways(calls: str, arms: int, voted: bool) -> list[Way]:
    """What may be chosen for a budget: at most so many mean calls ("all": any number)."""
    if calls == "1" or not voted:
        return [ONE]
    most = arms if calls == "all" else min(int(calls), arms)
    found = [
        ONE,
        Way(f"vote of {most}", TopK(most)),
        Way(f"weighted vote of {most}", TopK(most), weighted=True),
        Way(f"gate of {most}", ReluGate(calls=most, most=arms), weighted=True),
    ]
    for p in (0.3, 0.5, 0.7):
        found.append(Way(f"top-p {p}", TopP(p, most=arms), weighted=True))
    for price in (0.02, 0.05, 0.1):
        found.append(Way(f"null arm {price}", NullArm(price, most=arms), weighted=True))
    for cap in sorted({most, min(most + 1, arms), min(most + 2, arms), min(2 * most, arms)}):
        if cap > 2:
            found.append(Way(f"until two of {cap} agree", TopK(cap), stops=True))
            found.append(Way(f"until two of {cap} agree, weighted", TopK(cap), weighted=True, stops=True))
    return found


def shown(arms: int, voted: bool) -> list[Way]:
    """Rules that are reported beside what is chosen, for the default router."""
    if not voted or arms < 3:
        return []
    return [
        Way("3 drawn with replacement", Recruit(3)),
        Way("3 drawn without", Recruit(3, replace=False)),
        Way("vote of 3", TopK(3)),
    ]


def thrifty() -> list[Way]:
    """What may save cost: one call by expected utility, at several worths of money."""
    return [Way(f"utility {weight}", Utility(weight)) for weight in _WEIGHTS]
