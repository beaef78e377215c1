"""What the pool costs and what it saves, beside what others do with the same questions, in one run.

Run it alone on the machine: `python -m evals.bench.pool [--json FILE] [--questions N]`. Four parts: CPU microseconds per
request of the scheduler on scripted engines; loads for 120 questions to 3 of 12 experts each with room for 2; the same
work with real models (12 copies of the packaged one that differ in a byte, 1.2 GB in a temporary folder) for N questions
(30; 0 leaves this and the next out), which takes about ten minutes; and predicted beside measured seconds of eight ways to
do one piece of work (`pool_plans.py`), three minutes.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "1")  # before numpy loads its library

from composer.pool.locality import advise, by_next_use, loads, lru, uses_of
from evals.bench.pool_plans import plans
from evals.bench.pool_real import Bench, make_registry
from evals.bench.pool_scripts import EXPERTS, ROOM, from_file, loads_of, overhead, streaming, traffic

QUESTIONS = 120
ENOUGH = 2  # drafts that settle a question where stopping is on


def simulate() -> dict[str, Any]:
    """Loads for the whole traffic."""
    rows = traffic(QUESTIONS)
    trace = [expert for row in rows for expert in row]
    ahead = {name: loads_of(partial(work, rows=rows)) for name, work in _WAYS.items()}
    stopped = {name: loads_of(partial(work, rows=rows, enough=ENOUGH)) for name, work in _WAYS.items()}
    advice = advise(uses_of(rows)[0])
    return {
        "calls": len(trace),
        "loads": {
            "llama-swap: one model at a time": loads(trace, 1, lru),
            "question order, LRU": loads(trace, ROOM, lru),
            "question order, next use known": loads(trace, ROOM, by_next_use(trace)),
            "grouped (published, hand-written)": len(set(trace)),
            **{name: ledger.loads for name, ledger in ahead.items()},
            **{f"{name}, stopping": ledger.loads for name, ledger in stopped.items()},
        },
        "opened_ahead": {name: ledger.ahead for name, ledger in ahead.items()},
        "opened_in_vain": {name: ledger.wasted for name, ledger in ahead.items()},
        "floor": len(set(trace)),
        "advice": {
            "resident": advice.resident,
            "group": advice.group,
            "hit_rate": advice.hit_rate,
            "lru": advice.lru,
            "srp": advice.srp,
        },
    }


_WAYS: dict[str, Callable[..., Awaitable[None]]] = {"ours, from a file": from_file, "ours, streaming": streaming}


async def measure(questions: int) -> dict[str, Any]:
    """Wall and CPU seconds with real models."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bench = Bench(make_registry(folder), traffic(QUESTIONS)[:questions], folder)
        calls = sum(map(len, bench.rows))
        load, call = await bench.cost_of_one()
        ways: dict[str, Callable[[], Awaitable[None]]] = {
            "hand-written loop": bench.hand_written,
            "ours, from a file": partial(bench.ours, stream=False),
            "ours, from a file, two hosts at once": partial(bench.ours, stream=False, at_once=2),
            "ours, streaming": partial(bench.ours, stream=True),
            "published grouping": bench.published,
            "question order, LRU": bench.question_order,
            "llama-swap: one model at a time": partial(bench.question_order, room=1),
        }
        found: dict[str, dict[str, float]] = {}
        near = list(ways)[:4]  # close to each other: each runs twice, in turn with the others, and the quicker counts
        for way in [*near, *ways]:
            spent = await bench.spent(ways[way]())
            if way in found and found[way]["wall"] <= spent.wall:
                continue
            floor = spent.loads * load + calls * call
            found[way] = {
                "loads": spent.loads,
                "wall": round(spent.wall, 1),
                "cpu": round(spent.cpu, 1),
                "floor": round(floor, 1),
                "ratio": round(spent.cpu / floor, 2),
            }
        for way, row in found.items():
            print(f"{way:40}{row['loads']:7}{row['wall']:9.1f}{row['cpu']:9.1f}{row['ratio']:9.2f}", flush=True)
    return {"questions": questions, "calls": calls, "cpu_per_load": load, "cpu_per_call": call, "ways": found}


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print tables, optionally write them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, default=None, help="write the figures here")
    parser.add_argument("--questions", type=int, default=30, help="questions asked of real models")
    options = parser.parse_args(argv)
    found: dict[str, Any] = {"overhead": [overhead(n) for n in (1_000, 10_000, 100_000)]}
    print(f"{'queued requests, each':40}{'CPU us':>10}{'engine':>10}{'pool':>10}{'bytes':>10}{'left':>10}")
    for row in found["overhead"]:
        pool = row["cpu_us"] - row["engine_us"]
        print(f"{row['requests']:<40,}{row['cpu_us']:10.1f}{row['engine_us']:10.1f}{pool:10.1f}", end="")
        print(f"{row['peak_bytes']:10.0f}{row['left_bytes']:10.0f}")
    found["scripted"] = simulated = simulate()
    print(f"\n{QUESTIONS} questions x 3 of {EXPERTS} experts, room for {ROOM}{'loads':>20}")
    for name, count in simulated["loads"].items():
        print(f"{name:40}{count:10}")
    print(f"opened ahead: {simulated['opened_ahead']}; in vain: {simulated['opened_in_vain']}")
    advice = simulated["advice"]
    print(f"this traffic: room for {advice['resident']} hosts is worth it; no locality: {advice['group']}")
    if options.questions:
        print(f"\n{options.questions} questions, real models{'loads':>18}{'wall s':>9}{'CPU s':>9}{'of floor':>9}")
        found["real"] = asyncio.run(measure(options.questions))
        print("\npredicted by the plan, and measured")
        found["plans"] = asyncio.run(plans())
    if options.json is not None:
        options.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
