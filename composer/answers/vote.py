"""Aggregators that count: the best scored draft, votes, weighted votes, the most self-consistent model."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Self

import numpy as np

from composer.answers.ballots import Ballots, Table, Verdicts
from routers.evidence import Evidence, best_slot, equal_answers, evidence, first_slots
from routers.types import Indices

_PRIOR = 10.0  # pseudo-answers towards the arm's overall share, where a skill's record is short


@dataclass(frozen=True, slots=True)
class BestScored:
    """The draft whose arm the router trusts most, among those with an answer; sure as the router is."""

    def combine(self, ballots: Ballots) -> Verdicts:
        """Equal scores go to the draft that was planned first."""
        slot = best_slot(ballots.score, ballots.code >= 0)
        return Verdicts(slot, scores_at(ballots, slot))


@dataclass(frozen=True, slots=True)
class Majority:
    """The answer most drafts give; ties go to the higher sum of scores, then to the answer planned first. A draft without
    an answer counts for nobody. Sure: the share of all drafts that agree; of a single draft, which agrees with itself, as
    the router is."""

    def combine(self, ballots: Ballots) -> Verdicts:
        """The first draft of the answer is taken."""
        same = equal_answers(ballots.code)
        votes = same.sum(axis=2)
        worth = votes + _tie(np.einsum("nij,nj->ni", same, ballots.score))
        slot = best_slot(worth, first_slots(same))
        return Verdicts(slot, unless_alone(ballots, slot, _at(votes / _asked(ballots), slot)))


@dataclass(frozen=True, slots=True)
class Weighted:
    """The answer with the largest sum of router scores. Sure: its share of the sum over all drafts; of
    a single draft as the router is."""

    def combine(self, ballots: Ballots) -> Verdicts:
        """The first draft of the answer is taken."""
        same = equal_answers(ballots.code)
        weight = np.einsum("nij,nj->ni", same, ballots.score)
        slot = best_slot(weight, first_slots(same))
        total = np.where(ballots.arm >= 0, ballots.score, 0).sum(axis=1, keepdims=True)
        return Verdicts(slot, unless_alone(ballots, slot, _at(weight / np.maximum(total, 1e-9), slot)))


@dataclass(slots=True)
class LogOdds:
    """The most probable answer if arms err independently (weighted majority, Nitzan and Paroush 1982): each vote counts
    log(P (m - 1) / (1 - P)), m options. `fit` learns P as each arm's share right on the question's skill, shrunk to its
    overall share; unfitted, P is the router's score. Sure: the posterior."""

    share_: Table | None = field(default=None, init=False, repr=False, compare=False)
    arms_: tuple[str, ...] = field(default=(), init=False, repr=False, compare=False)
    skills_: tuple[str, ...] = field(default=(), init=False, repr=False, compare=False)

    def fit(self, ballots: Ballots, right: Table) -> Self:
        """Learn the shares, [skill + 1, arm], the last row overall."""
        arms, skills = len(ballots.arms), len(ballots.skills)
        skill = np.full(len(ballots), -1) if ballots.skill is None else ballots.skill
        rows, slots = np.nonzero(ballots.arm >= 0)
        arm, marks = ballots.arm[rows, slots], right[rows, slots]
        count, sums = np.zeros((skills + 1, arms)), np.zeros((skills + 1, arms))
        for place in (skill[rows], np.full(len(rows), skills)):
            known = place >= 0
            np.add.at(count, (place[known], arm[known]), 1)
            np.add.at(sums, (place[known], arm[known]), marks[known])
        overall = (sums[-1] + 1) / (count[-1] + 2)
        self.arms_, self.skills_ = tuple(arm.name for arm in ballots.arms), ballots.skills
        self.share_ = np.vstack([(sums[:-1] + _PRIOR * overall) / (count[:-1] + _PRIOR), overall])
        return self

    def combine(self, ballots: Ballots) -> Verdicts:
        """The first draft of the most probable answer."""
        found = self.evidence(ballots)
        return Verdicts(found.top, _at(found.probable, found.top))

    def evidence(self, ballots: Ballots) -> Evidence:
        """Votes, weights and posteriors of all answers."""
        return evidence(self._score(ballots), ballots.code, ballots.options)

    def _score(self, ballots: Ballots) -> Table:
        if self.share_ is None:
            return ballots.score
        column = {name: place for place, name in enumerate(self.skills_)}
        own = np.array([column.get(name, -1) for name in ballots.skills] + [-1])  # the last row: overall
        skill = np.full(len(ballots), -1) if ballots.skill is None else ballots.skill
        scores: Table = self.share_[own[skill][:, None], np.maximum(ballots.places(self.arms_), 0)]
        return scores


