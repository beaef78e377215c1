"""What routers read and write: arms, questions, outcomes, and the two protocols that decide who is asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Indices = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Arm:
    """What is routed: a name that only the registry understands, a price (any unit, the same for all arms), and the
    domain it is most at home in (`routers.records.at_home`), None where nobody knows."""

    name: str
    price: float = 1.0
    domain: str | None = None


@dataclass(frozen=True, slots=True)
class Questions:
    """A batch of questions as columns. `vectors` is float32 [n, dim] with unit rows; `skills` holds each question's
    known skills (empty where unlabelled: at serving time they are never known)."""

    ids: tuple[str, ...]
    text: tuple[str, ...]
    vectors: Array
    skills: tuple[tuple[str, ...], ...] = ()

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: Sequence[int] | Indices) -> Questions:
        """The same columns at `rows`, in that order."""
        return Questions(
            ids=tuple(self.ids[i] for i in rows),
            text=tuple(self.text[i] for i in rows),
            vectors=self.vectors[np.asarray(rows, dtype=np.int64)],
            skills=tuple(self.skills[i] for i in rows) if self.skills else (),
        )


@dataclass(frozen=True, slots=True)
class Outcomes:
    """How well arms did on questions, one row per observed (question, arm, sample); cells nobody ran are absent.

    `question` and `arm` are indices into the questions' rows and into `arms`; `score` is in [0, 1]; `answer` is the
    extracted answer (None: nothing could be extracted); `length` counts characters; `cost` is NaN where unknown.
    """

    arms: tuple[Arm, ...]
    question: Indices
    arm: Indices
    score: Array
    sample: Indices
    answer: tuple[str | None, ...]
    length: Indices
    cost: Array

    @classmethod
    def scored(cls, arms: Sequence[Arm], question: Indices, arm: Indices, score: Array) -> Outcomes:
        """Outcomes of (question, arm) cells with nothing known but their score."""
        zeros = np.zeros(len(question), dtype=np.int64)
        unknown = np.full(len(question), np.nan, dtype=np.float32)
        return cls(tuple(arms), question, arm, score, zeros, (None,) * len(question), zeros, unknown)

    def matrix(self, n_questions: int) -> NDArray[np.float64]:
        """Mean score over samples as [question, arm]; NaN where unobserved."""
        total = np.zeros((n_questions, len(self.arms)))
        count = np.zeros_like(total)
        np.add.at(total, (self.question, self.arm), self.score)
        np.add.at(count, (self.question, self.arm), 1)
        return np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)

    def costs(self, n_questions: int) -> NDArray[np.float64]:
        """Mean cost over samples as [question, arm]; NaN where unobserved or where a sample's cost is unknown."""
        return replace(self, score=self.cost).matrix(n_questions)

    def take(self, rows: Sequence[int] | Indices) -> Outcomes:
        """The outcomes of the questions at `rows`, renumbered to their new places."""
        chosen = np.asarray(rows, dtype=np.int64)
        most = max(int(self.question.max(initial=-1)), int(chosen.max(initial=-1)))
        place = np.full(most + 1, -1, dtype=np.int64)
        place[chosen] = np.arange(len(chosen))
        return self._cells(np.flatnonzero(place[self.question] >= 0), question=place)

    def only(self, arms: Sequence[str]) -> Outcomes:
        """The outcomes of the arms of these names, in this order. Raises KeyError for a name that is not there."""
        column = {arm.name: place for place, arm in enumerate(self.arms)}
        wanted = [column[name] for name in arms]
        place = np.full(len(self.arms), -1, dtype=np.int64)
        place[wanted] = np.arange(len(wanted))
        kept = self._cells(np.flatnonzero(place[self.arm] >= 0), arm=place)
        return replace(kept, arms=tuple(self.arms[i] for i in wanted))

    def _cells(self, keep: Indices, question: Indices | None = None, arm: Indices | None = None) -> Outcomes:
        """The rows at `keep`; `question` and `arm` map old places to new ones."""
        questions, arms = self.question[keep], self.arm[keep]
        return Outcomes(
            arms=self.arms,
            question=questions if question is None else question[questions],
            arm=arms if arm is None else arm[arms],
            score=self.score[keep],
            sample=self.sample[keep],
            answer=tuple(self.answer[i] for i in keep),
            length=self.length[keep],
            cost=self.cost[keep],
        )


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a question is scored as it is, for people and for the trace.

    `skills`: (name, weight) found in the question, strongest first; `nearest`: (profile question id, cosine);
    `fallback`: why nobody but the generalist is trusted, None where skills were found; `note`: what else decided.
    Signals of `routers.coverage`, None where nobody measured them: `gap` is the conformal p-value of the question being
    inside what the arms are known to do, `away` the mean distance (1 - cosine) to its neighbours, `margin` the distance of
    the two best scores, `entropy` how mixed the domains of its neighbours are (0 to 1); `flags` names those that crossed
    their threshold.
    """

    skills: tuple[tuple[str, float], ...] = ()
    nearest: tuple[tuple[str, float], ...] = ()
    fallback: str | None = None
    note: str | None = None
    gap: float | None = None
    away: float | None = None
    margin: float | None = None
    entropy: float | None = None
    flags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Route:
    """The arms chosen for one question, best first, with every arm's score and the reasons."""

    arms: tuple[str, ...]
    scores: Mapping[str, float]
    reason: Reason = field(default_factory=Reason)


