"""Policies that ask one arm more as long as it is worth it, in the order of the scores, and stop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from routers.errors import NotFittedError, RouterError
from routers.evidence import Evidence, evidence
from routers.perarm import Table
from routers.select import ranked
from routers.types import Abstain, Arm, Array, Ask, Decision, Foreseeing, Indices, Policy, Seen, Stop

Marks = NDArray[np.bool_]
_NEVER = 1.1  # a threshold that no probability reaches
_ROUNDS = 3
_SIGNS = 8


@dataclass(frozen=True, slots=True)
class Asked:
    """What rows have shown, as columns in plan order, [n, T]: the place of the arm asked (-1: none yet), the code of its
    answer (equal for equal answers of a row, -1: none), its score; and what their answers amount to."""

    place: Indices
    code: Indices
    score: Table
    found: Evidence

    @classmethod
    def of(cls, scores: Array, arms: Sequence[Arm], seen: Sequence[Seen]) -> Asked:
        """The columns of `seen`, one row each."""
        column = {arm.name: place for place, arm in enumerate(arms)}
        most = max((len(row.asked) for row in seen), default=0)
        place = np.full((len(seen), most), -1)
        code = np.full((len(seen), most), -1)
        for row, own in enumerate(seen):
            answers = dict(own.answers)
            codes: dict[str, int] = {}
            for slot, name in enumerate(own.asked):
                place[row, slot] = column[name]
                answer = answers.get(name)
                if answer is not None:
                    code[row, slot] = codes.setdefault(answer, len(codes))
        return cls.weighed(scores, place, code)

    @classmethod
    def weighed(cls, scores: Array, place: Indices, code: Indices) -> Asked:
        """The columns with their scores and evidence."""
        score = np.where(place >= 0, np.take_along_axis(scores.astype(np.float64), np.maximum(place, 0), axis=1), 0.0)
        free = np.zeros(len(place), dtype=np.int64)  # a policy does not know how many options there are
        return cls(place, code, score, evidence(score, code, free))

    @property
    def count(self) -> Indices:
        """How many arms each row has asked."""
        counted: Indices = (self.place >= 0).sum(axis=1)
        return counted

    @property
    def votes(self) -> tuple[Indices, Indices]:
        """The votes of the most common answer and of the runner-up, [n] each."""
        votes = np.where(self.found.first, self.found.votes, 0)
        wide = np.column_stack([votes, np.zeros((len(votes), 2), dtype=np.int64)])
        ordered = -np.sort(-wide, axis=1)
        return ordered[:, 0], ordered[:, 1]

    @property
    def believed(self) -> Table:
        """The probability of the most probable answer if arms err independently, [n]; 0 without an answer."""
        if not self.place.shape[1]:
            return np.zeros(len(self.place))
        most: Table = np.where(self.found.first, self.found.probable, 0.0).max(axis=1)
        return most


def _in_turn(
    scores: Array, arms: Sequence[Arm], seen: Sequence[Seen], first: int, most: int, enough: Callable[[Asked], Marks]
) -> list[Decision]:
    """Ask the `first` best arms at once, then one more in the order of the scores until `enough` [n] or `most`."""
    order = ranked(scores, arms)
    most = min(most, len(arms))
    done = enough(Asked.of(scores, arms, seen)) if any(row.asked for row in seen) else np.zeros(len(seen), dtype=bool)
    decisions: list[Decision] = []
    for row, own in enumerate(seen):
        if not own.asked:
            decisions.append(Ask(tuple(arms[int(i)].name for i in order[row, : min(first, most)])))
        elif len(own.asked) >= most or done[row]:
            decisions.append(Stop())
        else:
            left = (arms[int(i)].name for i in order[row] if arms[int(i)].name not in own.asked)
            decisions.append(Ask((next(left),)))
    return decisions


def _left(scores: Array, arms: Sequence[Arm], seen: Sequence[Seen], most: int) -> list[tuple[str, ...]]:
    """The arms that `_in_turn` may still ask of each row, in the order of the scores."""
    found = []
    for own, order in zip(seen, ranked(scores, arms), strict=True):
        names = [arms[int(place)].name for place in order]
        left = max(0, min(most, len(arms)) - len(own.asked))
        found.append(tuple(name for name in names if name not in own.asked)[:left])
    return found


@dataclass(frozen=True, slots=True)
class Agreeing:
    """Asks until `votes` arms have given the same answer, or the most common one can no longer be caught up with, at most
    `most` arms. With `votes` above half of `most` the vote of all of them is never changed, only cut short."""

    votes: int = 2
    most: int = 8

    def __post_init__(self) -> None:
        if not 1 <= self.votes <= self.most:
            raise RouterError(f"votes is {self.votes} of {self.most}\n  next: give votes from 1 to most")

    def next(self, scores: Array, arms: Sequence[Arm], seen: Sequence[Seen]) -> list[Decision]:
        """Ask `votes` arms first: fewer can never agree that often."""
        most = min(self.most, len(arms))

        def enough(asked: Asked) -> Marks:
            top, second = asked.votes
            marks: Marks = (top >= self.votes) | (top > second + most - asked.count)
            return marks

        return _in_turn(scores, arms, seen, min(self.votes, most), most, enough)

    def later(self, scores: Array, arms: Sequence[Arm], seen: Sequence[Seen]) -> list[tuple[str, ...]]:
        """The best of the others, as many as may still be asked."""
        return _left(scores, arms, seen, self.most)


@dataclass(frozen=True, slots=True)
class Posterior:
    """Adaptive-Consistency (Aggarwal et al. 2023; METHODS I.3): stops once P(p1 > p2) > `confidence`, where p1 and p2 are
    the shares of the two most common answers, with v1 and v2 votes: 1 - I_0.5(v1 + 1, v2 + 1), the Beta posterior.

    Drafts without an answer vote for nobody. With `weighted` a vote counts its arm's score, scaled so that the mean score
    of the row counts one (ours). Unanimity at 0.95 needs four votes.
    """

    confidence: float = 0.95
    first: int = 2
    most: int = 40
    weighted: bool = False

    def __post_init__(self) -> None:
        if not 0.5 <= self.confidence < 1 or self.first < 1:
            raise RouterError(
                f"confidence is {self.confidence}, first {self.first}\n  next: give 0.5 to 1, and 1 or more"
            )

    def next(self, scores: Array, arms: Sequence[Arm], seen: Sequence[Seen]) -> list[Decision]:
        """Ask `first` arms at once, then one by one."""
        unit = np.maximum(scores.astype(np.float64).mean(axis=1, keepdims=True), 1e-9)

        def enough(asked: Asked) -> Marks:
            if not self.weighted:
                return surely_ahead(*asked.votes) > self.confidence
            same = (asked.code[:, :, None] == asked.code[:, None, :]) & (asked.code >= 0)[:, :, None]
            sums = np.einsum("nij,nj->ni", same, asked.score / unit)
            ordered = -np.sort(
                -np.column_stack([np.where(asked.found.first, sums, 0), np.zeros((len(sums), 2))]), axis=1
            )
            return surely_ahead(ordered[:, 0], ordered[:, 1]) > self.confidence

        return _in_turn(scores, arms, seen, self.first, self.most, enough)

    def later(self, scores: Array, arms: Sequence[Arm], seen: Sequence[Seen]) -> list[tuple[str, ...]]:
        """The best of the others, as many as may still be asked."""
        return _left(scores, arms, seen, self.most)


def surely_ahead(top: Table | Indices, second: Table | Indices) -> Table:
    """P(p1 > p2) by the Beta posterior of METHODS I.3, [n].

    >>> surely_ahead(np.array([3, 4, 5, 6, 8]), np.array([0, 0, 1, 1, 2])).round(4).tolist()
    [0.9375, 0.9688, 0.9375, 0.9648, 0.9673]
    """
    from scipy.special import betainc  # noqa: PLC0415 - 60 ms

    found: Table = 1 - betainc(np.asarray(top) + 1.0, np.asarray(second) + 1.0, 0.5)
    return found


def beginnings(scores: Array, arms: Sequence[Arm], code: Indices) -> list[Asked]:
    """What has been seen after 1, 2 … T drafts; `code` [n, T] are the answers' codes in the order of the scores."""
    order = ranked(scores, arms)[:, : code.shape[1]]
    return [Asked.weighed(scores, order[:, : seen + 1], code[:, : seen + 1]) for seen in range(code.shape[1])]


