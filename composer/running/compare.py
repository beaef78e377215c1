"""Two runs row by row: which answers changed, and, where the right ones are known, which run is better."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from composer.errors import InputError
from composer.jsonl import Labelled, read_questions
from composer.marks import check_programs, mark
from composer.store import DraftStore, RunRecord
from routers.stats import paired_difference


@dataclass(frozen=True, slots=True)
class Change:
    """A question on which two runs differ; None: this run has no answer to it. `right` is what each answer is worth,
    [0, 1], None where no label says so."""

    id: str
    answers: tuple[str | None, str | None]
    statuses: tuple[str | None, str | None]
    right: tuple[float | None, float | None]


@dataclass(frozen=True, slots=True)
class Paired:
    """Labelled questions that both runs have: the mean of each, and B less A with its bootstrap interval (95 %). `wins`
    counts questions on which B is worth more, `losses` fewer; no answer is worth nothing."""

    questions: int
    a: float
    b: float
    difference: float
    low: float
    high: float
    wins: int
    losses: int

    @property
    def verdict(self) -> str:
        """What the interval says."""
        if self.low > 0:
            return "B is better"
        return "A is better" if self.high < 0 else "no difference is shown"


@dataclass(frozen=True, slots=True)
class Comparison:
    """`same` counts questions with the same answer and status; `only_a` and `only_b` those that one run alone has;
    `paired` needs labels."""

    a: str
    b: str
    same: int
    changes: tuple[Change, ...]
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    paired: Paired | None


async def compare(
    store: DraftStore, a: RunRecord, b: RunRecord, labels: Path | None = None, *, run_code: bool = False
) -> Comparison:
    """Compare the final answers of two runs. `labels` is a file of labelled questions, known by their ids; `run_code` allows
    that programs are run against its tests. Raises InputError where the runs or the labels share no question."""
    asked = [list(await store.questions(run.run_id)) for run in (a, b)]
    both = [name for name in asked[0] if name in set(asked[1])]
    if not both:
        raise InputError("the two runs have no question in common", where=f"{a.run_id}, {b.run_id}")
    found = [{str(trace["id"]): trace for trace in await store.traces(run.run_id)} for run in (a, b)]
    worth = [_worth(traces, labels, both, run_code) for traces in found] if labels is not None else [{}, {}]
    changes, same = [], 0
    for name in both:
        pair = [traces.get(name) for traces in found]
        answers = _pair([trace["answer"] if trace else None for trace in pair])
        statuses = _pair([trace["status"] if trace else None for trace in pair])
        if answers[0] == answers[1] and statuses[0] == statuses[1]:
            same += 1
            continue
        changes.append(Change(name, answers, statuses, _pair([values.get(name) for values in worth])))
    return Comparison(
        a=a.run_id,
        b=b.run_id,
        same=same,
        changes=tuple(changes),
        only_a=tuple(name for name in asked[0] if name not in set(asked[1])),
        only_b=tuple(name for name in asked[1] if name not in set(asked[0])),
        paired=_paired(*worth) if labels is not None else None,
    )


def _worth(
    traces: Mapping[str, Mapping[str, Any]], labels: Path, names: Sequence[str], run_code: bool
) -> dict[str, float]:
    """What the final answer to each labelled question is worth; none is worth nothing."""
    items = {item.question.id: item for item in read_questions(labels, labelled=True).rows}
    known = [items[name] for name in names if name in items]
    if not known:
        raise InputError(
            "no question of the two runs is labelled here", where=str(labels), remedy="rows are known by their `id`"
        )
    check_programs(known, str(labels), run_code=run_code)
    return {item.question.id: _mark(item, traces.get(item.question.id), run_code) for item in known}


def _mark(item: Labelled, trace: Mapping[str, Any] | None, run_code: bool) -> float:
    if trace is None:
        return 0.0
    return float(mark(item, str(trace["answer"]), True, run_code=run_code)[1] or 0.0)


def _paired(a: Mapping[str, float], b: Mapping[str, float]) -> Paired:
    left, right = np.array([a[name] for name in a]), np.array([b[name] for name in a])
    mean, low, high = paired_difference(right, left)
    return Paired(
        questions=len(left),
        a=float(left.mean()),
        b=float(right.mean()),
        difference=mean,
        low=low,
        high=high,
        wins=int((right > left).sum()),
        losses=int((right < left).sum()),
    )


def _pair(values: Sequence[Any]) -> tuple[Any, Any]:
    first, second = values
    return first, second
