"""The references a router has to beat: rules on words, a classifier on words, chance, and one arm for everything."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from routers.errors import NotFittedError, RouterError
from routers.records import Records, Table, fallback_row, generalist_place, need_labels
from routers.types import Arm, Array, Outcomes, Questions, Reason

_PRIOR = 2.0  # as in the skill router: the references differ from it in how skills are found, and in nothing else


@dataclass(slots=True)
class _Learnt:
    """What `fit` of every reference keeps: the records, and the row of scores for a question of no known skill."""

    records_: Records | None = field(default=None, init=False, repr=False, compare=False)
    rest_: Table = field(default_factory=lambda: np.zeros(0), init=False, repr=False, compare=False)
    generalist_: str | None = field(default=None, init=False, repr=False, compare=False)

    @property
    def arms(self) -> tuple[Arm, ...]:
        """The arms of the columns of `score`."""
        return self._known().arms

    def records(self) -> dict[str, dict[str, tuple[float, float]]]:
        """Per arm and skill (sum of scores, questions observed)."""
        return self._known().as_dict()

    def add_arm(self, questions: Questions, outcomes: Outcomes) -> Self:
        """Learn the new arms' records."""
        self.records_ = self._known().plus(questions, outcomes)
        return self._settle()

    def remove_arm(self, name: str) -> Self:
        """Forget an arm. Raises RouterError for the generalist, an arm that is not there, or the last one."""
        if name == self.generalist_:
            raise RouterError(f"{name} is the generalist\n  next: fit again with another one")
        self.records_ = self._known().without(name)
        return self._settle()

    def learnt(self, name: str) -> Mapping[str, NDArray[Any]]:
        """An arm's record."""
        return self._known().of_arm(name)

    def _learn(self, questions: Questions, outcomes: Outcomes, generalist: str | None) -> None:
        records = Records.of(questions, outcomes)
        generalist_place(records.arms, generalist)
        self.records_, self.generalist_ = records, generalist
        self._settle()

    def _settle(self) -> Self:
        records = self._known()
        self.rest_ = fallback_row(records.overall, generalist_place(records.arms, self.generalist_))
        return self

    def _known(self) -> Records:
        if self.records_ is None:
            raise NotFittedError(f"{type(self).__name__} has not been fitted\n  next: call fit(questions, outcomes)")
        return self.records_


@dataclass(slots=True)
class KeywordRouter(_Learnt):
    """A rule router: the skill with the most of its words in the question; its arms by their record on that skill.

    `rules` maps a skill to words or phrases, found case-insensitively and only whole. No hit, a tie between skills, or
    a skill nobody has a record for: left to the `generalist` (None: to the arms' overall records).

    Source: ours, the rules that people write first. What differs from `SkillRouter`: skills are found by words, one for a
    question; records are the same.
    """

    rules: Mapping[str, Sequence[str]]
    generalist: str | None = None

    def fit(self, questions: Questions, outcomes: Outcomes) -> Self:
        """Learn the arms' records; the rules are given. Raises RouterError when no question is labelled."""
        need_labels(questions)
        self._learn(questions, outcomes, self.generalist)
        return self

    def score(self, questions: Questions) -> Array:
        """P(right) by record on the skill the words name, shape (n, arms)."""
        records = self._known()
        shares = records.share(_PRIOR)
        scores = np.tile(self.rest_, (len(questions), 1))
        for row, skill in enumerate(self._skills(questions)):
            if skill in records.skills:
                scores[row] = shares[:, records.skills.index(skill)]
        return scores.astype(np.float32)

    def explain(self, questions: Questions) -> list[Reason]:
        """The skill its words name."""
        known = self._known().skills
        return [
            Reason(skills=((skill, 1.0),)) if skill in known else Reason(fallback="no rule decides")
            for skill in self._skills(questions)
        ]

    def _skills(self, questions: Questions) -> list[str]:
        """The skill of each question; empty where no rule decides."""
        patterns = {
            skill: re.compile("|".join(rf"(?<!\w){re.escape(word)}(?!\w)" for word in words), re.IGNORECASE)
            for skill, words in self.rules.items()
            if words
        }
        found: list[str] = []
        for text in questions.text:
            hits = {skill: len(pattern.findall(text)) for skill, pattern in patterns.items()}
            most = max(hits.values(), default=0)
            best = [skill for skill, count in hits.items() if count == most]
            found.append(best[0] if most > 0 and len(best) == 1 else "")
        return found


