"""The category router: question to category, category to arm, unsure questions to the generalist (METHODS B)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from routers.errors import RouterError
from routers.nearest import Nearest
from routers.perarm import Column, PerArm, Table, mean_seen
from routers.records import fallback_row, generalist_place, label_matrix, need_labels
from routers.stats import calibration_split, entropy
from routers.types import Arm, Array, Indices, Outcomes, Questions, Reason


@dataclass(slots=True)
class CategoryRouter(PerArm):
    """Two steps, because categories cluster and best arms of single prompts do not.

    After Composition of Experts (METHODS B). Category: p(c|x) is the similarity-weighted share of the labels of the `k`
    nearest profile questions. Map: each category gets one arm by an integer program over its shrunk shares right,
    with at most `budget` parameters resident (`sizes`: parameters per arm, any unit) and `penalty` per active
    parameter. Gate: a question whose normalised entropy of p(c|x) exceeds `gate` goes to the `generalist` (None: to the
    best arm overall). `gate` None: chosen at fit on a fifth of the questions to answer as many as possible rightly.

    What differs: a small encoder and neighbours stand for the vendor's 7B embedding model; scores are given for all
    arms, so that more than one can be asked: the mapped arm first, then the other resident ones by their share in the
    category, then those that are not resident.
    """

    generalist: str | None = None
    k: int = 15
    gate: float | None = None
    sizes: Mapping[str, float] = field(default_factory=dict)
    budget: float | None = None
    penalty: float = 0.0
    prior: float = 20.0
    skills_: tuple[str, ...] = field(default=(), init=False, repr=False, compare=False)
    labels_: Table = field(default_factory=lambda: np.zeros((0, 0)), init=False, repr=False, compare=False)
    nearest_: Nearest = field(default_factory=Nearest, init=False, repr=False, compare=False)
    gate_: float = field(default=1.0, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.k < 1 or self.prior < 0:
            raise RouterError("k must be at least 1, prior not under 0")
        if self.budget is not None and not self.sizes:
            raise RouterError("a budget needs the arms' sizes\n  next: give sizes, in the unit of the budget")

    def _common(self, questions: Questions, outcomes: Outcomes) -> None:
        need_labels(questions)
        generalist_place(outcomes.arms, self.generalist)
        self._learn(questions)
        self.gate_ = 1.0 if self.gate is None else self.gate
        if self.gate is None:
            self.gate_ = self._best_gate(questions, outcomes)

    def _learn(self, questions: Questions) -> None:
        self.skills_, labels = label_matrix(questions)
        labelled = labels.any(axis=1)
        shares = labels[labelled] / labels[labelled].sum(axis=1, keepdims=True)
        self.labels_ = shares
        self.nearest_ = Nearest().fit(questions.vectors[labelled])

    def _best_gate(self, questions: Questions, outcomes: Outcomes) -> float:
        held = calibration_split(questions.ids, questions.vectors)
        inner, outer = np.flatnonzero(~held), np.flatnonzero(held)
        if not len(outer) or not any(questions.skills[int(i)] for i in inner):
            return 1.0
        part = outcomes.take(inner)
        if not len(part.question):
            return 1.0
        trial = replace(self, gate=1.0).fit(questions.take(inner), part)
        asked = questions.take(outer)
        truth = outcomes.take(outer).matrix(len(outer))
        unsure = entropy(trial.categories(asked.vectors))
        sure, rest = trial.score(asked).argmax(axis=1), int(trial._rest().argmax())
        rows = np.arange(len(outer))
        gain = truth[rows, sure] - truth[:, rest]  # what the category's arm brings over the generalist
        edges = np.unique(np.concatenate([[0.0, 1.0], np.quantile(unsure, np.linspace(0.1, 0.9, 9))]))
        worth = [float(np.nansum(gain[unsure <= edge])) for edge in edges]
        best = max(worth)
        return float(max(edge for edge, value in zip(edges, worth, strict=True) if value >= best - 1e-9))

    def _column(self, questions: Questions, score: Table, cost: Table) -> Column:
        _, labels = label_matrix(questions, self.skills_)
        seen = ~np.isnan(score)
        own = labels[seen]
        return {"right": own.T @ score[seen], "count": own.sum(axis=0), "overall": np.array(mean_seen(score))}

    def _stack(self) -> tuple[Table, Indices]:
        """What each category's question scores, [category, arm], and the arm it is mapped to."""
        right, count = (np.stack([column[name] for column in self.columns_], axis=1) for name in ("right", "count"))
        overall = self._overall()
        quality = (right + self.prior * overall) / np.maximum(count + self.prior, 1e-9)
        sizes = np.array([self._size(arm) for arm in self.arms_])
        share = count.max(axis=1)
        choice, resident = category_map(
            quality, sizes, self.arms_, budget=self.budget, penalty=self.penalty, weights=share / max(share.sum(), 1)
        )
        best = quality[np.arange(len(choice)), choice]
        scores = np.where(resident, quality, quality / 2)
        scores = np.minimum(scores, np.nextafter(best.astype(np.float32), np.float32(0))[:, None])
        scores[np.arange(len(choice)), choice] = best
        return scores, choice

    def _size(self, arm: Arm) -> float:
        if self.budget is None and not self.penalty:
            return float(self.sizes.get(arm.name, 0.0))
        if arm.name not in self.sizes:
            raise RouterError(f"the size of {arm.name} is not known\n  next: give it in sizes")
        return float(self.sizes[arm.name])

    def _overall(self) -> Table:
        return np.array([float(column["overall"]) for column in self.columns_])

    def _rest(self) -> Table:
        overall = self._overall()
        return fallback_row(overall, generalist_place(self.arms_, self.generalist))

    def categories(self, vectors: Array) -> Table:
        """p(c|x), [n, category]; the categories are `skills_`."""
        rows, cosine = self.nearest_.find(vectors, self.k)
        weight = np.maximum(cosine, 1e-6)
        found: Table = np.einsum("mk,mkc->mc", weight, self.labels_[rows]) / weight.sum(axis=1, keepdims=True)
        return found

    def _score(self, questions: Questions) -> Table:
        scores, _ = self.stacked_
        probable = self.categories(questions.vectors)
        found: Table = scores[probable.argmax(axis=1)]
        unsure = entropy(probable) > self.gate_
        found[unsure] = self._rest()
        return found

    def _explain(self, questions: Questions) -> list[Reason]:
        probable = self.categories(questions.vectors)
        unsure = entropy(probable)
        reasons = []
        for row, own in zip(probable, unsure, strict=True):
            order = np.argsort(-row, kind="stable")[:3]
            skills = tuple((self.skills_[int(i)], round(float(row[i]), 4)) for i in order if row[i] > 0)
            why = f"its category is unsure (entropy {own:.2f}, gate {self.gate_:.2f}): left to the generalist"
            reasons.append(
                Reason(skills=skills, fallback=why if own > self.gate_ else None, entropy=round(float(own), 4))
            )
        return reasons


