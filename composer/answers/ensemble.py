"""Aggregators for the strategies of an expert: PRISM's vote, and the fixed order of its ensemble."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from composer.answers.ballots import Ballots, Verdicts
from composer.answers.vote import agreement, unless_alone
from composer.settings.strategy import CODE, PROSE, TOOL, strategy_of
from routers.evidence import best_slot, equal_answers, first_slots
from routers.types import Indices

ORDER = {CODE: 3.0, TOOL: 2.0, PROSE: 1.0}
"""Whose answer is taken: the program's, else that of who called the tool, else that in prose."""


@dataclass(frozen=True, slots=True)
class Prism:
    """The answer that more drafts give than any other, else that of the strategy that was planned first (PRISM; METHODS G.1).

    So it is in each of its branches: of one strategy its answer; of two what both say, else the first one's; of all the
    majority, and at a tie the first one's, though it may be none of those that tie. Where the first one has no answer (its
    program failed), the next one in the plan counts for it: the paper would have none. Sure: the share of all drafts that
    agree; of a single draft, which agrees with itself, as the router is."""

    def combine(self, ballots: Ballots) -> Verdicts:
        """The first draft of the answer is taken."""
        first = first_slots(equal_answers(ballots.code))
        votes = np.where(first, equal_answers(ballots.code).sum(axis=2), 0)
        most = votes.max(axis=1, keepdims=True, initial=0)
        tied = ((votes == most) & first).sum(axis=1) > 1
        slot = np.where(tied, best_slot(np.zeros(votes.shape), first), best_slot(votes.astype(np.float64), first))
        return _told(ballots, slot)


@dataclass(frozen=True, slots=True)
class Ordered:
    """The fixed order of PRISM's ensemble (METHODS G.1): what program and tool both say, else the program's answer, else the
    tool's, else that in prose; of several of one kind the first in the plan.

    The paper's ensemble has an algebraic and a Python program; ours are the program and the calls of a tool. That both are
    equal changes nothing of the answer, since the program's is taken anyway, but of how sure it is: the share of all drafts
    that agree, and of a single draft as the router is. Where nobody knows an arm (it was asked by name), it counts as prose."""

    def combine(self, ballots: Ballots) -> Verdicts:
        """The first draft of that strategy."""
        rank = np.array([ORDER[strategy_of(arm.name)] for arm in ballots.arms] + [ORDER[PROSE]])
        slot = best_slot(rank[ballots.arm], ballots.code >= 0)
        return _told(ballots, slot)


def _told(ballots: Ballots, slot: Indices) -> Verdicts:
    return Verdicts(slot, unless_alone(ballots, slot, agreement(ballots, slot)))
