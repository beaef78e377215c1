"""Ways to answer, read off one table of drafts: what each would have asked, and whether it would have been right."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from evals.metrics import Result
from evals.runner import Table
from routers.types import Questions, Router


def single(table: Table, arm: str, name: str | None = None) -> Result:
    """One arm for everything."""
    return picked(table, name or f"expert:{arm}", [table.column(arm)] * len(table.items))


def picked(table: Table, name: str, columns: Sequence[int], *, chosen: bool = False) -> Result:
    """One call per question, to the arm at `columns[i]`."""
    rows = np.arange(len(table.items))
    at = np.asarray(columns, dtype=np.int64)
    return Result(
        name, table.right[rows, at], np.ones(len(rows)), table.tokens[rows, at], table.seconds[rows, at], chosen
    )


def routed(table: Table, name: str, router: Router, questions: Questions, *, chosen: bool = False) -> Result:
    """One call per question, to the arm that `router` scores best (ties: cheaper, then by name)."""
    arms = router.arms
    scores = router.score(questions)
    best = [
        min(range(len(arms)), key=lambda j, row=row: (-row[j], arms[j].price, arms[j].name))  # type: ignore[misc]
        for row in scores
    ]
    return picked(table, name, [table.column(arms[j].name) for j in best], chosen=chosen)


def at_random(table: Table, pool: Sequence[str], seed: int = 0) -> Result:
    """One arm of `pool`, drawn anew for each question."""
    drawn = np.random.default_rng(seed).choice([table.column(arm) for arm in pool], size=len(table.items))
    return picked(table, "random", [int(column) for column in drawn])


def majority(table: Table, pool: Sequence[str]) -> Result:
    """All of `pool` asked, the most frequent answer taken (None never agrees with None; ties: first in the pool)."""
    columns = [table.column(arm) for arm in pool]
    right = np.zeros(len(table.items))
    for i, answers in enumerate(table.answers):
        votes = Counter(answers[j] for j in columns if answers[j] is not None)
        if votes:
            top = votes.most_common(1)[0][0]
            right[i] = table.right[i, next(j for j in columns if answers[j] == top)]
    return Result(
        "majority",
        right,
        np.full(len(right), float(len(columns))),
        table.tokens[:, columns].sum(axis=1),
        table.seconds[:, columns].sum(axis=1),
    )


def oracle(table: Table, pool: Sequence[str]) -> Result:
    """Right wherever any arm of `pool` is: the upper bound for choosing, at no price that means anything."""
    columns = [table.column(arm) for arm in pool]
    unknown = np.full(len(table.items), np.nan)
    return Result("oracle", table.right[:, columns].max(axis=1), unknown, unknown, unknown)