def category_map(
    quality: Table,
    sizes: Table,
    arms: Sequence[Arm],
    *,
    budget: float | None = None,
    penalty: float = 0.0,
    weights: Table | None = None,
) -> tuple[Indices, Array]:
    """The arm of each category, int64 [category], and which arms are resident, bool [arm].

    Maximises sum_c w_c (Q[c, e] - penalty x size[e]) over one arm e per category, all mapped arms together at most
    `budget` (METHODS B.4), with SciPy's MILP. `quality` is Q [category, arm], `weights` the traffic share w of each
    category (None: equal). Equal arms go to the cheaper one, then by name. Raises RouterError when no arm fits.
    """
    n, width = quality.shape
    share = np.full(n, 1 / n) if weights is None else weights
    worth = quality - penalty * sizes
    prefer = np.array(sorted(range(width), key=lambda i: (arms[i].price, arms[i].name)), dtype=np.int64)
    if budget is None:
        resident = np.ones(width, dtype=bool)
    elif not (sizes <= budget).any():
        raise RouterError(f"no arm fits into the budget of {budget:g}: the smallest has {sizes.min():g}")
    else:
        resident = _resident(worth * np.maximum(share, 1e-9)[:, None], sizes, budget, prefer)
    masked = np.where(resident, worth, -np.inf)[:, prefer]
    choice = prefer[(masked >= masked.max(axis=1, keepdims=True) - 1e-9).argmax(axis=1)]
    if budget is not None:
        resident = np.isin(np.arange(width), choice)
    return choice, resident


def _resident(worth: Table, sizes: Table, budget: float, prefer: Indices) -> Array:
    from scipy.optimize import Bounds, LinearConstraint, milp  # noqa: PLC0415 - only a budget needs it
    from scipy.sparse import csr_array, hstack, identity, kron  # noqa: PLC0415

    n, width = worth.shape
    scale = float(np.abs(worth).max()) or 1.0
    nudge = np.empty(width)
    nudge[prefer] = np.arange(width) * 1e-7  # among equal solutions the cheaper arms, then by name
    cost = np.concatenate([(-worth / scale).ravel(), nudge])
    one_each = hstack([kron(identity(n), np.ones((1, width))), csr_array((n, width))])
    only_resident = hstack([identity(n * width), kron(np.ones((n, 1)), -identity(width))])
    fits = hstack([csr_array((1, n * width)), csr_array(sizes[None, :])])
    found = milp(
        cost,
        constraints=[
            LinearConstraint(one_each, 1, 1),
            LinearConstraint(only_resident, -np.inf, 0),
            LinearConstraint(fits, -np.inf, budget),
        ],
        integrality=np.ones(len(cost)),
        bounds=Bounds(0, 1),
        options={"mip_rel_gap": 0.0},
    )
    if found.x is None:
        raise RouterError(f"no map of categories to arms fits into {budget:g}: {found.message}")
    marks: Array = found.x[n * width :] > 0.5
    return marks
