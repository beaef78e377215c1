"""The skill router: asks the arms whose past results on a question's skills are best (Symbolic-MoE; METHODS A)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from routers.errors import NotFittedError, RouterError
from routers.keywords import KeywordFinder
from routers.records import Records, Table, fallback_row, generalist_place
from routers.skills import Found, SkillFinder
from routers.types import Arm, Array, Outcomes, Questions, Reason

ScoreMode = Literal["expected", "power", "softmax"]
Record = Literal["net", "log_odds"]

_PRIOR = 2.0  # pseudo-counts of a share
_TOLD = 0.1  # weaker skills are left out of the explanation


@dataclass(slots=True)
class SkillRouter:
    """Finds a question's skills among the profile's and scores each arm by its record on them.

    What differs from the source: skills are found by embedding the question against the profile's labelled questions,
    with weights that sum to at most 1, instead of by a keyword model (no token is generated); a question outside the
    profile falls back to the `generalist` (None: to the arms' overall records) instead of being mapped to whatever is
    nearest; scores are given, drawing is left to the selection rule.

    `score_mode`:
    - `expected` (default, ours): P(right) = sum over skills of weight x the arm's share right on the skill. Global
      competency enters as the prior of that share, not as a factor.
    - `power` (as released): local suitability S times global competency G, both from `record` (`net`: right minus
      wrong, as released; `log_odds`: smoothed, so that many questions of a skill weigh no more than few). The score is
      the probability that one draw recruits the arm.
    - `softmax` (after the paper's text): softmax(share on the skills x overall share / `temperature`).
    In a pool of specialists the factor G gives the arm with the lowest total next to no weight even where it is best;
    hence the default. Scores of `power` and `softmax` sum to 1 over the arms, so a new arm moves the others' scores.
    In no mode does it move another arm's record.

    `floor` is the cosine under which a question has no known skill (None: chosen at fit, see `SkillFinder`).
    `keywords`: skills are named by a language model instead (as released): it annotates profile questions that come
    without labels, and every question that is scored, whose keywords are then mapped to the profile's (`KeywordFinder`).
    Learnt values end with an underscore.
    """

    generalist: str | None = None
    score_mode: ScoreMode = "expected"
    record: Record = "net"
    temperature: float = 0.5
    floor: float | None = None
    keywords: KeywordFinder | None = None
    keywords_: KeywordFinder | None = field(default=None, init=False, repr=False, compare=False)
    finder_: SkillFinder | None = field(default=None, init=False, repr=False, compare=False)
    records_: Records | None = field(default=None, init=False, repr=False, compare=False)
    ids_: tuple[str, ...] = field(default=(), init=False, repr=False, compare=False)
    generalist_: int | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        _one_of("score_mode", self.score_mode, ("expected", "power", "softmax"))
        _one_of("record", self.record, ("net", "log_odds"))
        if self.temperature <= 0:
            raise RouterError(f"temperature is {self.temperature}\n  next: give a number above 0")

    @property
    def arms(self) -> tuple[Arm, ...]:
        """The arms of the columns of `score`."""
        return self._fitted()[1].arms

    @property
    def floor_used(self) -> float:
        """The floor in force: the setting, or what `fit` chose on the given questions."""
        return self._fitted()[0].floor_

    def fit(self, questions: Questions, outcomes: Outcomes) -> Self:
        """Learn skills from labelled questions and records from outcomes (cells nobody ran may be missing).

        Raises RouterError when there are no labels, no outcomes, or no arm called like the generalist.
        """
        self.keywords_ = None
        if self.keywords is not None:
            questions = replace(questions, skills=self.keywords.labelled(questions))
        records = Records.of(questions, outcomes)
        if self.keywords is not None:
            self.keywords_ = replace(self.keywords).fit(records.skills)
        self.generalist_ = generalist_place(records.arms, self.generalist)
        self.finder_ = SkillFinder(floor=self.floor).fit(questions)
        self.records_, self.ids_ = records, questions.ids
        return self

    def score(self, questions: Questions) -> Array:
        """Scores in [0, 1], shape (len(questions), len(arms)); what they mean is up to `score_mode`."""
        finder, records = self._fitted()
        weights = self._weights(finder, questions)
        rest = fallback_row(records.overall, self.generalist_)
        if self.score_mode == "expected":
            scores = weights @ records.share(_PRIOR).T + (1 - weights.sum(axis=1, keepdims=True)) * rest
        else:
            recruit = self._power(records, weights) if self.score_mode == "power" else self._softmax(records, weights)
            missing = weights.sum(axis=1) == 0
            recruit[missing] = rest / rest.sum() if rest.sum() > 0 else 1 / len(rest)
            scores = recruit
        bounded: Array = np.clip(scores, 0, 1).astype(np.float32)
        return bounded

    def explain(self, questions: Questions) -> list[Reason]:
        """The skills found, the nearest profile questions, and why the generalist was fallen back to, if it was."""
        finder, _ = self._fitted()
        found = replace(finder.find(questions.vectors), weights=self._weights(finder, questions))
        return [self._reason(found, row, finder.floor_) for row in range(len(questions))]

    def add_arm(self, questions: Questions, outcomes: Outcomes) -> Self:
        """Learn the new arms' records; skills stay as they were found at `fit`. With `power` and `softmax`, whose scores
        sum to 1 over the pool, the others' scores move; their records do not."""
        records = self._fitted()[1]
        if self.keywords_ is not None:
            questions = replace(questions, skills=self.keywords_.labelled(questions))
        self.records_ = records.plus(questions, outcomes)
        return self

    def remove_arm(self, name: str) -> Self:
        """Forget an arm. Raises RouterError for the generalist, an arm that is not there, or the last one."""
        if name == self.generalist:
            raise RouterError(f"{name} is the generalist\n  next: fit again with another one")
        self.records_ = self._fitted()[1].without(name)
        self.generalist_ = generalist_place(self.records_.arms, self.generalist)
        return self

    def learnt(self, name: str) -> Mapping[str, NDArray[Any]]:
        """An arm's record."""
        return self._fitted()[1].of_arm(name)

    def records(self) -> dict[str, dict[str, tuple[float, float]]]:
        """Per arm and skill (sum of scores, questions observed); an arm's record comes from its own outcomes alone."""
        return self._fitted()[1].as_dict()

    def _weights(self, finder: SkillFinder, questions: Questions) -> Table:
        if self.keywords_ is None:
            return finder.weights(questions.vectors)
        return self.keywords_.weights(questions.text)

    def _power(self, records: Records, weights: Table) -> Table:
        values = records.net if self.record == "net" else records.log_odds(1.0)
        competency = global_competency(values.sum(axis=1), self.temperature)
        return recruit_weights(weights @ values.T, competency)

    def _softmax(self, records: Records, weights: Table) -> Table:
        if self.record == "net":
            local = weights @ (records.right / np.maximum(records.count, 1)).T
        else:
            local = 1 / (1 + np.exp(-(weights @ records.log_odds(1.0).T)))
        raised = np.exp(local * records.overall / self.temperature)
        normal: Table = raised / raised.sum(axis=1, keepdims=True)
        return normal

    def _reason(self, found: Found, row: int, floor: float) -> Reason:
        nearest = tuple(
            (self.ids_[int(place)], round(float(cosine), 4))
            for place, cosine in zip(found.nearest[row], found.cosine[row], strict=True)
        )
        pairs = sorted(zip(found.skills, found.weights[row], strict=True), key=lambda pair: (-pair[1], pair[0]))
        skills = tuple((skill, round(float(weight), 4)) for skill, weight in pairs if weight >= _TOLD)
        if found.weights[row].any():
            return Reason(skills=skills, nearest=nearest)
        taker = f"left to {self.generalist}" if self.generalist is not None else "arms are ranked by overall record"
        why = (
            "none of the known skills stands out"
            if found.near[row]
            else f"the nearest known question has cosine {nearest[0][1]:.2f}, under the floor {floor:.2f}"
        )
        return Reason(nearest=nearest, fallback=f"{why}: {taker}")

    def _fitted(self) -> tuple[SkillFinder, Records]:
        if self.finder_ is None or self.records_ is None:
            raise NotFittedError("the skill router has not been fitted\n  next: call fit(questions, outcomes)")
        return self.finder_, self.records_


def global_competency(totals: Table, temperature: float = 0.5) -> Table:
    """G, shape (arms,), from each arm's total over all skills, normalised as in the released code.

    >>> global_competency(np.array([10.0, 5.0, -5.0])).round(4).tolist()
    [0.6772, 0.3201, 0.0026]
    >>> global_competency(np.array([10.0, 5.0, 0.0])).tolist()
    [0.8, 0.2, 0.0]
    """
    low = totals.min()
    shifted = totals - low + 1 if low < 0 else totals
    if not shifted.any():
        return np.full(len(totals), 1 / len(totals))
    raised = (shifted / shifted.max()) ** (1 / temperature)
    competency: Table = raised / raised.sum()
    return competency


def recruit_weights(suitability: Table, competency: Table) -> Table:
    """The probability that one draw recruits each arm, [n, arm]; rows sum to 1.

    `suitability` is S [n, arm], `competency` G [arm]. Arms with S > 0 share the draw by S * G; where there is none, all
    share it by (S - min S + 1) * G.

    >>> recruit_weights(np.array([[2.0, 1.0, -1.0], [-3.0, -1.0, -1.0]]), np.array([0.25, 0.5, 0.25])).round(3).tolist()
    [[0.5, 0.5, 0.0], [0.1, 0.6, 0.3]]
    """
    lifted = suitability - suitability.min(axis=1, keepdims=True) + 1
    weights = np.where((suitability > 0).any(axis=1, keepdims=True), np.maximum(suitability, 0), lifted) * competency
    total = weights.sum(axis=1, keepdims=True)
    # only arms of zero competency are suitable: nothing is left to tell them apart but S
    weights = np.where(total > 0, weights, np.maximum(suitability, 0))
    normal: Table = weights / weights.sum(axis=1, keepdims=True)
    return normal


def _one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise RouterError(f"{name} is {value!r}\n  next: give one of {', '.join(known)}")
