"""Random days of a pool on a simulated clock: callers come, leave, change their minds, hosts break; every promise is held.

A day that fails is replayed by `python -m evals.faults --only R31 --seed N`.
"""

from __future__ import annotations

import os
import subprocess
import sys

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evals.faults.days import simulate

_DIGESTS = "from evals.faults.days import simulate; print([simulate(seed).digest for seed in range(60)])"


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 2**32))
def test_whatever_happens_every_promise_is_held(seed: int) -> None:
    assert simulate(seed).wrong == []


def test_a_seed_is_the_same_day_in_every_process() -> None:
    asked = [
        subprocess.run(
            [sys.executable, "-c", _DIGESTS],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        )
        for seed in ("1", "2")
    ]

    assert len(asked[0].stdout) > 60 * 64
    assert asked[0].stdout == asked[1].stdout


def test_days_have_everything_in_them() -> None:
    days = [simulate(seed) for seed in range(120)]

    seen = {fault for day in days for fault, times in day.seen.items() if times}
    assert seen == {"bug", "cut", "deadly", "full", "hangs", "killed", "missing", "noise", "refuses", "slow"}
    happened = {what for day in days for _, what, _ in day.history}
    assert happened == {"ask", "begin", "close", "crash", "end", "fails", "leaves", "open", "shut", "told"}
    told = {detail.split()[-1] for day in days for _, what, detail in day.history if what == "told"}
    assert {"stop", "length", "cancelled", "timeout", "host_died", "host_failed", "bad_response"} <= told
