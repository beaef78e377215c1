"""Selection rules and votes on recorded answers: what each way to answer would have said, and what it would have cost."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from composer.recorded import Recorded
from routers.types import Arm, Array, Indices, Outcomes

Table = NDArray[np.float64]
_FREE = 10  # answers that a wrong arm may spread over where there are no options to choose from
_EDGE = 0.02


@dataclass(frozen=True, slots=True)
class Grid:
    """Recorded answers as [question, arm]: `right` (0 where the arm was not run), `code` (equal answers of a question
    have equal numbers; -1 where none could be extracted), `cost`; `options` [question]; `voted`: answers are known."""

    arms: tuple[Arm, ...]
    right: Table
    code: Indices
    cost: Table
    options: Indices
    voted: bool

    @classmethod
    def of(cls, record: Recorded) -> Grid:
        """The first sample of every cell. Cost is the recorded one, else the answer's characters."""
        outcomes = record.outcomes
        first = outcomes.sample == 0
        question, arm = outcomes.question[first], outcomes.arm[first]
        shape = (len(record), len(outcomes.arms))
        right, cost = np.zeros(shape), np.zeros(shape)
        code = np.full(shape, -1, dtype=np.int64)
        known: dict[str, int] = {}
        numbers = [-1 if answer is None else known.setdefault(answer, len(known)) for answer in outcomes.answer]
        right[question, arm] = outcomes.score[first]
        code[question, arm] = np.array(numbers, dtype=np.int64)[first]
        priced = not bool(np.isnan(outcomes.cost).any())
        cost[question, arm] = (outcomes.cost if priced else outcomes.length)[first]
        return cls(outcomes.arms, right, code, cost, record.options, record.voted)

    def take(self, rows: Indices) -> Grid:
        """The questions at `rows`."""
        return Grid(self.arms, self.right[rows], self.code[rows], self.cost[rows], self.options[rows], self.voted)


@dataclass(frozen=True, slots=True)
class Played:
    """What a way to answer came to, per question: right (0 to 1), calls, cost, and the arm whose answer was taken."""

    right: Table
    calls: Table
    cost: Table
    arm: Indices


def ask(grid: Grid, chosen: Indices, weights: Table | None = None) -> Played:
    """Ask the `chosen` arms ([n, most], padded with -1, best first), and take the answer with the largest sum of
    `weights` [n, arm] (None: one each); a draw goes to the answer of the arm asked first. Where answers were not
    recorded, the first arm's is taken."""
    rows = np.arange(len(chosen))[:, None]
    asked = chosen >= 0
    place = np.maximum(chosen, 0)
    calls = asked.sum(axis=1).astype(float)
    cost = np.where(asked, grid.cost[rows, place], 0).sum(axis=1)
    if chosen.shape[1] == 1 or not grid.voted:
        best = place[:, 0]
    else:
        code = np.where(asked, grid.code[rows, place], -1)
        weight = np.ones(chosen.shape) if weights is None else weights[rows, place]
        support = np.einsum("nij,ni->nj", (code[:, :, None] == code[:, None, :]) & (code >= 0)[:, :, None], weight)
        support = np.where(code >= 0, support, -np.inf)
        best = place[rows[:, 0], (support >= support.max(axis=1, keepdims=True) - 1e-9).argmax(axis=1)]
    return Played(grid.right[rows[:, 0], best], calls, cost, best)


def consistent(outcomes: Outcomes, grid: Grid, arm: int) -> Played:
    """Self-consistency of one arm: the most frequent answer of all its samples, at the price of all of them."""
    n = len(grid.right)
    right, calls, cost = np.zeros(n), np.zeros(n), np.zeros(n)
    own = np.flatnonzero(outcomes.arm == arm)
    votes: list[Counter[str]] = [Counter() for _ in range(n)]
    marks: dict[tuple[int, str], float] = {}
    priced = not bool(np.isnan(outcomes.cost).any())
    for cell in own[np.argsort(outcomes.sample[own], kind="stable")]:
        row, answer = int(outcomes.question[cell]), outcomes.answer[cell]
        calls[row] += 1
        cost[row] += float(outcomes.cost[cell] if priced else outcomes.length[cell])
        if answer is not None:
            votes[row][answer] += 1
            marks.setdefault((row, answer), float(outcomes.score[cell]))
    for row, counted in enumerate(votes):
        if counted:
            right[row] = marks[row, counted.most_common(1)[0][0]]
    return Played(right, calls, cost, np.full(n, arm))


def until_two_agree(grid: Grid, order: Indices, most: int, weights: Table | None = None) -> Played:
    """Ask arms in `order` ([n, arm], best first) one after the other, and stop as soon as two gave the same answer, or
    at `most`; then vote. With `most` arms at hand this needs fewer calls than asking all of them."""
    most = min(most, order.shape[1])
    rows = np.arange(len(order))
    code = grid.code[rows[:, None], order]
    stop = np.full(len(order), most)
    for seen in range(most - 1, 1, -1):
        part = code[:, :seen]
        agree = ((part[:, :, None] == part[:, None, :]) & (part >= 0)[:, :, None]).sum(axis=(1, 2)) > (part >= 0).sum(1)
        stop[agree] = seen
    return ask(grid, np.where(np.arange(most) < stop[:, None], order[:, :most], -1), weights)


def vote_weights(probable: Array, options: Indices) -> Table:
    """How much an arm's answer counts, [n, arm]: log(P (m - 1) / (1 - P)) for m options, the log-likelihood ratio of
    its answer being right against each wrong one where wrong answers spread evenly (weighted majority, Nitzan and
    Paroush 1982, for more than two answers). At least a little above 0: no answer counts against itself."""
    p = np.clip(probable.astype(np.float64), _EDGE, 1 - _EDGE)
    spread = np.where(options > 1, options, _FREE)[:, None] - 1
    weights: Table = np.maximum(np.log(p * np.maximum(spread, 1) / (1 - p)), _EDGE)
    return weights
