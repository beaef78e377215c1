"""How well each arm did on each skill, derived from outcomes whenever it is needed and never stored."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from routers.errors import RouterError
from routers.perarm import need_outcomes
from routers.types import Arm, Outcomes, Questions

Table = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Records:
    """One row per arm, one column per skill. An arm's row depends on its own outcomes alone.

    `right` sums scores over the observed questions of a skill (several samples of one question count as their mean),
    `count` counts these questions, both [arm, skill]. `overall` [arm] is the share right over the profile's mix of
    skills: each skill counts by its number of questions, whichever of them the arm was asked, and as wrong where it
    was asked none. So an arm measured on its own skill alone does not pass for good at everything. `mix` [skill + 1] is
    that number of questions (last: the unlabelled ones).
    """

    arms: tuple[Arm, ...]
    skills: tuple[str, ...]
    right: Table
    count: Table
    overall: Table
    mix: Table

    @classmethod
    def of(cls, questions: Questions, outcomes: Outcomes) -> Records:
        """The records of these outcomes; a question with several skills counts fully in each of them.

        Raises RouterError when nothing was observed, or a score is not in [0, 1].
        """
        need_outcomes(outcomes)
        skills, labels = label_matrix(questions)
        strata = _strata(labels)
        return cls._counted(questions, outcomes, skills, strata, strata.sum(axis=0))

    def plus(self, questions: Questions, outcomes: Outcomes) -> Records:
        """With the new arms of `outcomes`; the others' rows are the same. A skill nobody knew yet is not counted.

        Raises RouterError for an arm that has a record already.
        """
        if twice := {arm.name for arm in self.arms} & {arm.name for arm in outcomes.arms}:
            raise RouterError(f"{', '.join(sorted(twice))} is an arm already\n  next: remove it first")
        need_outcomes(outcomes)
        strata = _strata(label_matrix(questions, self.skills)[1])
        new = self._counted(questions, outcomes, self.skills, strata, self.mix)
        return Records(
            (*self.arms, *new.arms),
            self.skills,
            np.concatenate([self.right, new.right]),
            np.concatenate([self.count, new.count]),
            np.concatenate([self.overall, new.overall]),
            self.mix,
        )

    def without(self, name: str) -> Records:
        """Less one arm. Raises RouterError for one that is not there, or for the last one."""
        keep = [place for place, arm in enumerate(self.arms) if arm.name != name]
        if not keep or len(keep) == len(self.arms):
            raise RouterError(f"{name!r} cannot be removed from {', '.join(arm.name for arm in self.arms)}")
        return Records(
            tuple(self.arms[i] for i in keep),
            self.skills,
            self.right[keep],
            self.count[keep],
            self.overall[keep],
            self.mix,
        )

    def of_arm(self, name: str) -> dict[str, NDArray[np.float64]]:
        """One arm's rows. Raises RouterError for an arm that is not there."""
        for place, arm in enumerate(self.arms):
            if arm.name == name:
                return {
                    "right": self.right[place],
                    "count": self.count[place],
                    "overall": np.array(self.overall[place]),
                }
        raise RouterError(f"no arm is called {name!r}")

    @classmethod
    def _counted(
        cls, questions: Questions, outcomes: Outcomes, skills: tuple[str, ...], strata: Table, mix: Table
    ) -> Records:
        scores = outcomes.matrix(len(questions))
        seen = ~np.isnan(scores)
        right, count = np.where(seen, scores, 0.0).T @ strata, seen.T.astype(float) @ strata
        overall = (right / np.maximum(count, 1)) @ mix / mix.sum()
        return cls(outcomes.arms, skills, right[:, :-1], count[:, :-1], overall, mix)

    @property
    def net(self) -> Table:
        """Right minus wrong, [arm, skill]: what METHODS A calls P; 0 where nothing was observed."""
        return 2 * self.right - self.count

    def log_odds(self, prior: float) -> Table:
        """Smoothed log-odds of being right, [arm, skill], with `prior` pseudo-counts on each side; unobserved is 0."""
        odds: Table = np.log((self.right + prior) / (self.count - self.right + prior))
        return odds

    def share(self, prior: float) -> Table:
        """The share answered right, [arm, skill], shrunk with `prior` pseudo-counts towards the arm's overall share."""
        shrunk: Table = (self.right + prior * self.overall[:, None]) / (self.count + prior)
        return shrunk

    def as_dict(self) -> dict[str, dict[str, tuple[float, float]]]:
        """Per arm and skill (sum of scores, questions), leaving out what was not observed."""
        return {
            arm.name: {
                skill: (float(self.right[row, column]), float(self.count[row, column]))
                for column, skill in enumerate(self.skills)
                if self.count[row, column] > 0
            }
            for row, arm in enumerate(self.arms)
        }


def label_matrix(questions: Questions, known: tuple[str, ...] | None = None) -> tuple[tuple[str, ...], Table]:
    """The skills named by the labels, sorted (or the `known` ones), and which question needs which, as 0/1 [question, skill]."""
    names = tuple(sorted({skill for own in questions.skills for skill in own})) if known is None else known
    column = {name: place for place, name in enumerate(names)}
    labels = np.zeros((len(questions), len(names)))
    for row, own in enumerate(questions.skills):
        labels[row, [column[name] for name in own if name in column]] = 1
    return names, labels


def at_home(questions: Questions, outcomes: Outcomes) -> Outcomes:
    """The same outcomes, whose arms know their domain: the skill on which an arm is furthest ahead of the mean of all
    arms (shares shrunk as `Records.share` does, by ten questions). Without two skills nobody has one, nor has
    an arm without an outcome.
    """
    skills = {name for own in questions.skills for name in own}
    if len(skills) < 2 or not len(outcomes.arm):
        return outcomes
    records = Records.of(questions, outcomes)
    share = records.share(10.0)
    ahead = (share - share.mean(axis=0)).argmax(axis=1)
    return replace(
        outcomes,
        arms=tuple(
            replace(arm, domain=records.skills[int(place)]) if seen else arm
            for arm, place, seen in zip(outcomes.arms, ahead, records.count.sum(axis=1), strict=True)
        ),
    )


def _strata(labels: Table) -> Table:
    """The labels, and the unlabelled as one more group."""
    found: Table = np.column_stack([labels, labels.sum(axis=1) == 0]).astype(float)
    return found


def need_labels(questions: Questions) -> None:
    """Raise RouterError when no question is labelled with a skill."""
    if not any(questions.skills):
        raise RouterError(
            "no profile question is labelled with a skill\n  next: give each row of the labelled set a `task`"
        )


def generalist_place(arms: tuple[Arm, ...], generalist: str | None) -> int | None:
    """The generalist's column. Raises RouterError when no arm has that name."""
    if generalist is None:
        return None
    names = [arm.name for arm in arms]
    if generalist not in names:
        raise RouterError(
            f"the generalist {generalist!r} is not one of the arms\n  next: name one of {', '.join(sorted(names))}"
        )
    return names.index(generalist)


def fallback_row(overall: Table, generalist: int | None) -> Table:
    """Scores [arm] for a question of no known skill, from the arms' overall shares: the generalist keeps its own, and
    nobody else is credited with more than half of that; without a generalist all keep theirs."""
    if generalist is None:
        return overall
    own = max(float(overall[generalist]), float(np.finfo(np.float32).eps))
    row: Table = np.clip(overall, 0, own) / 2
    row[generalist] = own
    return row
