"""What each arm is worth to the others: the learnt combination of all, and of all but one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from composer.answers.ballots import Aggregator, Table
from composer.answers.signals import aurc, selective
from composer.learning.tune import Played, aggregators, combine, cross_scores, fit_aggregators
from composer.recorded import Recorded
from evals.answers import AnswerRow
from evals.data import Data, covered, distinct, has_categories, splits
from evals.metrics import known_mean, paired_gap
from routers.calibrate import calibration_error
from routers.family import USUAL, family
from routers.select import ranked
from routers.stats import bootstrap_interval
from routers.types import Array


def worth_of_arms(
    record: Recorded, vectors: Array, *, group: str, test_split: str, say: Callable[[str], None]
) -> list[AnswerRow]:
    """Leave one out: what the learnt combination of all arms loses on the test split without each of them, paired."""
    profile, test = splits(record, test_split)
    profile = distinct(profile, test, vectors, False, [])
    record = covered(record, profile, test, [])
    data = Data.of(record, vectors)
    learn, check = data.take(profile), data.take(test)
    labelled = has_categories(learn.questions)
    make = family(labelled)[USUAL]
    scores, there = (
        cross_scores(make, learn.questions, learn.outcomes),
        make().fit(learn.questions, learn.outcomes).score(check.asked),
    )
    every = np.arange(len(data.grid.arms))

    def learnt(keep: Table) -> Played:
        arms = keep.astype(np.int64)
        made: Aggregator = fit_aggregators(learn.grid.only(arms), scores[:, arms], {"learnt": aggregators()["learnt"]})[
            "learnt"
        ]
        grid = check.grid.only(arms)
        return combine(made, grid, there[:, arms], ranked(there[:, arms], grid.arms))

    whole = learnt(every.astype(np.float64))
    rows = []
    for place, arm in enumerate(data.grid.arms):
        say(f"{group}: without {arm.name}")
        played = learnt(np.delete(every, place).astype(np.float64))
        low, high = bootstrap_interval(played.right)
        rows.append(
            AnswerRow(
                f"without {arm.name}",
                group,
                len(played.right),
                round(float(played.right.mean()), 4),
                round(low, 4),
                round(high, 4),
                known_mean(played.calls),
                None,
                None,
                False,
                "all at once",
                "learnt",
                cost=known_mean(played.cost, 8),
                to_majority=None,
                to_best_single=None,
                aurc_to_vote_share=None,
                selective_50=round(selective(played.sure, played.right), 4),
                aurc=round(aurc(played.sure, played.right), 4),
                ece=round(calibration_error(played.sure, played.right), 4),
            )
        )
        rows[-1] = replace(rows[-1], to_majority=paired_gap(played.right, whole.right))
    return rows
