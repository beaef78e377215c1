"""Cascades found on stored outcomes: ask a cheap arm first, go on where its answer is not trusted (METHODS I.2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise, permutations
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray

from routers.errors import RouterError
from routers.stats import entropy
from routers.types import Arm

Table = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Chain:
    """Arms asked one after the other: the answer of arm i is accepted when its confidence is at least `thresholds[i]`;
    the last one's always. `accuracy`, `cost` and `calls` are means over the questions it was found on."""

    arms: tuple[str, ...]
    thresholds: tuple[float, ...]
    accuracy: float = float("nan")
    cost: float = float("nan")
    calls: float = float("nan")

    def taken(self, confidence: Table, arms: Sequence[Arm]) -> NDArray[np.int64]:
        """The stage whose answer each row takes, int64 [n]; `confidence` is [n, arm]."""
        places = [[arm.name for arm in arms].index(name) for name in self.arms]
        found = np.full(len(confidence), len(places) - 1)
        for stage in range(len(places) - 2, -1, -1):
            found[confidence[:, places[stage]] >= self.thresholds[stage]] = stage
        return found


def find_chains(
    confidence: Table,
    right: Table,
    cost: Table,
    arms: Sequence[Arm],
    *,
    longest: int = 3,
    grid: int = 10,
    most_arms: int = 8,
) -> list[Chain]:
    """The chains that no cheaper chain beats, cheapest first, with all [n, arm] arrays over the same questions.

    FrugalGPT's learnt cascade (Chen et al. 2023) without its trained scorer: `confidence` is whatever says how likely an
    arm's answer is right. Ordered chains of up to `longest` arms; each stage's threshold is taken from `grid` quantiles
    of the confidences of the questions that reach it (a public implementation takes the first arm's for all). The cost
    of an escalation includes the calls already made. Of more than `most_arms` arms only those are tried that are on the
    front by themselves, then the most accurate.

    Raises RouterError when a cost is unknown.
    """
    if np.isnan(cost).any():
        raise RouterError("an answer's cost is unknown\n  next: give every arm a price, or every outcome a cost")
    names = [arm.name for arm in arms]
    used = _worth_trying(right, cost, most_arms)
    found: list[Chain] = []
    for length in range(1, longest + 1):
        for order in permutations(used, length):
            mean = cost.mean(axis=0)
            if any(mean[a] > mean[b] for a, b in pairwise(order)):
                continue  # a dearer arm first never saves
            found += _thresholded(confidence, right, cost, order, names, grid)
    return _front(found)


def _thresholded(
    confidence: Table, right: Table, cost: Table, order: Sequence[int], names: Sequence[str], grid: int
) -> list[Chain]:
    """Chains of this order: thresholds stage by stage, each on the questions that reach the stage."""
    everyone = np.arange(len(right))
    partial: list[tuple[tuple[float, ...], NDArray[np.int64], Table, Table]] = [
        ((), everyone, np.zeros(len(right)), np.zeros(len(right)))
    ]
    for stage, arm in enumerate(order):
        wider = []
        for thresholds, here, marks, spent in partial:
            now = spent.copy()
            now[here] += cost[here, arm]
            if stage == len(order) - 1:
                done = marks.copy()
                done[here] = right[here, arm]
                wider.append((thresholds, here[:0], done, now))
                continue
            own = confidence[here, arm]
            edges = np.unique(np.quantile(own, np.linspace(0.1, 0.9, grid - 1))) if len(own) else np.zeros(0)
            for edge in edges:
                accepted = own >= edge
                done = marks.copy()
                done[here[accepted]] = right[here[accepted], arm]
                wider.append(((*thresholds, float(edge)), here[~accepted], done, now))
        partial = wider
    found = []
    arms = tuple(names[i] for i in order)
    for thresholds, _, marks, spent in partial:
        chain = Chain(arms, thresholds)
        calls = chain.taken(confidence, [Arm(name) for name in names]) + 1
        found.append(replace(chain, accuracy=float(marks.mean()), cost=float(spent.mean()), calls=float(calls.mean())))
    return found


def _worth_trying(right: Table, cost: Table, most: int) -> list[int]:
    quality, price = right.mean(axis=0), cost.mean(axis=0)
    order = sorted(range(len(price)), key=lambda i: (price[i], -quality[i]))
    best, front = -1.0, []
    for i in order:
        if quality[i] > best:
            best = quality[i]
            front.append(i)
    rest = [i for i in sorted(order, key=lambda i: -quality[i]) if i not in front]
    return sorted((front + rest)[:most], key=lambda i: price[i])


