"""CPU seconds to combine 10,000 questions x 6 drafts: by every aggregator, beside counting with a dictionary per question.

Run it alone on the machine: `python -m evals.bench.answers [--json FILE]`. User plus system time of this process, one
thread, the least of three rounds; simulated answers, for speed does not depend on what they say.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")  # before numpy loads its library

import numpy as np

from composer.answers.ballots import TRAITS, Aggregator, Ballots, Learning
from composer.answers.learn import Learnt
from composer.answers.vote import BestScored, DawidSkene, LogOdds, Majority, SelfConsistent, Weighted
from routers.types import Arm

QUESTIONS, DRAFTS = 10_000, 6
GOALS = {"learnt": 10.0}  # CPU seconds; the others: 2
MADE: dict[str, Callable[[], Aggregator]] = {
    "best": BestScored,
    "majority": Majority,
    "weighted": Weighted,
    "log-odds": LogOdds,
    "self-consistent": SelfConsistent,
    "dawid-skene": DawidSkene,
    "learnt": Learnt,
}


def ballots(n: int, seed: int) -> tuple[Ballots, np.ndarray[tuple[int, ...], np.dtype[np.float64]]]:
    """Simulated answers to questions with ten options, and what each is worth."""
    rng = np.random.default_rng(seed)
    right = rng.random((n, DRAFTS)) < np.linspace(0.4, 0.7, DRAFTS)
    code = np.where(right, 0, rng.integers(1, 10, (n, DRAFTS)))
    made = Ballots(
        arms=tuple(Arm(f"arm{i}") for i in range(DRAFTS)),
        arm=np.tile(np.arange(DRAFTS), (n, 1)),
        code=code,
        score=np.tile(np.linspace(0.4, 0.7, DRAFTS), (n, 1)),
        length=rng.integers(10, 2000, (n, DRAFTS)),
        options=np.full(n, 10),
        traits=rng.random((n, DRAFTS, len(TRAITS))),
    )
    return made, right.astype(np.float64)


def counted(told: Ballots) -> list[int]:
    """The yardstick: a Counter per question."""
    return [Counter(row).most_common(1)[0][0] for row in told.code.tolist()]


def cpu_seconds(work: Callable[[], object], rounds: int = 3) -> float:
    """The least CPU seconds of a call."""
    best = float("inf")
    for _ in range(rounds):
        began = time.process_time()
        work()
        best = min(best, time.process_time() - began)
    return best


def measure() -> dict[str, dict[str, float]]:
    """`{aggregator: {"seconds", "yardstick", "ratio", "goal"}}`; what learns was fitted on 2,000 other questions."""
    told, _ = ballots(QUESTIONS, 0)
    small, right = ballots(2_000, 1)
    yardstick = cpu_seconds(lambda: counted(told))
    found = {}
    for name, make in MADE.items():
        aggregator = make()
        if isinstance(aggregator, Learning):
            aggregator = aggregator.fit(small, right)
        spent = cpu_seconds(lambda own=aggregator: own.combine(told))  # type: ignore[misc]
        found[name] = {
            "seconds": round(spent, 4),
            "yardstick": round(yardstick, 4),
            "ratio": round(spent / yardstick, 2),
            "goal": GOALS.get(name, 2.0),
        }
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print a table, optionally write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, default=None, help="write the figures here")
    options = parser.parse_args(argv)
    found = measure()
    print(f"{'10,000 questions x 6 drafts':30}{'CPU s':>9}{'counting':>10}{'ratio':>8}{'goal':>7}")
    for name, row in found.items():
        print(f"{name:30}{row['seconds']:9.3f}{row['yardstick']:10.3f}{row['ratio']:8.2f}{row['goal']:7.1f}")
    if options.json is not None:
        options.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