@dataclass(frozen=True, slots=True)
class SelfConsistent:
    """The answer of the arm that agrees most with itself over its own samples; ties to the arm the router trusts most.

    SLM-MUX (METHODS I.2, code); there ties go to validation accuracy, which is what a router's score stands for. With
    one sample of each arm every arm agrees with itself, and this is `BestScored`. Sure: the share of the arm's samples,
    and of an arm with a single one as the router is.
    """

    def combine(self, ballots: Ballots) -> Verdicts:
        """The first draft of that answer."""
        same = equal_answers(ballots.code) & (ballots.arm[:, :, None] == ballots.arm[:, None, :])
        own = (ballots.arm[:, :, None] == ballots.arm[:, None, :]) & (ballots.arm >= 0)[:, :, None]
        share = same.sum(axis=2) / np.maximum(own.sum(axis=2), 1)
        slot = best_slot(share + _tie(ballots.score), first_slots(same))
        single = _at(own.sum(axis=2).astype(np.float64), slot) <= 1
        return Verdicts(slot, np.where(single, scores_at(ballots, slot), _at(share, slot)))


@dataclass(slots=True)
class DawidSkene:
    """The most probable answer, with each arm's accuracy found from agreement alone, without a label: expectation
    maximisation after Dawid and Skene (1979), one accuracy per arm ("one coin") instead of a confusion matrix, since
    the options of different questions have nothing in common. `fit` uses no labels. Sure: the posterior."""

    rounds: int = 20
    accuracy_: Table | None = field(default=None, init=False, repr=False, compare=False)
    arms_: tuple[str, ...] = field(default=(), init=False, repr=False, compare=False)

    @property
    def whole(self) -> bool:
        """Unfitted, a question's verdict depends on the others of its batch."""
        return self.accuracy_ is None

    def fit(self, ballots: Ballots, right: Table) -> Self:
        """Find the arms' accuracies on these ballots; `right` is not looked at."""
        arms = len(ballots.arms)
        here = ballots.arm >= 0
        place = np.maximum(ballots.arm, 0)
        accuracy = np.full(arms, 0.6)
        for _ in range(self.rounds):
            found = evidence(accuracy[place], ballots.code, ballots.options)
            count = np.bincount(place[here], minlength=arms)
            accuracy = (np.bincount(place[here], found.probable[here], arms) + 1) / (count + 2)
        self.accuracy_, self.arms_ = accuracy, tuple(arm.name for arm in ballots.arms)
        return self

    def combine(self, ballots: Ballots) -> Verdicts:
        """The first draft of the most probable answer; unfitted, the accuracies are those of these ballots."""
        if self.accuracy_ is None:
            return DawidSkene(self.rounds).fit(ballots, ballots.score).combine(ballots)
        found = evidence(self.accuracy_[np.maximum(ballots.places(self.arms_), 0)], ballots.code, ballots.options)
        return Verdicts(found.top, _at(found.probable, found.top))


def agreement(ballots: Ballots, slot: Indices) -> Table:
    """The share of each question's drafts that give the answer in `slot`, [n]; 0 where there is none."""
    same = equal_answers(ballots.code).sum(axis=2)
    return _at(same / _asked(ballots), slot)


def unless_alone(ballots: Ballots, slot: Indices, sure: Table) -> Table:
    """`sure`, [n], but of a question with a single draft, whose agreement with itself says nothing, the router's score."""
    alone = (ballots.arm >= 0).sum(axis=1) <= 1
    return np.where(alone, scores_at(ballots, slot), sure)


def scores_at(ballots: Ballots, slot: Indices) -> Table:
    """The router's score of the arm of the draft in `slot`, [n]; 0 where there is none."""
    return _at(ballots.score, slot)


def _asked(ballots: Ballots) -> Table:
    asked: Table = np.maximum((ballots.arm >= 0).sum(axis=1, keepdims=True), 1).astype(np.float64)
    return asked


def _tie(worth: Table) -> Table:
    """Something less than one vote, larger for more worth."""
    small: Table = worth / (2 * (1 + np.abs(worth)))
    return small


def _at(values: Table, slot: Indices) -> Table:
    if not values.shape[1]:
        return np.zeros(len(slot))
    found: Table = np.where(slot >= 0, values[np.arange(len(slot)), np.maximum(slot, 0)], 0.0).astype(np.float64)
    return found
