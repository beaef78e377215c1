"""Random days of the pool (R31): the schedules of its tests, in numbers. Needs a checkout, and the extra `test`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from evals.faults.bench import Bench, Finding

_TESTS = Path(__file__).parents[2] / "tests" / "composer" / "pool"
_DAYS = """
import asyncio, json, sys, test_schedules
wrong = []
for seed in range(int(sys.argv[1])):
    try:
        asyncio.run(test_schedules.day(seed, 1 + seed % 8))
    except BaseException as why:
        wrong.append(f"seed {seed}: {why!r}")
print(json.dumps(wrong))
"""


def random_days(_: Bench, n: int) -> Finding:
    """R31: callers come, leave and change their minds, hosts die, memory is short; `n` seeds."""
    promise = "nobody hangs, everybody is told once, memory is a hard bound, nothing is left"
    fault = "random schedules of the pool"
    if not _TESTS.is_dir():
        return Finding("R31", fault, promise, "could not be measured here: no checkout with its tests", 0, False)
    asked = subprocess.run(
        [sys.executable, "-c", _DAYS, str(n)], cwd=_TESTS, capture_output=True, text=True, check=True
    )
    wrong: list[str] = json.loads(asked.stdout)
    figure = f"violations {len(wrong)}{' (' + '; '.join(wrong[:3]) + ')' if wrong else ''}; in real time, without a simulated clock"
    return Finding("R31", fault, promise, figure, n, not wrong)
