"""A policy that runs one, two, or all strategies of an expert, by how far the best one stands out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Self

import numpy as np
from annotated_types import Ge, Gt, Le

from routers.errors import RouterError
from routers.perarm import Table
from routers.select import ranked
from routers.types import Arm, Array, Ask, Decision, Indices, Seen, Stop

ALL = 0
"""What `branches` tells of a question that all strategies are run for."""

_ROUNDING = 1e-6  # 0.5 - 0.4 is less than 0.1 by rounding alone, and scores have seven digits


def suitable(scores: Array, prices: Sequence[float], temperature: float, price: float) -> Table:
    """How suitable each strategy is, float64 [n, strategy], rows sum to 1: the softmax at `temperature` of its score less
    `price` times its price, in shares of the dearest one's.

    >>> suitable(np.array([[0.9, 0.5]], dtype=np.float32), (1.0, 1.0), 0.5, 0.25).round(3).tolist()
    [[0.69, 0.31]]
    """
    dearest = max(prices, default=0.0)
    share = np.asarray(prices, dtype=np.float64) / (dearest if dearest > 0 else 1.0)
    worth = (scores.astype(np.float64) - price * share) / temperature
    powers = np.exp(worth - worth.max(axis=1, keepdims=True, initial=-np.inf))
    found: Table = powers / powers.sum(axis=1, keepdims=True)
    return found


def branches(probable: Table, confidence: float, margin: float) -> Indices:
    """How many strategies are run, [n], by their suitability [n, strategy]: 1 where p1 >= `confidence` and p1 - p2 >=
    `margin`, 2 where only p1 >= `confidence`, ALL below it.

    >>> branches(np.array([[0.5, 0.4, 0.1], [0.5, 0.45, 0.05], [0.34, 0.33, 0.33]]), 0.35, 0.1).tolist()
    [1, 2, 0]
    """
    first, second = _best_two(probable)
    sure, apart = first >= confidence - _ROUNDING, first - second >= margin - _ROUNDING
    found: Indices = np.where(sure, np.where(apart, 1, 2), ALL).astype(np.int64)
    return found


def _best_two(probable: Table) -> tuple[Table, Table]:
    """The suitability of the best strategy and of the runner-up, [n] each; that of nobody is 0."""
    ordered = -np.sort(-np.column_stack([probable, np.zeros(len(probable))]), axis=1)
    return ordered[:, 0], ordered[:, 1]


@dataclass(frozen=True, slots=True)
class Prism:
    """PRISM's choice among strategies (METHODS G.1): of the expert whose arm scores best, one strategy is asked where it is
    suitable enough (`confidence`, the paper's tau_c) and stands out (`margin`, tau_a), the best two where it does not stand
    out, all where none is suitable enough; all at once, best first. The aggregator `prism` takes the answer as PRISM does.

    What differs: the paper trains an adapter of a language model on suitability and takes its softmax; here suitability is the
    softmax at `temperature` of the router's scores, less `price` times the relative price, as METHODS' own version trains its
    targets. The paper has four strategies of one model, an ensemble of two programs among them; here they are the arms of one expert (`expert_of`: arm to expert; by
    default all arms are one expert's), and an expert with one arm is asked for that. Arms of one expert on one model have one
    price per token, so `price` decides something only where their prices were measured (recorded outcomes).

    The thresholds are the paper's, for its own scores, and must be recalibrated (`sharing`): the best of m strategies has 1/m
    at least, so with two or three of them, or with scores that hardly differ, 0.35 puts nearly all questions into one branch."""

    confidence: Annotated[float, Ge(0), Le(1)] = 0.35
    margin: Annotated[float, Ge(0), Le(1)] = 0.10
    temperature: Annotated[float, Gt(0)] = 0.5
    price: Annotated[float, Ge(0)] = 0.25
    expert_of: Mapping[str, str] = field(default_factory=dict[str, str])

    def next(self, scores: Array, arms: Sequence[Arm], seen: Sequence[Seen]) -> list[Decision]:
        """Ask the strategies of the branch where nothing was asked yet, else Stop."""
        decisions: list[Decision] = [Stop()] * len(seen)
        fresh = [row for row, own in enumerate(seen) if not own.asked]
        for places, rows in self._experts(scores[fresh], arms).items():
            own = [arms[place] for place in places]
            probable = self._suitable(scores[fresh][rows][:, list(places)], own)
            many = branches(probable, self.confidence, self.margin)
            for row, order, count in zip(rows, ranked(probable.astype(np.float32), own), many.tolist(), strict=True):
                names = tuple(own[int(place)].name for place in order)
                decisions[fresh[row]] = Ask(names if count == ALL else names[:count])
        return decisions

    def sharing(self, scores: Array, arms: Sequence[Arm], *, single: float, dual: float) -> Self:
        """With the thresholds that would have sent these shares of the questions to one and to two strategies, as nearly as
        equal values allow; `scores` [n, arm] are a router's on questions it has not learnt from. Raises RouterError for
        shares that are none, or no question with several strategies."""
        if min(single, dual) < 0 or single + dual > 1 + _ROUNDING:
            raise RouterError(f"{single} and {dual} are no shares\n  next: give shares that are 0 to 1 together")
        tops = [
            np.column_stack(_best_two(self._suitable(scores[rows][:, list(places)], [arms[p] for p in places])))
            for places, rows in self._experts(scores, arms).items()
            if len(places) > 1
        ]
        if not tops:
            raise RouterError("no question has several strategies\n  next: score questions on arms of one expert")
        first, second = np.concatenate(tops).T
        confidence = _cut(first, 1 - single - dual)
        gap = (first - second)[first >= confidence]
        margin = _cut(gap, dual / (single + dual) if single + dual > 0 else 0.0)
        return replace(self, confidence=min(1.0, confidence), margin=min(1.0, margin))

    def _suitable(self, scores: Array, arms: Sequence[Arm]) -> Table:
        return suitable(scores, [arm.price for arm in arms], self.temperature, self.price)

    def _experts(self, scores: Array, arms: Sequence[Arm]) -> dict[tuple[int, ...], list[int]]:
        """The places of an expert's arms, and the rows whose best scored arm is one of them."""
        experts = [self.expert_of.get(arm.name, arm.name) if self.expert_of else "" for arm in arms]
        found: dict[tuple[int, ...], list[int]] = {}
        for row, best in enumerate(ranked(scores, arms)[:, 0].tolist() if arms else []):
            places = tuple(place for place, expert in enumerate(experts) if expert == experts[best])
            found.setdefault(places, []).append(row)
        return found


def _cut(values: Table, below: float) -> float:
    """A threshold that this share of the values is below."""
    ordered = np.append(np.sort(values), 1.0 + 10 * _ROUNDING)
    return float(ordered[round(below * len(values))])
