"""What an arm that joins late would have shown on the questions it was not asked, foretold from what others showed."""

from __future__ import annotations

import numpy as np

from routers.perarm import Table

_PENALTIES = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
_SMOOTH, _LABEL, _HARD = 10.0, 0.5, 3.0  # widths of the groups of columns: expected scores vary little, outcomes a lot


def foretold(own: Table, others: Table, expected: Table, labels: Table) -> Table:
    """Scores of a new arm on all n questions: `own` where it was asked, foretold elsewhere (NaN in `own`), in [0, 1].

    `others` and `expected` [n, arm] are the known arms' outcomes (NaN where unobserved) and router scores, `labels`
    [n, skill] 0/1. Source: ours. A few hundred outcomes say little of an arm's domains by themselves, and taken alone
    they leave it looking as good on hard domains as on easy ones. So they are regressed (ridge, leave-one-out) on how
    hard the question was for the others, on which of the others got it right or were expected to, and on its labels.
    The mean is shrunk towards the pool's by how sure it is beside the arms' own spread (empirical Bayes), so that a lucky
    start does not win the arm every question.
    """
    seen = ~np.isnan(own)
    outcomes = np.where(np.isnan(others), expected, others)
    hard, easy = outcomes.mean(axis=1, keepdims=True), expected.mean(axis=1, keepdims=True)
    apart = expected - easy
    columns = [
        _HARD * hard,
        outcomes - hard,
        _LABEL * labels,
        _SMOOTH * (easy - easy.mean()),
        _SMOOTH * (apart - apart.mean(axis=0)),
    ]
    found = _ridge(np.concatenate(columns, axis=1), own, seen)
    if others.shape[1] > 1 and seen.sum() > 1:
        level = outcomes.mean(axis=0)
        off = float(np.clip(found, 0, 1).mean() - level.mean())
        doubt = float((own[seen] - found[seen]).var(ddof=1)) / int(seen.sum())
        few = (len(level) + 1) / (len(level) - 1)  # a spread seen in few arms is wider than it looks
        spread = max(few * float(level.var(ddof=1)) - 0.25 / len(own), 1e-6)
        found = found - off * doubt / (doubt + spread)
    whole: Table = np.where(seen, own, np.clip(found, 0, 1))
    return whole


def _ridge(columns: Table, own: Table, seen: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]) -> Table:
    """Ridge regression of `own` on `columns` where it was seen, with the penalty of the least leave-one-out error."""
    middle, mean = columns[seen].mean(axis=0), own[seen].mean()
    rows, target = columns[seen] - middle, own[seen] - mean
    values, axes = np.linalg.eigh(rows.T @ rows)
    turned = rows @ axes
    answer = turned.T @ target

    def error(penalty: float) -> float:
        shrunk = turned / (np.maximum(values, 0) + penalty)
        leverage = np.einsum("nd,nd->n", shrunk, turned) + 1 / len(rows)
        return float((((target - shrunk @ answer) / np.maximum(1 - leverage, 1e-6)) ** 2).sum())

    penalty = min(_PENALTIES, key=error)
    found: Table = (columns - middle) @ (axes @ (answer / (np.maximum(values, 0) + penalty))) + mean
    return found
