"""The ridge router: closed-form regression of correctness on the question's vector, exact to update (DUME; METHODS I.5)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, Self

import numpy as np

from routers.errors import RouterError
from routers.perarm import Column, PerArm, Table, need_outcomes
from routers.stats import differences
from routers.types import Array, Outcomes, Questions, Reason

Target = Literal["right", "domain"]
_GRID = (3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0)


@dataclass(slots=True)
class RidgeRouter(PerArm):
    """Per arm j: A = sum of x xT, b = sum of x y over the questions it was asked (x: the vector and a 1), and
    w = (A + `penalty` I)^-1 b; the score is w x.

    After DUME's closed-form router (METHODS I.5), with these differences. The target is `right` (how well the arm did,
    so that w x predicts accuracy) or `domain` (as released: 1 where the arm is among the best on the question, of the
    arms in the outcomes at hand: one that comes by `add_arm` is compared with those that come along, and changes no other;
    each column of W, without its bias, scaled to unit norm with the bias divided by the same norm, and a softmax at
    `temperature`). Each arm keeps its own matrix, so that data for one arm move no other. y is taken less the arm's
    mean and the bias is not penalised: an arm without evidence falls back to its mean.

    `update` adds outcomes exactly as if they had been there from the start. With `forget` below 1 A and b are multiplied
    by it before each new observation, in the order of time (DriftMoE's stream in closed form, METHODS I.6). `bonus` adds
    bonus x sqrt(xT (A + penalty I)^-1 x): LinUCB's optimism. `penalty` None: chosen at fit by exact leave-one-out, on the
    differences between a question's arms.
    """

    target: Target = "right"
    penalty: float | None = None
    forget: float = 1.0
    bonus: float = 0.0
    temperature: float = 0.1
    penalty_: float = field(default=30.0, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.target not in ("right", "domain"):
            raise RouterError(f"target is {self.target!r}\n  next: give right or domain")
        if not 0 < self.forget <= 1:
            raise RouterError(f"forget is {self.forget}\n  next: give a number above 0 and up to 1 (1 forgets nothing)")
        if (self.penalty is not None and self.penalty <= 0) or self.temperature <= 0 or self.bonus < 0:
            raise RouterError("penalty and temperature must be above 0, bonus not under 0")

    def update(self, questions: Questions, outcomes: Outcomes) -> Self:
        """Learn from more outcomes of known arms. Raises RouterError for an arm that is not there."""
        need_outcomes(outcomes)
        places = [self._place(arm.name) for arm in outcomes.arms]
        fresh = self._columns(questions, outcomes)  # in the order given: that of time
        columns = list(self.columns_)
        for place, new in zip(places, fresh, strict=True):
            keep = self.forget ** float(new["n"])
            old = columns[place]
            columns[place] = {
                "a": keep * old["a"] + new["a"],
                "b": keep * old["b"] + new["b"],
                "n": old["n"] + new["n"],
            }
        self.columns_, self.stacked_ = tuple(columns), None
        return self

    def _columns(self, questions: Questions, outcomes: Outcomes) -> tuple[Column, ...]:
        scores = outcomes.matrix(len(questions))
        if self.target == "domain":
            best = np.nanmax(np.where(np.isnan(scores), -np.inf, scores), axis=1, keepdims=True)
            scores = np.where(np.isnan(scores), np.nan, (scores == best) & (best > 0))
        rows = self._rows(questions)
        shared: dict[bytes, Table] = {}  # arms asked the same questions have the same matrix
        columns: list[Column] = []
        for score in scores.T:
            seen = ~np.isnan(score)
            n = int(seen.sum())
            weighted = rows[seen] * (self.forget ** np.arange(n - 1, -1, -1))[:, None]  # the last counts fully
            if seen.tobytes() not in shared:
                shared[seen.tobytes()] = weighted.T @ rows[seen]
            columns.append({"a": shared[seen.tobytes()], "b": weighted.T @ score[seen], "n": np.array(float(n))})
        return tuple(columns)

    def _common(self, questions: Questions, outcomes: Outcomes) -> None:
        self.penalty_ = self.penalty or _left_out(self._rows(questions)[:, :-1], outcomes)

    def _rows(self, questions: Questions) -> Table:
        """What is regressed on, [n, features + 1], the last column 1."""
        return with_one(questions.vectors)

    def _stack(self) -> tuple[Table, list[Table]]:
        """W [dim + 1, arm], and the inverse of each arm's matrix where a bonus needs it."""
        inverses: dict[int, Table] = {}
        weights: list[Table] = []
        for column in self.columns_:
            a, b = column["a"], column["b"]
            if id(a) not in inverses:
                inverses[id(a)] = np.asarray(np.linalg.inv(a + self._ridge(len(a))), dtype=np.float64)
            own: Table = inverses[id(a)] @ b if float(column["n"]) else _nothing(len(a))
            weights.append(own)
        wide: Table = np.stack(weights, axis=1)
        if self.target == "domain":
            norm = np.linalg.norm(wide[:-1], axis=0)
            wide = wide / np.where(norm > 0, norm, 1)
        return wide, [inverses[id(column["a"])] for column in self.columns_] if self.bonus else []

    def _ridge(self, width: int) -> Table:
        """The penalty on the diagonal; the bias is next to free, so that it can take the mean."""
        diagonal = np.full(width, self.penalty_)
        diagonal[-1] = 1e-6 * self.penalty_
        return np.diag(diagonal)

    def _score(self, questions: Questions) -> Table:
        weights, inverses = self.stacked_
        rows = self._rows(questions)
        found: Table = rows @ weights
        if self.target == "domain":
            raised = np.exp((found - found.max(axis=1, keepdims=True)) / self.temperature)
            found = raised / raised.sum(axis=1, keepdims=True)
        for place, inverse in enumerate(inverses):
            found[:, place] += self.bonus * np.sqrt(np.maximum(np.einsum("nd,de,ne->n", rows, inverse, rows), 0))
        return found

    def _explain(self, questions: Questions) -> list[Reason]:
        asked = sum(float(column["n"]) for column in self.columns_)
        return [Reason(note=f"by ridge regression on {asked:.0f} outcomes (penalty {self.penalty_:g})")] * len(
            questions
        )


def with_one(vectors: Array | Table) -> Table:
    """With a column of ones, for the bias."""
    rows = np.ones((len(vectors), vectors.shape[1] + 1))
    rows[:, :-1] = vectors  # float64: a row's result must not depend on how many rows are multiplied together
    return rows


def _nothing(width: int) -> Table:
    """The weights of an arm that was asked nothing: one half, whatever the question."""
    weights = np.zeros(width)
    weights[-1] = 0.5
    return weights


def _left_out(vectors: Table, outcomes: Outcomes) -> float:
    """The penalty with the smallest squared error when each question is left out in turn (by the hat matrix).

    The error is that of differences between a question's arms: how hard a question is for all of them is easier to
    foretell, and would ask for too small a penalty.
    """
    scores = differences(outcomes.matrix(len(vectors)))
    errors = np.zeros(len(_GRID))
    groups: dict[bytes, list[int]] = {}
    for place, score in enumerate(scores.T):
        groups.setdefault((~np.isnan(score)).tobytes(), []).append(place)
    for places in groups.values():
        seen = ~np.isnan(scores[:, places[0]])
        if not seen.any():
            continue
        rows = vectors[seen]
        rows, target = rows - rows.mean(axis=0), scores[seen][:, places]
        target = target - target.mean(axis=0)
        values, axes = np.linalg.eigh(rows.T @ rows)
        turned = rows @ axes
        answer = turned.T @ target
        for place, penalty in enumerate(_GRID):
            shrunk = turned / (np.maximum(values, 0) + penalty)
            leverage = np.einsum("nd,nd->n", shrunk, turned) + 1 / len(rows)
            residual = (target - shrunk @ answer) / np.maximum(1 - leverage, 1e-6)[:, None]
            errors[place] += float((residual**2).sum())
    return _GRID[int(np.argmin(errors))]