@dataclass(frozen=True, slots=True)
class Cascade:
    """Goes on while the most probable answer is believed less than the stage's threshold; a stage beyond the last
    threshold stops.

    FrugalGPT's cascade (Chen et al. 2023; METHODS I.2) with the posterior of independent arms as its scorer. `fit` takes
    each threshold from quantiles over the questions that reach its stage, the others as they stand, three rounds long (a
    public implementation takes the first arm's confidences for all). One more call has to win `price` right answers.
    """

    price: float = 0.01
    most: int = 8
    thresholds: tuple[float, ...] | None = None

    def fit(self, scores: Array, arms: Sequence[Arm], code: Indices, right: Table) -> Self:
        """Find thresholds where all drafts are known: `code` and `right` [n, T] in the order of the scores; `right` is
        what the answer is worth that is taken after 1, 2 … T drafts."""
        stages = min(self.most, code.shape[1])
        believed = np.stack([asked.believed for asked in beginnings(scores, arms, code[:, :stages])], axis=1)
        paid = right[:, :stages] - self.price * np.arange(stages)
        cuts = np.full(stages, _NEVER)
        cuts[-1] = -np.inf
        rows = np.arange(len(code))
        for _ in range(_ROUNDS):
            for stage in range(stages - 1):
                here = (believed[:, :stage] < cuts[:stage]).all(axis=1)
                if not here.any():
                    continue
                own, now = believed[here, stage], paid[here, stage]
                stop = stage + 1 + (believed[:, stage + 1 :] >= cuts[stage + 1 :]).argmax(axis=1)
                later = paid[rows, stop][here]
                edges = [*np.unique(np.quantile(own, np.linspace(0, 1, 21))), _NEVER]
                cuts[stage] = max(edges, key=lambda edge: float(np.where(own >= edge, now, later).mean()))
        return replace(self, thresholds=tuple(float(cut) for cut in cuts[:-1]))

    def next(self, scores: Array, arms: Sequence[Arm], seen: Sequence[Seen]) -> list[Decision]:
        """Ask one arm after the other. Raises NotFittedError where no thresholds were given or fitted."""
        if self.thresholds is None:
            raise NotFittedError("the cascade has no thresholds\n  next: give thresholds, or run `coe fit answers`")
        edges = np.array([*self.thresholds, -np.inf])

        def enough(asked: Asked) -> Marks:
            marks: Marks = asked.believed >= edges[np.clip(asked.count - 1, 0, len(edges) - 1)]
            return marks

        return _in_turn(scores, arms, seen, 1, min(self.most, len(edges)), enough)

    def later(self, scores: Array, arms: Sequence[Arm], seen: Sequence[Seen]) -> list[tuple[str, ...]]:
        """The best of the others, as many as may still be asked."""
        return _left(scores, arms, seen, min(self.most, len(self.thresholds or ()) + 1))


