"""The learnt aggregator: P(right) of every answer given who said it, how good they are here, and how all of them agree."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np

from composer.answers.ballots import Ballots, Table, Verdicts
from composer.answers.vote import LogOdds
from composer.errors import InputError
from routers.evidence import best_slot, equal_answers, evidence
from routers.types import Indices

_TREES, _RATE, _DEPTH, _LEAST = 200, 0.05, 3, 30
_EDGE = 1e-3
_PLAIN = 5  # columns of the regression
_MOST = 60_000  # rows: more take minutes and change little


@dataclass(frozen=True, slots=True)
class _Tree:
    """A regression tree as arrays over its nodes; a leaf has feature -1."""

    feature: Indices
    threshold: Table
    left: Indices
    right: Indices
    value: Table

    def at(self, rows: Table) -> Table:
        node = np.zeros(len(rows), dtype=np.int64)
        for _ in range(_DEPTH):
            feature = self.feature[node]
            down = rows[np.arange(len(rows)), np.maximum(feature, 0)] <= self.threshold[node]
            node = np.where(feature < 0, node, np.where(down, self.left[node], self.right[node]))
        found: Table = self.value[node]
        return found


@dataclass(slots=True)
class Learnt:
    """Logistic regression, corrected by gradient-boosted trees (scikit-learn), over one row per distinct answer of a
    question. The regression sees how many say it and the posteriors of independent arms, by the router's scores and by
    the arms' records on the skill (`LogOdds`); the trees also see who says it and who says otherwise, the scores of
    these, how long their drafts are for them, and what the answer looks like (`TRAITS`). With few questions there is little for the
    trees to correct.

    Source: ours; stacking over answers in the sense of LLM-Blender's rankers, with features that need no text. `fit` is
    given drafts in plan order and also learns from their beginnings (one draft, two drafts …), so that it may be asked
    after any number of drafts. `sure` is P(right), a probability as far as the calibration data allow. The trees are kept
    as arrays; no pickle. Without `looks` it does not see what an answer looks like: those cues are of how a test is made.
    """

    seed: int = 0
    looks: bool = True
    base_: LogOdds = field(default_factory=LogOdds, init=False, repr=False, compare=False)
    start_: Table = field(default_factory=lambda: np.zeros(_PLAIN + 1), init=False, repr=False, compare=False)
    trees_: tuple[_Tree, ...] = field(default=(), init=False, repr=False, compare=False)
    arms_: tuple[str, ...] = field(default=(), init=False, repr=False, compare=False)
    length_: Table = field(default_factory=lambda: np.zeros((2, 0)), init=False, repr=False, compare=False)

    def fit(self, ballots: Ballots, right: Table) -> Self:
        """Learn from every beginning of every question's drafts; the scores should be of a router that was not fitted on
        these questions. Raises InputError when all answers are right, or all wrong."""
        from sklearn.ensemble import GradientBoostingClassifier  # noqa: PLC0415 - half a second
        from sklearn.linear_model import LogisticRegression  # noqa: PLC0415

        self.arms_ = tuple(arm.name for arm in ballots.arms)
        self.length_ = _lengths(ballots)
        self.base_ = LogOdds().fit(ballots, right)
        parts = [self._rows(ballots.until(np.full(len(ballots), seen))) for seen in _beginnings(ballots.arm.shape[1])]
        rows = np.concatenate([part for _, _, part in parts])
        target = np.concatenate([right[question, slot] for question, slot, _ in parts]) >= 0.5
        if len(rows) > _MOST:
            some = np.sort(np.random.default_rng(self.seed).permutation(len(rows))[:_MOST])
            rows, target = rows[some], target[some]
        if target.all() or not target.any():
            raise InputError(
                f"all {len(target)} answers are {'right' if target.any() else 'wrong'}: there is nothing to learn from",
                remedy="measure questions of mixed difficulty",
            )
        first = LogisticRegression(C=1.0, max_iter=1000).fit(rows[:, :_PLAIN], target)
        self.start_ = np.concatenate([first.coef_[0], first.intercept_])
        model = GradientBoostingClassifier(
            init=_Start(first),
            n_estimators=_TREES,
            learning_rate=_RATE,
            max_depth=_DEPTH,
            subsample=0.5,
            max_features=0.2,
            min_samples_leaf=min(max(_LEAST, len(rows) // 200), max(1, len(rows) // 20)),
            random_state=self.seed,
        ).fit(rows, target)
        self.trees_ = tuple(_tree(each.tree_) for each in model.estimators_[:, 0])
        return self

    def combine(self, ballots: Ballots) -> Verdicts:
        """The answer with the highest P(right). Raises InputError before `fit`, or for arms it has not seen."""
        slot, sure = np.full(len(ballots), -1), np.zeros(len(ballots))
        question, place, rows = self._rows(ballots)
        if len(rows):
            probable = np.full(ballots.arm.shape, -1.0)
            probable[question, place] = self._probable(rows)
            slot = best_slot(probable, probable >= 0)
            sure = np.maximum(probable[np.arange(len(ballots)), np.maximum(slot, 0)], 0.0)
        return Verdicts(slot, sure)

    def _probable(self, rows: Table) -> Table:
        total = rows[:, :_PLAIN] @ self.start_[:-1] + self.start_[-1]
        rows = rows.astype(np.float32)  # as scikit-learn compares them with thresholds
        for tree in self.trees_:
            total += _RATE * tree.at(rows)
        found: Table = 1 / (1 + np.exp(-total))
        return found

    def _rows(self, ballots: Ballots) -> tuple[Indices, Indices, Table]:
        """One row per distinct answer: its question, the slot that gave it first, and its features."""
        if not self.arms_:
            raise InputError("the learnt aggregator has not been fitted", remedy="coe fit answers")
        arm = ballots.places(self.arms_)
        found = evidence(ballots.score, ballots.code, ballots.options)
        same = equal_answers(ballots.code)
        answered = ballots.code >= 0
        question, slot = np.nonzero(found.first)
        says = same[question, slot]
        against = answered[question] & ~says
        score = ballots.score[question]
        mean, spread = self.length_
        place = np.maximum(arm, 0)
        length = np.where(arm >= 0, (np.log1p(ballots.length) - mean[place]) / spread[place], 0.0)[question]
        rivals = np.where(found.first, found.votes, 0)[question]
        heavy = np.where(found.first, found.weight, 0.0)[question]
        rows = np.arange(len(question))
        rivals[rows, slot], heavy[rows, slot] = 0, 0.0
        votes, weight = found.votes[question, slot], found.weight[question, slot]
        asked = (arm >= 0).sum(axis=1)[question]
        rival, heaviest = rivals.max(axis=1, initial=0), heavy.max(axis=1, initial=0.0)
        known = self.base_.evidence(ballots)
        columns = [
            _logit(found.probable[question, slot]),  # the first ones are the regression's: `_PLAIN`
            _logit(known.probable[question, slot]),
            votes / np.maximum(asked, 1),
            (votes - rival) / np.maximum(asked, 1),
            weight - heaviest,
            known.weight[question, slot],
            votes,
            rival,
            votes - rival,
            asked,
            found.first.sum(axis=1)[question],
            ((arm >= 0) & ~answered).sum(axis=1)[question],
            weight,
            heaviest,
            (says * score).max(axis=1, initial=0.0),
            (against * score).max(axis=1, initial=0.0),
            (says * score).sum(axis=1) / np.maximum(votes, 1),
            score[rows, slot],
            (says * length).sum(axis=1) / np.maximum(votes, 1),
            (against * length).sum(axis=1) / np.maximum(against.sum(axis=1), 1),
            ballots.options[question],
            *(ballots.traits[question, slot].T if self.looks else ()),
        ]
        voices = np.zeros((len(question), len(self.arms_)))
        silent = np.zeros_like(voices)
        lengths = np.zeros_like(voices)
        for at in range(ballots.arm.shape[1]):
            own = arm[question, at]
            known = own >= 0
            spot = rows[known], own[known]
            voices[spot] += np.where(says[known, at], 1.0, np.where(answered[question[known], at], -1.0, 0.0))
            silent[spot] += ~answered[question[known], at]
            lengths[spot] = length[known, at]
        return question, slot, np.column_stack([*columns, voices, silent, lengths])


def _logit(probable: Table) -> Table:
    inside = np.clip(probable, _EDGE, 1 - _EDGE)
    found: Table = np.log(inside / (1 - inside))
    return found


class _Start:
    """A fitted regression on the first columns, as the boosting wants what it starts from."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def fit(self, rows: Table, target: Table, sample_weight: Table | None = None) -> _Start:
        """It is fitted already."""
        return self

    def predict_proba(self, rows: Table) -> Table:
        """[n, 2]."""
        found: Table = self.model.predict_proba(rows[:, :_PLAIN])
        return found


def _beginnings(most: int) -> list[int]:
    """How many drafts to look at: each count up to four, then each half as many again, and all."""
    found = [1]
    while found[-1] < most:
        found.append(min(most, max(found[-1] + 1, found[-1] * 3 // 2)))
    return found


def _lengths(ballots: Ballots) -> Table:
    """Mean and spread of each arm's log length, [2, arm]."""
    here = ballots.arm >= 0
    place, value = ballots.arm[here], np.log1p(ballots.length[here])
    arms = len(ballots.arms)
    count = np.maximum(np.bincount(place, minlength=arms), 1)
    mean = np.bincount(place, value, arms) / count
    spread = np.sqrt(np.bincount(place, (value - mean[place]) ** 2, arms) / count)
    return np.stack([mean, np.where(spread > 0, spread, 1.0)])


def _tree(tree: Any) -> _Tree:
    leaf = tree.children_left < 0
    return _Tree(
        feature=np.where(leaf, -1, tree.feature).astype(np.int64),
        threshold=tree.threshold.astype(np.float64),
        left=np.where(leaf, 0, tree.children_left).astype(np.int64),
        right=np.where(leaf, 0, tree.children_right).astype(np.int64),
        value=tree.value[:, 0, 0].astype(np.float64),
    )