class Router(Protocol):
    """Estimates how well each arm will answer each question. The constructor takes settings only and reads no file."""

    @property
    def arms(self) -> tuple[Arm, ...]:
        """The arms of the columns of `score`; raises NotFittedError before `fit`."""
        ...

    def fit(self, questions: Questions, outcomes: Outcomes) -> Self:
        """Learn from outcomes; a second fit forgets the first."""
        ...

    def score(self, questions: Questions) -> Array:
        """Scores in [0, 1], shape (len(questions), len(arms)). Pure: same questions, same scores, alone or in a batch."""
        ...

    def explain(self, questions: Questions) -> list[Reason]:
        """A reason per question."""
        ...

    def add_arm(self, questions: Questions, outcomes: Outcomes) -> Self:
        """Learn the arms of `outcomes`, which are new, from outcomes on `questions`; nothing of another arm is relearnt.

        Raises RouterError for an arm that is there already, NotFittedError before `fit`.
        """
        ...

    def remove_arm(self, name: str) -> Self:
        """Forget an arm as if it had never been fitted. Raises RouterError for one that is not there."""
        ...

    def learnt(self, name: str) -> Mapping[str, NDArray[Any]]:
        """What was learnt of one arm, as named arrays: what adding or removing another one leaves as it was."""
        ...


@runtime_checkable
class Updating(Protocol):
    """A router that learns from outcomes as they come."""

    def update(self, questions: Questions, outcomes: Outcomes) -> Self:
        """Learn from more outcomes of known arms, on top of what is known."""
        ...


@runtime_checkable
class Weighing(Protocol):
    """A router whose scores and reasons come of the same work."""

    def weigh(self, questions: Questions) -> tuple[Array, list[Reason]]:
        """What `score` and `explain` return, for the price of one."""
        ...


def weighed(router: Router, questions: Questions) -> tuple[Array, list[Reason]]:
    """Scores and reasons, in one go if the router can."""
    if isinstance(router, Weighing):
        return router.weigh(questions)
    return router.score(questions), router.explain(questions)


@dataclass(frozen=True, slots=True)
class Seen:
    """What one row has shown so far: the arms asked, in plan order, and the canonical answers that landed (None: none).

    `id` is the question's, for rules that draw; empty where nobody told it. `flags` are those of its `Reason`.
    """

    asked: tuple[str, ...] = ()
    answers: tuple[tuple[str, str | None], ...] = ()
    id: str = ""
    flags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Ask:
    """Ask these arms next, in this order."""

    arms: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Stop:
    """Enough has been seen; combine it."""


@dataclass(frozen=True, slots=True)
class Abstain:
    """Nobody here should answer; say so instead of guessing."""

    why: str


Decision = Ask | Stop | Abstain


class Policy(Protocol):
    """Turns scores and what has been seen into the next step of each row. Pure, so tuning and serving share it."""

    def next(self, scores: Array, arms: Sequence[Arm], seen: Sequence[Seen]) -> list[Decision]:
        """One decision per row of `scores` (shape (n, arms)); `seen[i]` belongs to row i."""
        ...


@runtime_checkable
class Foreseeing(Protocol):
    """A policy that can tell whom it may ask later, so that all of it can be done while a host is open."""

    def later(self, scores: Array, arms: Sequence[Arm], seen: Sequence[Seen]) -> list[tuple[str, ...]]:
        """Per row the arms that may still be asked beyond those of `seen`, in the order they would be; whatever `next`
        asks later is among them."""
        ...
