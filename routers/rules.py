"""Selection rules: from rows of scores to the arms that are asked, how many and which."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Protocol, Self

import numpy as np
from annotated_types import Ge, Gt, Le, Lt
from numpy.typing import NDArray

from routers.errors import RouterError
from routers.perarm import Table
from routers.select import NOBODY, Rule, TopK, ranked, top_k
from routers.types import Arm, Array, Indices

__all__ = [
    "NOBODY",
    "Balanced",
    "FittedRule",
    "GroupLimited",
    "NullArm",
    "Recruit",
    "ReluGate",
    "Rule",
    "TopK",
    "TopP",
    "Utility",
    "relu_gate",
]

Marks = NDArray[np.bool_]
Count = Annotated[int, Ge(1)]
Share = Annotated[float, Ge(0), Le(1)]


class FittedRule(Rule, Protocol):
    """A rule with a threshold that is set on scores of calibration questions."""

    def fit(self, scores: Array, arms: Sequence[Arm]) -> Self:
        """The rule with its threshold set."""
        ...


@dataclass(frozen=True, slots=True)
class Recruit:
    """`k` arms drawn in proportion to their scores (raised to `power`): Symbolic-MoE's recruiting (METHODS A.6).

    With `replace` (as released) a strong arm may fill several seats (the policy `Fixed` asks it once: it would say the same
    again); without, the arms are distinct. The draw depends on seed, id (without ids: the row's bytes, so that rows of the
    same scores draw the same) and scores alone. `trim`: arms with under this share of all seats of the
    batch lose them to the others, in proportion to how many these have (A.7; as released it exists and is not called).
    """

    k: Count = 3
    replace: bool = True
    power: Annotated[float, Ge(0)] = 1.0
    trim: Annotated[float, Ge(0), Lt(1)] = 0.0
    seed: int = 0

    def choose(self, scores: Array, arms: Sequence[Arm], ids: Sequence[str] = ()) -> Indices:
        """In the order drawn; with `trim` the draw depends on the batch."""
        _check(scores, arms)
        n, width = scores.shape
        seats = self.k if self.replace else min(self.k, width)
        weights = np.maximum(scores.astype(np.float64), 0) ** self.power
        weights[weights.sum(axis=1) == 0] = 1.0
        found = np.full((n, seats), NOBODY, dtype=np.int64)
        for row in range(n):
            found[row] = self._drawn(weights[row], seats, ids[row] if ids else scores[row].tobytes().hex())
        if self.trim and n:
            counts = np.bincount(found[found != NOBODY], minlength=width)
            left = np.where(counts >= self.trim * counts.sum(), counts, 0)
            if left.any():
                for row in np.flatnonzero(((left[found] == 0) & (found != NOBODY)).any(axis=1)).tolist():
                    found[row] = self._refilled(found[row], left, ids[row] if ids else scores[row].tobytes().hex())
        return found

    def _refilled(self, own: Indices, left: Indices, name: str) -> Indices:
        """`own` with the seats of arms that are not `left` drawn anew in proportion to how many seats the others have."""
        kept = own[(own != NOBODY) & (left[own] > 0)]
        weights = left.astype(np.float64)
        if not self.replace:
            weights[kept] = 0
        freed = int((own != NOBODY).sum()) - len(kept)
        drawn = self._drawn(weights, freed, f"{name}:trim") if weights.any() else kept[:0]
        filled = np.full_like(own, NOBODY)
        filled[: len(kept) + len(drawn)] = [*kept, *drawn]
        return filled

    def _drawn(self, weights: Table, seats: int, name: str) -> Indices:
        rng = np.random.default_rng(int.from_bytes(hashlib.sha256(f"{self.seed}:{name}".encode()).digest()[:8], "big"))
        own = np.full(seats, NOBODY, dtype=np.int64)
        most = seats if self.replace else min(seats, int((weights > 0).sum()))
        own[:most] = rng.choice(len(weights), size=most, replace=self.replace, p=weights / weights.sum())
        return own


@dataclass(frozen=True, slots=True)
class TopP:
    """The smallest set of best arms whose scores, as shares of their row's sum (a softmax at `temperature`, if given),
    exceed `p`, the arm that crosses included: Harder Tasks Need More Experts (METHODS I.7). At most `most`.

    Calibrate the scores first: a flat router asks everybody, a sharp wrong one a single arm.
    """

    p: Share = 0.4
    most: Count = 8
    temperature: Annotated[float, Gt(0)] | None = None

    def choose(self, scores: Array, arms: Sequence[Arm], ids: Sequence[str] = ()) -> Indices:
        """Best first."""
        order = ranked(scores, arms)
        sorted_scores = np.take_along_axis(scores.astype(np.float64), order, 1)
        if self.temperature is not None:
            sorted_scores = np.exp((sorted_scores - sorted_scores[:, :1]) / self.temperature)
        total = sorted_scores.sum(axis=1, keepdims=True)
        share = np.divide(sorted_scores, total, out=np.full_like(sorted_scores, 1 / len(arms)), where=total > 0)
        before = np.cumsum(share, axis=1) - share
        return _cut(order, before <= self.p, self.most)


@dataclass(frozen=True, slots=True)
class NullArm:
    """Arms are recruited in order until `nobody further` is worth more: an arm's worth is the chance that it is right
    where all before it are wrong (taken as independent), the null arm's is `price`, that of one more call.

    After AdaMoE's null experts (METHODS I.7), with an expected gain for the trained score.
    """

    price: Annotated[float, Ge(0)] = 0.1
    most: Count = 8

    def choose(self, scores: Array, arms: Sequence[Arm], ids: Sequence[str] = ()) -> Indices:
        """Best first; the first arm is always asked."""
        order = ranked(scores, arms)
        chance = np.take_along_axis(scores.astype(np.float64), order, 1)
        open_ = np.cumprod(1 - chance, axis=1)
        gain = chance * np.column_stack([np.ones(len(chance)), open_[:, :-1]])
        wanted = np.logical_and.accumulate(gain > self.price, axis=1)
        wanted[:, 0] = True
        return _cut(order, wanted, self.most)


@dataclass(frozen=True, slots=True)
class ReluGate:
    """All arms whose score exceeds a threshold, ReLU(score - threshold) > 0, and at least the best one.

    After ReMoE's ReLU gate (METHODS I.7). There an L1 term with an adaptive coefficient drives the mean number of
    active experts to its target during training; here the threshold that meets `calls`, the budget of mean calls, is
    read off the calibration scores.
    """

    calls: float = 2.0
    threshold: float | None = None
    most: int = 8

    def fit(self, scores: Array, arms: Sequence[Arm]) -> ReluGate:
        """Set the threshold so that the mean number of calls on these scores is at most `calls`."""
        _check(scores, arms)
        if self.calls < 1:
            raise RouterError(f"calls is {self.calls}: at least one arm has to be asked")
        best = scores.argmax(axis=1)
        others = np.sort(np.delete(scores.ravel(), np.arange(len(scores)) * scores.shape[1] + best))[::-1]
        room = int((self.calls - 1) * len(scores))
        return replace(self, threshold=float(others[room]) if room < len(others) else -1.0)

    def choose(self, scores: Array, arms: Sequence[Arm], ids: Sequence[str] = ()) -> Indices:
        """Best first. Raises RouterError before `fit` where no threshold was given."""
        if self.threshold is None:
            raise RouterError("the gate has no threshold\n  next: call fit(scores, arms) with calibration scores")
        order = ranked(scores, arms)
        wanted = np.take_along_axis(scores, order, 1) > self.threshold
        wanted[:, 0] = True
        return _cut(order, wanted, self.most)


@dataclass(frozen=True, slots=True)
class Utility:
    """The `k` arms with the highest expected utility: score - `weight` x price, prices scaled so that the dearest is 1.

    `weight` is what the dearest call is worth in units of one right answer. Raises RouterError for an unknown price.
    """

    weight: Annotated[float, Ge(0)] = 0.0
    k: Count = 1

    def choose(self, scores: Array, arms: Sequence[Arm], ids: Sequence[str] = ()) -> Indices:
        """Best first."""
        _check(scores, arms)
        price = np.array([arm.price for arm in arms], dtype=np.float64)
        if self.weight and not np.isfinite(price).all():
            unknown = ", ".join(arm.name for arm in arms if not np.isfinite(arm.price))
            raise RouterError(f"the price of {unknown} is not known\n  next: give it, or leave prices out of the rule")
        dearest = price.max()
        if not self.weight or dearest <= 0:
            return top_k(scores, self.k, arms)
        return top_k((scores - self.weight * price / dearest).astype(np.float32), self.k, arms)


@dataclass(frozen=True, slots=True)
class Balanced:
    """`k` arms per row so that no arm gets more than its share of a batch: dual prices q, the k best of score - q.

    Loss-free balancing by a linear program's dual (BIP; METHODS J.5): p_i is the (k+1)-th largest of s - q in row i,
    q_j the (capacity+1)-th largest of s - p in column j, both at least 0, `rounds` times. `capacity` is a share of all
    seats per arm (None: equal shares). A row is moved off its best arms only if that gives up at most `give_up` of its
    summed score; so accuracy is bounded from below by the scores, and loads may stay uneven. `prices` returns q, the
    worth of a replica of each arm.
    """

    k: Count = 1
    rounds: Count = 8
    give_up: Annotated[float, Ge(0)] = 0.05
    capacity: Mapping[str, Share] = field(default_factory=dict)

    def choose(self, scores: Array, arms: Sequence[Arm], ids: Sequence[str] = ()) -> Indices:
        """Best first by score. The choice of a row depends on the batch."""
        best = top_k(scores, self.k, arms)
        if not len(scores) or self.k >= len(arms):
            return best
        level = top_k((scores - self.prices(scores, arms)).astype(np.float32), self.k, arms)
        kept = np.take_along_axis(scores, best, 1).sum(axis=1)
        moved = np.take_along_axis(scores, level, 1).sum(axis=1)
        chosen = np.where((kept - moved <= self.give_up)[:, None], level, best)
        own = np.argsort(-np.take_along_axis(scores, chosen, 1), axis=1, kind="stable")
        return np.take_along_axis(chosen, own, 1)

    def prices(self, scores: Array, arms: Sequence[Arm]) -> Table:
        """q, [arm], in units of score."""
        _check(scores, arms)
        n, width = scores.shape
        values = scores.astype(np.float64)
        share = np.array([self.capacity.get(arm.name, 1 / width) for arm in arms])
        room = np.minimum(np.ceil(share * n * self.k).astype(np.int64), n)  # n: room for everybody, at no price
        q = np.zeros(width)
        for _ in range(self.rounds):
            p = np.maximum(0, -np.partition(-(values - q), self.k, axis=1)[:, self.k])
            order = np.vstack([-np.sort(-(values - p[:, None]), axis=0), np.zeros(width)])
            q = np.maximum(0, order[room, np.arange(width)])
        return q

    def given_up(self, scores: Array, arms: Sequence[Arm]) -> float:
        """The mean summed score per row that levelling costs on this batch, at most `give_up`."""
        if not len(scores):
            return 0.0
        best = np.take_along_axis(scores, top_k(scores, self.k, arms), 1).sum(axis=1)
        own = np.take_along_axis(scores, self.choose(scores, arms), 1).sum(axis=1)
        return float((best - own).mean())


@dataclass(frozen=True, slots=True)
class GroupLimited:
    """The `k` best arms out of at most `groups` groups (hosts, families): a group is as good as the sum of its two best
    scores, as in DeepSeek-V3's group-limited gate; so a row's arms need few loads. An arm without a group is its own.
    """

    k: Count = 3
    groups: Count = 1
    group_of: Mapping[str, str] = field(default_factory=dict)

    def choose(self, scores: Array, arms: Sequence[Arm], ids: Sequence[str] = ()) -> Indices:
        """Best first; fewer than `k` where the groups hold fewer."""
        order = ranked(scores, arms)
        names = [self.group_of.get(arm.name, arm.name) for arm in arms]
        known = sorted(set(names))
        worth = np.stack(
            [
                -np.sort(-scores[:, [i for i, name in enumerate(names) if name == group]], axis=1)[:, :2].sum(axis=1)
                for group in known
            ],
            axis=1,
        )
        open_ = np.zeros((len(scores), len(known)), dtype=bool)
        np.put_along_axis(open_, np.argsort(-worth, axis=1, kind="stable")[:, : self.groups], True, 1)
        member = open_[:, [known.index(name) for name in names]]
        wanted = np.take_along_axis(member, order, 1)
        return _packed(order, wanted & (np.cumsum(wanted, axis=1) <= self.k))


def relu_gate(*, threshold: float, most: Count = 8) -> ReluGate:
    """The gate as a registry names it: nothing is fitted there, so the threshold has to be given."""
    return ReluGate(threshold=threshold, most=most)


def _cut(order: Indices, wanted: Marks, most: int) -> Indices:
    """`order` where `wanted` (a beginning of each row), at most `most`, padded with NOBODY."""
    found = np.where(wanted, order, NOBODY)[:, :most]
    used = int((found != NOBODY).sum(axis=1).max(initial=1))
    return found[:, :used]


def _packed(order: Indices, wanted: Marks) -> Indices:
    """`order` where `wanted` (anywhere in each row), moved to the front, padded with NOBODY."""
    front = np.argsort(~wanted, axis=1, kind="stable")
    return _cut(np.take_along_axis(order, front, 1), np.take_along_axis(wanted, front, 1), order.shape[1])


def _check(scores: Array, arms: Sequence[Arm]) -> None:
    if scores.ndim != 2 or scores.shape[1] != len(arms):
        raise RouterError(f"scores have the shape {scores.shape}, but there are {len(arms)} arms")
