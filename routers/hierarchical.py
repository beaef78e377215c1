"""The hierarchical router: an arm's share right overall, corrected by its domain, corrected by the neighbourhood."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from routers.errors import RouterError
from routers.nearest import Bank, Group
from routers.perarm import Column, PerArm, Table, mean_seen
from routers.records import label_matrix, need_labels
from routers.skills import SkillFinder
from routers.types import Outcomes, Questions, Reason


@dataclass(slots=True)
class HierarchicalRouter(PerArm):
    """P(right) on three levels, each a correction of the one above, shrunk by how little it rests on:

    overall share -> per domain: (right + `domain_prior` x overall) / (n + `domain_prior`), mixed by the domains found in
    the question -> plus the kernel-weighted mean, over the `k` nearest profile questions, of what is left
    (score minus its domain's share), shrunk by `prior` pseudo-counts of nothing left.

    Source: ours, out of two of METHODS: the outer level is B's category table with its shrinkage, the inner I.4's
    neighbours, who here vote with residuals, so that a domain with few near questions keeps its table. Domains are the
    questions' labels, found as the skill router finds skills (`SkillFinder`); a question of no domain uses the overall
    share as its first two levels.
    """

    domain_prior: float = 10.0
    k: int = 200
    width: float = 0.3
    prior: float = 10.0
    finder_: SkillFinder | None = field(default=None, init=False, repr=False, compare=False)
    bank_: Bank = field(default_factory=Bank, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.k < 1 or min(self.domain_prior, self.width, self.prior) <= 0:
            raise RouterError("k must be at least 1; domain_prior, width and prior above 0")

    def _common(self, questions: Questions, outcomes: Outcomes) -> None:
        need_labels(questions)
        self.finder_ = SkillFinder(floor=-1.0).fit(questions)
        self.bank_ = Bank().fit(questions)

    def _column(self, questions: Questions, score: Table, cost: Table) -> Column:
        assert self.finder_ is not None
        _, labels = label_matrix(questions, self.finder_.skills_)
        seen = ~np.isnan(score)
        own, marks = labels[seen], score[seen]
        overall = mean_seen(score)
        share = (own.T @ marks + self.domain_prior * overall) / (own.sum(axis=0) + self.domain_prior)
        weights = own / np.maximum(own.sum(axis=1, keepdims=True), 1)
        expected = weights @ share + (1 - weights.sum(axis=1)) * overall
        return {
            "share": share,
            "overall": np.array(overall),
            "left": marks - expected,
            "rows": self.bank_.rows(questions, seen),
        }

    def _stack(self) -> list[Group]:
        return self.bank_.groups(self.columns_, "left")

    def _score(self, questions: Questions) -> Table:
        assert self.finder_ is not None
        weights = self.finder_.weights(questions.vectors)
        share = np.stack([column["share"] for column in self.columns_], axis=1)
        overall = np.array([float(column["overall"]) for column in self.columns_])
        found: Table = weights @ share + (1 - weights.sum(axis=1, keepdims=True)) * overall
        for group in self.stacked_:
            left, weight = group.sums(questions.vectors, self.k, self.width)
            found[:, group.arms] += left / (weight + self.prior)
        return found

    def _explain(self, questions: Questions) -> list[Reason]:
        assert self.finder_ is not None
        found = self.finder_.find(questions.vectors)
        return [
            Reason(
                skills=tuple(
                    (found.skills[int(i)], round(float(row[i]), 4))
                    for i in np.argsort(-row, kind="stable")[:3]
                    if row[i] >= 0.1
                ),
                note=f"domain table corrected by {self.k} neighbours",
            )
            for row in found.weights
        ]