@dataclass(slots=True)
class TfidfRouter(_Learnt):
    """Logistic regression on TF-IDF of a question's words gives P(skill); arms by their records on the skills.

    Source: the usual text classifier in front of experts (CoE's category router, METHODS B), with words for an encoder.
    What differs from `SkillRouter`: P(skill) comes of a trained classifier, and nothing is left to the `generalist` for
    want of a skill. Questions without a label are left out; of several labels the first counts.
    """

    generalist: str | None = None
    model_: Any = field(default=None, init=False, repr=False, compare=False)

    def fit(self, questions: Questions, outcomes: Outcomes) -> Self:
        """Learn words and records. Raises RouterError when there is only one skill."""
        from sklearn.feature_extraction.text import TfidfVectorizer  # noqa: PLC0415 heavy, and only for fitting
        from sklearn.linear_model import LogisticRegression  # noqa: PLC0415
        from sklearn.pipeline import make_pipeline  # noqa: PLC0415

        labelled = [row for row, own in enumerate(questions.skills) if own]
        skills = [questions.skills[row][0] for row in labelled]
        if len(set(skills)) < 2:
            raise RouterError("the tfidf reference needs questions of at least two skills")
        self._learn(questions, outcomes, self.generalist)
        model = make_pipeline(
            TfidfVectorizer(token_pattern=r"(?u)\b\w+\b"), LogisticRegression(C=10.0, max_iter=1000, random_state=0)
        )
        self.model_ = model.fit([questions.text[row] for row in labelled], skills)
        return self

    def score(self, questions: Questions) -> Array:
        """P(right) expected over the skills, shape (n, arms)."""
        records = self._known()
        shares = records.share(_PRIOR)
        scores: Array = (self._probable(questions) @ shares.T).astype(np.float32)
        return scores

    def explain(self, questions: Questions) -> list[Reason]:
        """The most probable skills."""
        names = self._known().skills
        return [
            Reason(skills=tuple((names[int(i)], float(row[i])) for i in np.argsort(-row, kind="stable")[:3]))
            for row in self._probable(questions)
        ]

    def _probable(self, questions: Questions) -> Table:
        """P(skill), shape (n, skills of the records)."""
        names = self._known().skills
        probable = np.zeros((len(questions), len(names)))
        if len(questions):
            columns = [names.index(str(skill)) for skill in self.model_.classes_]
            probable[:, columns] = self.model_.predict_proba(list(questions.text))
        return probable


@dataclass(slots=True)
class RandomRouter(_Learnt):
    """Chance, but the same for the same question and seed.

    Source: the usual floor. What differs from drawing: numbers are hashes, so that a question keeps its arms.
    """

    seed: int = 0

    def fit(self, questions: Questions, outcomes: Outcomes) -> Self:
        """Learn which arms there are."""
        self._learn(questions, outcomes, None)
        return self

    def score(self, questions: Questions) -> Array:
        """A number in [0, 1) drawn from seed, question text and arm name, shape (n, arms)."""
        arms = self.arms
        draws = [[_draw(f"{self.seed}\0{text}\0{arm.name}") for arm in arms] for text in questions.text]
        return np.array(draws, dtype=np.float32).reshape(len(questions), len(arms))

    def explain(self, questions: Questions) -> list[Reason]:
        """There is none."""
        self._known()
        return [Reason(fallback="drawn at random")] * len(questions)


@dataclass(slots=True)
class BestSingle(_Learnt):
    """The arm with the best overall record, for every question.

    Source: the usual reference (best single model). What differs: it is chosen on the profile, not on the questions that
    are then scored, and an arm is judged by what it was measured on.
    """

    def fit(self, questions: Questions, outcomes: Outcomes) -> Self:
        """Learn the overall records."""
        self._learn(questions, outcomes, None)
        return self

    def score(self, questions: Questions) -> Array:
        """Every arm's overall share right, the same row for each question, shape (n, arms)."""
        self._known()
        return np.tile(self.rest_, (len(questions), 1)).astype(np.float32)

    def explain(self, questions: Questions) -> list[Reason]:
        """No question is looked at."""
        self._known()
        return [Reason(fallback="arms are ranked by overall record")] * len(questions)


def _draw(text: str) -> float:
    """A number in [0, 1) from a hash; 24 bits, so that float32 holds it exactly."""
    return int.from_bytes(hashlib.sha256(text.encode(errors="replace")).digest()[:3], "big") / 2**24


@dataclass(slots=True)
class Unprofiled:
    """What routes where records decide nothing: the generalist gets every question. It looks at no vector.

    `why` is the reason that every question is told.
    """

    arms: tuple[Arm, ...]
    generalist: str
    why: str = "no expert has a record yet, so the generalist is asked"

    def fit(self, questions: Questions, outcomes: Outcomes) -> Self:
        """Learn nothing."""
        return self

    def score(self, questions: Questions) -> Array:
        """1 for the generalist, 0 for the others, shape (n, arms)."""
        row = np.array([float(arm.name == self.generalist) for arm in self.arms], dtype=np.float32)
        return np.tile(row, (len(questions), 1))

    def explain(self, questions: Questions) -> list[Reason]:
        """The same for all."""
        return [Reason(fallback=self.why)] * len(questions)

    def add_arm(self, questions: Questions, outcomes: Outcomes) -> Self:
        """Know of one more."""
        self.arms = (*self.arms, *outcomes.arms)
        return self

    def remove_arm(self, name: str) -> Self:
        """Know of one less."""
        self.arms = tuple(arm for arm in self.arms if arm.name != name)
        return self

    def learnt(self, name: str) -> Mapping[str, NDArray[Any]]:
        """Nothing."""
        return {}
