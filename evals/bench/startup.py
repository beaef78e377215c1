"""CPU milliseconds of a fresh `coe --help` and `coe route`, beside an empty interpreter and the parts they stand on.

Run it alone on the machine: `python -m evals.bench.startup [--json FILE]`. Every figure is the least of several fresh
processes, user plus system time, one thread. The limits hold for a machine on which an empty interpreter takes 10 ms;
on another one compare the ratios.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

HELP, ROUTE = "coe --help", "coe route"
LIMITS = {HELP: 150.0, ROUTE: 500.0}
REFERENCE = 10.0  # CPU ms of an empty interpreter on the machine the limits were set on
RUNS = 7

_COE = "import sys; from composer.cli import main; sys.argv = {argv!r}; main()"
COMMANDS: dict[str, str] = {
    "empty interpreter": "pass",
    "import typer": "import typer",
    "import numpy, onnxruntime, tokenizers": "import numpy, onnxruntime, tokenizers",
    HELP: _COE.format(argv=["coe", "--help"]),
    ROUTE: _COE.format(argv=["coe", "route", "What is 47 + 38?"]),
}


def cpu_ms(code: str, runs: int = RUNS) -> float:
    """The least CPU milliseconds of `runs` fresh interpreters that execute `code`. Raises CalledProcessError."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    env.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed package has its bytecode
    times = []
    for _ in range(runs):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-c", code], check=True, env=env, stdout=subprocess.DEVNULL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)
    return 1000 * min(times)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print a table, optionally write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, default=None, help="write the figures here")
    options = parser.parse_args(argv)
    subprocess.run([sys.executable, "-c", COMMANDS[ROUTE]], check=True, stdout=subprocess.DEVNULL)  # fetch, warm files
    found = {name: cpu_ms(code) for name, code in COMMANDS.items()}
    scale = found["empty interpreter"] / REFERENCE
    print(f"{'':40}{'CPU ms':>8}{'limit':>8}{'scaled to the reference machine':>34}")
    for name, value in found.items():
        limit = LIMITS.get(name)
        print(f"{name:40}{value:8.0f}{limit or '':>8}{value / scale:34.0f}")
    if options.json is not None:
        options.json.write_text(json.dumps({"cpu_ms": found, "limits": LIMITS, "scale": scale}, indent=2) + "\n")


if __name__ == "__main__":
    main()
