"""Selection rules and votes on recorded answers: what each way to answer would have said, and what it would have cost."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from composer.learning.grid import Grid
from routers.types import Indices, Outcomes

Table = NDArray[np.float64]


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