@dataclass(frozen=True, slots=True)
class Worth:
    """Asks one arm more while that is worth its price: the expected gain in P(right) of going on, and stopping well later,
    against `price` per call (in right answers).

    Source: ours; optimal stopping by backward induction with a regression per stage (Longstaff and Schwartz 2001), on
    stored drafts. A look one call ahead would stop after the first: a second answer alone seldom changes anything.
    `weights` [stage][feature] are what `fit` found: the gain of going on, by ridge regression on what has been seen.
    """

    price: float = 0.01
    most: int = 8
    weights: tuple[tuple[float, ...], ...] | None = None

    def fit(self, scores: Array, arms: Sequence[Arm], code: Indices, right: Table) -> Self:
        """Learn from questions with all drafts known, as `Cascade.fit`."""
        stages = min(self.most, code.shape[1])
        seen = beginnings(scores, arms, code[:, :stages])
        worth = right[:, stages - 1]
        found: list[tuple[float, ...]] = []
        for stage in range(stages - 2, -1, -1):
            rows = _signs(seen[stage], scores, arms)
            gain = worth - self.price - right[:, stage]
            penalty = np.diag([1e-6, *[1.0] * (rows.shape[1] - 1)])
            weights = np.linalg.solve(rows.T @ rows + penalty, rows.T @ gain)
            found.append(tuple(float(weight) for weight in weights))
            worth = np.where(rows @ weights > 0, worth - self.price, right[:, stage])
        return replace(self, weights=tuple(reversed(found)))

    def next(self, scores: Array, arms: Sequence[Arm], seen: Sequence[Seen]) -> list[Decision]:
        """Ask one arm after the other. Raises NotFittedError before `fit` where no weights were given."""
        if self.weights is None:
            raise NotFittedError("the policy has no weights\n  next: run `coe fit answers`")
        stages = np.array([*self.weights, (0.0,) * _SIGNS])

        def enough(asked: Asked) -> Marks:
            own = stages[np.clip(asked.count - 1, 0, len(stages) - 1)]
            marks: Marks = (_signs(asked, scores, arms) * own).sum(axis=1) <= 0
            return marks

        return _in_turn(scores, arms, seen, 1, min(self.most, len(stages)), enough)

    def later(self, scores: Array, arms: Sequence[Arm], seen: Sequence[Seen]) -> list[tuple[str, ...]]:
        """The best of the others, as many as may still be asked."""
        return _left(scores, arms, seen, min(self.most, len(self.weights or ()) + 1))