def _front(chains: Sequence[Chain]) -> list[Chain]:
    best, kept = -1.0, []
    for chain in sorted(chains, key=lambda chain: (chain.cost, -chain.accuracy, len(chain.arms), chain.arms)):
        if chain.accuracy > best + 1e-12:
            best = chain.accuracy
            kept.append(chain)
    return kept


Meta = Literal["threshold", "double", "gain", "pomdp"]
_HELP, _LEAVE = (
    np.array([1.0, 1.0, 0.0]),
    np.array([0.0, 1.0, 0.0]),
)  # right answers where it needs help, is fine, hopeless


@dataclass(frozen=True, slots=True)
class MetaVerifier:
    """AutoMix's decision (Aggarwal et al. 2023, code): the small arm checked its own answer several times, `v` is the
    share of checks that passed, in `bins` bins; does the question go to the large arm?

    `threshold`: where v is below a threshold. `double`: only where v lies between two (low v may mean hopeless). Of all
    cuts `fit` takes those whose summed gain of large over small, less `price` per call, is highest on its questions.
    `gain`: in the bins whose smoothed mean gain exceeds the price, losses counted. `pomdp`, the one-step POMDP: a question
    needs help (small wrong, large right), is fine (small right) or is hopeless (both wrong); P(state | v) comes of smoothed
    counts, and the large arm is taken to be right on what is fine, so help pays in the first state alone, and goes where
    its expected utility exceeds that of leaving the question. `benefit_per_cost` compares the kinds.
    """

    kind: Meta = "gain"
    bins: int = 8
    price: float = 0.0  # worth of one call of the large arm, in right answers
    marks: tuple[bool, ...] = field(default=())

    def fit(self, v: Table, small: Table, large: Table) -> Self:
        """Learn from shares v, and what both arms were right, each [n]. Returns the fitted verifier."""
        place = self._bin(v)
        n = np.bincount(place, minlength=self.bins)
        gain = np.bincount(place, large - small, self.bins)
        if self.kind in ("threshold", "double"):
            best, marks = -np.inf, np.zeros(self.bins, dtype=bool)
            for low in range(self.bins if self.kind == "double" else 1):
                for high in range(low, self.bins + 1):
                    own = np.zeros(self.bins, dtype=bool)
                    own[low:high] = True
                    worth = gain[own].sum() - self.price * n[own].sum()
                    if worth > best + 1e-12:
                        best, marks = worth, own
        elif self.kind == "gain":
            overall = float((large - small).mean())
            marks = (gain + overall) / (n + 1) > self.price
        else:
            states = np.stack([(1 - small) * large, small, (1 - small) * (1 - large)], axis=1)
            counts = np.stack([np.bincount(place, own, self.bins) for own in states.T], axis=1)
            chance = (counts + states.mean(axis=0)) / (n + 1)[:, None]
            marks = chance @ (_HELP - self.price) > chance @ _LEAVE
        return replace(self, marks=tuple(bool(mark) for mark in marks))

    def escalate(self, v: Table) -> NDArray[np.bool_]:
        """Which questions go to the large arm. Raises RouterError before `fit`."""
        if not self.marks:
            raise RouterError("the meta-verifier has not been fitted\n  next: call fit(v, small, large)")
        return np.array(self.marks)[self._bin(v)]

    def _bin(self, v: Table) -> NDArray[np.int64]:
        return np.minimum((np.asarray(v, dtype=float) * self.bins).astype(np.int64), self.bins - 1)


def benefit_per_cost(
    accuracy: float, cost: float, small: tuple[float, float], large: tuple[float, float]
) -> tuple[float, float]:
    """AutoMix's incremental benefit per cost of a method over the small arm, and its lift over going from small to large:
    (IBC, (IBC - IBC_base) / IBC_base). Pairs are (accuracy, cost).

    >>> benefit_per_cost(0.75, 20.0, (0.5, 1.0), (0.8, 50.0))
    (0.013157894736842105, 1.1491228070175437)
    """
    own = (accuracy - small[0]) / (cost - small[1])
    base = (large[0] - small[0]) / (large[1] - small[1])
    return own, (own - base) / base


def dispersion(probable: Table) -> tuple[Table, Table]:
    """How far from uniform each row of class probabilities [n, C] is, by variance and by entropy, [n] each: 0 for a uniform
    row, 1 for a one-hot one; the confidence of Mowst's gate (METHODS I.2). Raises RouterError for under two classes.

    >>> [own.round(4).tolist() for own in dispersion(np.array([[0.7, 0.1, 0.1, 0.1]]))]
    [[0.36], [0.3216]]
    """
    classes = probable.shape[1]
    if classes < 2:
        raise RouterError(f"{classes} classes have no dispersion\n  next: give the probabilities of two or more")
    variance: Table = classes / (classes - 1) * ((probable - 1 / classes) ** 2).sum(axis=1)
    return variance, 1 - entropy(probable)
