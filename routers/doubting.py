"""A policy that asks more where experts are known to be sure and wrong: on borders, and outside what was measured."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from routers.coverage import BOUNDARY, GAP
from routers.select import ranked
from routers.stopping import later_of
from routers.types import Arm, Array, Ask, Decision, Policy, Seen, Stop

DISAGREEMENT = "disagreement"
_FLAGS = frozenset({GAP, BOUNDARY})


@dataclass(frozen=True, slots=True)
class Doubting:
    """Does as `policy` does, but lets no flagged question go on the word of one domain: the two best-scored arms and the
    best one of another domain are asked; where they disagree, the `generalist` is (None: nobody else).

    Source: Transitive Expert Error (METHODS F.3; the formulas are ours). A question is flagged by a coverage gap or a
    boundary (`routers.coverage`); experts of one domain share its surface cues and agree on the same error, so an
    outsider is heard. They disagree where `most` of all asked, or more, do not give the most common answer: METHODS says more, but of
    two that differ neither is the most common.
    """

    policy: Policy
    generalist: str | None = None
    most: float = 0.5

    def next(self, scores: Array, arms: Sequence[Arm], seen: Sequence[Seen]) -> list[Decision]:
        """The policy's decisions; where it would stop on a flagged question, who has to be heard first."""
        decisions = self.policy.next(scores, arms, seen)
        doubted = [
            row
            for row, (decision, own) in enumerate(zip(decisions, seen, strict=True))
            if isinstance(decision, Stop) and own.asked and not _FLAGS.isdisjoint(own.flags)
        ]
        if not doubted:
            return decisions
        order = ranked(scores[doubted], arms)
        for row, places in zip(doubted, order, strict=True):
            own = seen[row]
            missing = [name for name in _panel([arms[int(i)] for i in places]) if name not in own.asked]
            if self.generalist not in (None, *own.asked) and not missing and disagree(own, self.most):
                missing = [name for name in (arm.name for arm in arms) if name == self.generalist]
            if missing:
                decisions[row] = Ask(tuple(missing))
        return decisions

    def later(self, scores: Array, arms: Sequence[Arm], seen: Sequence[Seen]) -> list[tuple[str, ...]]:
        """Those of the policy; of a flagged question also the panel and the generalist."""
        found = later_of(self.policy, scores, arms, seen)
        for row, (own, places) in enumerate(zip(seen, ranked(scores, arms), strict=True)):
            if not _FLAGS.isdisjoint(own.flags):
                more = [*found[row], *_panel([arms[int(i)] for i in places])]
                more += [arm.name for arm in arms if arm.name == self.generalist]
                found[row] = tuple(dict.fromkeys(name for name in more if name not in own.asked))
        return found


def disagreement(seen: Seen) -> float:
    """One minus the share of the arms asked that give the most common answer; 0 where fewer than two were asked.

    >>> disagreement(Seen(("a", "b", "c"), (("a", "4"), ("b", "4"), ("c", None)))).__round__(2)
    0.33
    """
    if len(seen.asked) < 2:
        return 0.0
    first = dict(reversed(seen.answers))  # of several samples the first
    counted = Counter(answer for answer in first.values() if answer is not None)
    return 1 - max(counted.values(), default=0) / len(seen.asked)


def disagree(seen: Seen, most: float = 0.5) -> bool:
    """Whether `most` of those asked, or more, do not give the most common answer."""
    return len(seen.asked) > 1 and disagreement(seen) >= most


def _panel(best_first: Sequence[Arm]) -> list[str]:
    """The two best arms, and the best one of another domain than the first's, unless the second is of another."""
    panel = list(best_first[:2])
    at_home = best_first[0].domain
    if all(arm.domain == at_home for arm in panel):
        panel += [arm for arm in best_first[2:] if arm.domain != at_home][:1]
    return [arm.name for arm in panel]