def _signs(asked: Asked, scores: Array, arms: Sequence[Arm]) -> Table:
    """What tells whether another answer would help, [n, 8]."""
    top, second = asked.votes
    believed = asked.believed
    count = asked.count
    order = ranked(scores, arms)
    coming = np.take_along_axis(scores.astype(np.float64), order, axis=1)
    following = np.where(
        count < coming.shape[1], coming[np.arange(len(coming)), np.minimum(count, coming.shape[1] - 1)], 0.0
    )
    used = np.maximum(count, 1)
    return np.column_stack(
        [
            np.ones(len(count)),
            believed,
            believed**2,
            top / used,
            (top - second) / used,
            second == top,
            following,
            asked.score.max(axis=1, initial=0.0),
        ]
    )


@dataclass(frozen=True, slots=True)
class Abstaining:
    """Does as `policy` does, but abstains instead of stopping where the most probable answer is believed less than
    `below` (of independent arms; 0 abstains never)."""

    policy: Policy
    below: float = 0.2

    def next(self, scores: Array, arms: Sequence[Arm], seen: Sequence[Seen]) -> list[Decision]:
        """The policy's decisions, with `Abstain` and why."""
        believed = Asked.of(scores, arms, seen).believed
        return [
            Abstain(f"the answers are believed {sure:.2f}, under {self.below:g}")
            if isinstance(decision, Stop) and sure < self.below
            else decision
            for decision, sure in zip(self.policy.next(scores, arms, seen), believed, strict=True)
        ]

    def later(self, scores: Array, arms: Sequence[Arm], seen: Sequence[Seen]) -> list[tuple[str, ...]]:
        """Those of the policy."""
        return later_of(self.policy, scores, arms, seen)


def later_of(policy: Policy, scores: Array, arms: Sequence[Arm], seen: Sequence[Seen]) -> list[tuple[str, ...]]:
    """Whom `policy` may still ask; nobody, where it cannot tell."""
    return policy.later(scores, arms, seen) if isinstance(policy, Foreseeing) else [()] * len(seen)


def rehearse(
    policy: Policy,
    scores: Array,
    arms: Sequence[Arm],
    code: Indices,
    ids: Sequence[str] = (),
    flags: Sequence[tuple[str, ...]] = (),
) -> tuple[Indices, Marks]:
    """The loop on recorded answers: whom `policy` asks, in plan order, [n, most] padded with -1, and which rows abstain.

    `code` [n, arm] is what each arm would answer (equal numbers for equal answers of a row, -1: nothing could be read);
    `ids` are the questions', for rules that draw, `flags` their signals. The policy is asked just as the live loop asks it, so both take the same decisions on the same drafts.
    """
    names = {arm.name: place for place, arm in enumerate(arms)}
    n = len(scores)
    seen = [Seen(id=name, flags=own) for name, own in zip(ids or [""] * n, flags or [()] * n, strict=True)]
    abstained = np.zeros(len(scores), dtype=bool)
    open_ = list(range(len(scores)))
    while open_:
        still: list[int] = []
        for row, decision in zip(open_, policy.next(scores[open_], arms, [seen[row] for row in open_]), strict=True):
            if isinstance(decision, Ask):
                asked = (*seen[row].asked, *decision.arms)
                said = [int(code[row, names[name]]) for name in asked]
                answers = tuple((name, None if own < 0 else str(own)) for name, own in zip(asked, said, strict=True))
                seen[row] = replace(seen[row], asked=asked, answers=answers)
                still.append(row)
            else:
                abstained[row] = isinstance(decision, Abstain)
        open_ = still
    place = np.full((len(seen), max((len(row.asked) for row in seen), default=0)), -1)
    for row, own in enumerate(seen):
        place[row, : len(own.asked)] = [names[name] for name in own.asked]
    return place, abstained
