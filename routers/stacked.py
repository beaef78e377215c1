"""The stacked router: several routers' scores, each weighted by what it foretells on questions it was not fitted on."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from routers.errors import NotFittedError, RouterError
from routers.joining import foretold
from routers.perarm import Table, in_order, mean_seen, need_outcomes
from routers.records import label_matrix
from routers.stats import differences, folds
from routers.types import Arm, Array, Outcomes, Questions, Reason, Router

_PARTS = 4
_TELLING = 0.06  # the share of all weights under which a member is left out
_LEAST = 40  # questions, under which weights would be learnt from noise: all members count the same


@dataclass(slots=True)
class StackedRouter:
    """P(right) of arm a = overall share of a + sum over members m of weight m x (score of m for a - overall share of a).

    Source: stacked regressions with weights that are not negative (Breiman 1996, after Wolpert 1992). What differs: the
    weights are fitted to *differences* between the arms of a question, since only these decide a route; how hard a
    question is for all of them is far easier to foretell and would drown them. Weights come from scores of members that
    were fitted without the question (four parts, near-duplicates kept together); they may sum to less than 1, which
    shrinks towards the best single arm where questions tell little. Members are then fitted again on everything, each
    by itself.

    A new arm takes the weights as they are. If it was asked fewer than half of the questions that are known, its outcomes
    on the others are foretold first (`routers.joining`); what was learnt of the known arms does not change.
    """

    members: tuple[Router, ...]
    fitted_: tuple[Router, ...] = field(default=(), init=False, repr=False, compare=False)
    weights_: Table = field(default_factory=lambda: np.zeros(0), init=False, repr=False, compare=False)
    overall_: dict[str, float] = field(default_factory=dict, init=False, repr=False, compare=False)
    known_: Questions | None = field(default=None, init=False, repr=False, compare=False)
    truth_: dict[str, Table] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.members:
            raise RouterError("a stacked router needs at least one member")

    @property
    def arms(self) -> tuple[Arm, ...]:
        """The arms of the columns of `score`."""
        if not self.fitted_:
            raise NotFittedError("StackedRouter has not been fitted\n  next: call fit(questions, outcomes)")
        return self.fitted_[0].arms

    def fit(self, questions: Questions, outcomes: Outcomes) -> Self:
        """Learn the weights on parts, then every member on all."""
        need_outcomes(outcomes)
        questions, outcomes = in_order(questions, outcomes)
        self.weights_ = self._weights(questions, outcomes)
        self.known_ = questions
        self.truth_ = {arm.name: own for arm, own in zip(outcomes.arms, outcomes.matrix(len(questions)).T, strict=True)}
        self.overall_ = {name: mean_seen(own) for name, own in self.truth_.items()}
        self.fitted_ = tuple(copy.deepcopy(member).fit(questions, outcomes) for member in self.members)
        return self

    def score(self, questions: Questions) -> Array:
        """P(right), shape (len(questions), len(arms)); members without weight are not asked."""
        base = np.array([self.overall_[arm.name] for arm in self.arms])
        found = np.tile(base, (len(questions), 1))
        for member, weight in zip(self.fitted_, self.weights_, strict=True):
            if weight > 0:
                found += weight * (member.score(questions).astype(np.float64) - base)
        bounded: Array = np.clip(found, 0, 1).astype(np.float32)
        return bounded

    def explain(self, questions: Questions) -> list[Reason]:
        """The skills and neighbours that the members give, the weightiest first; the note names the weights."""
        self.arms  # noqa: B018 - refuses before fit
        order = [int(i) for i in np.argsort(-self.weights_, kind="stable") if self.weights_[i] > 0]
        named = [f"{_name(self.members[i])} {self.weights_[i]:.2f}" for i in order]
        note = f"weights of {', '.join(named)}" if named else "no router foretells anything: arms by overall share"
        told = [self.fitted_[i].explain(questions) for i in order] or [[Reason()] * len(questions)]
        return [
            Reason(
                skills=next((reason.skills for reason in own if reason.skills), ()),
                nearest=next((reason.nearest for reason in own if reason.nearest), ()),
                fallback=own[0].fallback,
                note=note,
            )
            for own in zip(*told, strict=True)
        ]

    def add_arm(self, questions: Questions, outcomes: Outcomes) -> Self:
        """Every member learns the new arms, from what they showed and, where that is little, what is foretold of them."""
        if twice := [arm.name for arm in outcomes.arms if arm.name in self.truth_ and self.arms]:
            raise RouterError(f"{', '.join(twice)} is an arm already\n  next: remove it first")
        need_outcomes(outcomes)
        joined = [self._joined(questions, outcomes.only([arm.name])) for arm in outcomes.arms]
        for asked, own, shown in joined:
            for member in self.fitted_:
                member.add_arm(asked, own)
            name = own.arms[0].name
            self.overall_ = {**self.overall_, name: mean_seen(own.matrix(len(asked))[:, 0])}
            self.truth_ = {**self.truth_, name: shown}
        return self

    def _joined(self, questions: Questions, outcomes: Outcomes) -> tuple[Questions, Outcomes, Table]:
        """What the members learn of one new arm, on which questions, and what it showed on the known ones (else NaN)."""
        known = self._known()
        place = {name: row for row, name in enumerate(known.ids)}
        shown = outcomes.matrix(len(questions))[:, 0]
        own = np.full(len(known), np.nan)
        for row, name in enumerate(questions.ids):
            if name in place:
                own[place[name]] = shown[row]
        seen = int((~np.isnan(own)).sum())
        if seen < 2 or 2 * seen >= len(known):
            return questions, outcomes, own
        others = np.stack([self.truth_[arm.name] for arm in self.arms], axis=1)
        expected = self.score(_unlabelled(known)).astype(np.float64)
        whole = foretold(own, others, expected, label_matrix(known)[1])
        fresh = [row for row, name in enumerate(questions.ids) if name not in place and not np.isnan(shown[row])]
        labelled = bool(known.skills) and bool(questions.skills)
        asked = Questions(
            ids=(*known.ids, *(questions.ids[row] for row in fresh)),
            text=(*known.text, *(questions.text[row] for row in fresh)),
            vectors=np.concatenate([known.vectors, questions.vectors[fresh]]),
            skills=(*known.skills, *(questions.skills[row] for row in fresh)) if labelled else (),
        )
        marks = np.concatenate([whole, shown[fresh]]).astype(np.float32)
        n = len(marks)
        return asked, Outcomes.scored(outcomes.arms, np.arange(n), np.zeros(n, dtype=np.int64), marks), own

    def _known(self) -> Questions:
        if self.known_ is None:
            raise NotFittedError("StackedRouter has not been fitted\n  next: call fit(questions, outcomes)")
        return self.known_

    def remove_arm(self, name: str) -> Self:
        """Every member forgets the arm."""
        self.arms  # noqa: B018
        for member in self.fitted_:
            member.remove_arm(name)
        self.overall_ = {arm: share for arm, share in self.overall_.items() if arm != name}
        self.truth_ = {arm: own for arm, own in self.truth_.items() if arm != name}
        return self

    def learnt(self, name: str) -> Mapping[str, NDArray[Any]]:
        """What each member learnt of one arm, and its overall share."""
        self.arms  # noqa: B018
        own = {
            f"{place}.{key}": value
            for place, member in enumerate(self.fitted_)
            for key, value in member.learnt(name).items()
        }
        return {**own, "overall": np.array(self.overall_[name])}

    def _weights(self, questions: Questions, outcomes: Outcomes) -> Table:
        even = np.full(len(self.members), 1 / len(self.members))
        truth = outcomes.matrix(len(questions))
        parts = folds(questions.ids, questions.vectors, _PARTS)
        if len(questions) < _LEAST or len(set(parts.tolist())) < 2:
            return even
        base = np.full(truth.shape, np.nan)
        foretold = np.full((len(self.members), *truth.shape), np.nan)
        for part in range(_PARTS):
            inner, outer = np.flatnonzero(parts != part), np.flatnonzero(parts == part)
            known = outcomes.take(inner)
            if not len(outer) or not len(known.question):
                continue
            learn, asked = questions.take(inner), _unlabelled(questions.take(outer))
            try:
                for place, member in enumerate(self.members):
                    foretold[place, outer] = copy.deepcopy(member).fit(learn, known).score(asked)
            except RouterError:  # a part may lack what a member needs (labels, say); then it says nothing of weights
                foretold[:, outer] = np.nan
                continue
            base[outer] = np.array([mean_seen(score) for score in known.matrix(len(inner)).T])
        seen = ~np.isnan(truth) & ~np.isnan(base) & ((~np.isnan(truth)).sum(axis=1, keepdims=True) > 1)
        if not seen.any():
            return even
        hidden = np.where(seen, 0.0, np.nan)
        target = differences(truth + hidden) - differences(base + hidden)
        columns = [(differences(own + hidden) - differences(base + hidden))[seen] for own in foretold]
        from scipy.optimize import nnls  # noqa: PLC0415 - a quarter of a second

        design = np.stack(columns, axis=1)
        weights: Table = nnls(design, target[seen])[0]
        telling = weights >= _TELLING * weights.sum()
        if telling.any() and not telling.all():  # the others would cost every decision more than they tell
            weights = np.zeros(len(self.members))
            weights[telling] = nnls(design[:, telling], target[seen])[0]
        return weights


def _unlabelled(questions: Questions) -> Questions:
    """As they come at serving time."""
    return replace(questions, skills=())


def _name(member: Router) -> str:
    return type(member).__name__.removesuffix("Router").lower()
