"""Measure what happens when things break: `python -m evals.faults [--large] [--only R1,R5] [--out FILE] [--json FILE]`.
`--only R31 --seed N` tells one of its schedules event by event.

`--large` measures everything with large numbers (`make faults`, about half an hour on two idle cores); without it, what every
push measures, in about three minutes. What is measured replaces its row in the page `--out`, as soon as it is there; other
rows stay. The exit code is 1 if a promise was broken.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from evals.faults import (
    cuts,
    disk,
    headers,
    hosts,
    identities,
    inputs,
    passages,
    persisted,
    replies,
    runs,
    schedules,
    served,
    stored,
    streams,
)
from evals.faults.bench import Bench, Finding

_INTRODUCTION = """# What survives

Faults are injected into real runs: the command `coe`, its store on a disk, llama.cpp processes, and an OpenAI-compatible
server on loopback whose model name is the fault (`evals/faults/server.py`). Its answers are hashes of the prompts, so that
a changed or mixed-up one is seen, and its ledger of calls is what ours is held against. A row that fails is shown failing.

Written by `python -m evals.faults --large --out FILE` (`make faults`); each row when it was measured last, so do not edit.
{missing}

| id | fault | promise | measured | how many | passed |
| --- | --- | --- | --- | --- | --- |
"""


@dataclass(frozen=True, slots=True)
class Measure:
    """A row of the table: how many trials on every push (0: none) and in the large run."""

    id: str
    push: int
    large: int
    work: Callable[[Bench, int], Finding]


MEASURES = (
    Measure("R1", 100, 1000, runs.killed_runs),
    Measure("R2", 0, 10_000, stored.power_cuts),
    Measure("R3", 20, 30, hosts.killed_hosts),
    Measure("R4", 20, 75, replies.hanging),
    Measure("R5", 20, 100, replies.dripping),
    Measure("R6", 1, 4, cuts.cut_streams),
    Measure("R7", 5_000, 1_000_000, streams.fuzzed),
    Measure("R8", 8, 100, persisted.refused_for_a_while),
    Measure("R9", 2, 20, replies.broken),
    Measure("R10", 3, 20, identities.wrong_models),
    Measure("R11", 20, 40, hosts.failed_loads),
    Measure("R12", 100, 2000, headers.broken_models),
    Measure("R13", 200, 2000, headers.broken_adapters),
    Measure("R14", 1, 1, headers.foreign_adapters),
    Measure("R15", 0, 30, disk.full_disks),
    Measure("R16", 200, 2000, stored.flipped_bits),
    Measure("R19", 20, 50, inputs.doubled_ids),
    Measure("R20", 0, 100_000, inputs.large_file),
    Measure("R21", 1, 1, inputs.hostile_text),
    Measure("R22", 1, 10, identities.long_prompts),
    Measure("R23", 0, 60, runs.raced_runs),
    Measure("R24", 20, 200, runs.signalled_runs),
    Measure("R26", 20, 40, hosts.killed_workers),
    Measure("R29", 6, 120, passages.lost_indexes),
    Measure("R31", 500, 50_000, schedules.random_days),
    Measure("S14", 1, 5, served.abused_server),
)


def measure(entry: Measure, *, large: bool) -> Finding:
    """One finding, with a server and a folder of its own."""
    with Bench() as bench:
        return entry.work(bench, entry.large if large else entry.push)


def page(found: Sequence[Finding], before: str = "") -> str:
    """The page: its rows as they were `before`, but for those that are `found`."""
    rows = {line.split("|")[1].strip(): line for line in before.splitlines() if re.match(r"\| [RS]\d", line)}
    for row in found:
        rows = {ids: line for ids, line in rows.items() if set(ids.split(", ")).isdisjoint(row.id.split(", "))}
        cells = (row.id, row.fault, row.promise, row.figure, f"{row.n:,}", "yes" if row.passed else "**no**")
        rows[row.id] = f"| {' | '.join(cell.replace('|', '/').replace(chr(10), ' ') for cell in cells)} |"
    measured = {part for ids in rows for part in ids.split(", ")}
    missing = [entry.id for entry in MEASURES if entry.id not in measured]
    text = _INTRODUCTION.format(missing=f"Not measured: {', '.join(missing)}." if missing else "No row is left out.")
    return text + "".join(rows[ids] + "\n" for ids in sorted(rows, key=_number))


def _number(ids: str) -> tuple[str, int]:
    """By which rows are in order.

    >>> sorted(["S14", "R11", "R6, R9"], key=_number)
    ['R6, R9', 'R11', 'S14']
    """
    first = ids.partition(",")[0]
    return first[0], int(first[1:])


def main() -> None:
    """Parse, measure, write."""
    parser = argparse.ArgumentParser(prog="python -m evals.faults", description=__doc__)
    parser.add_argument("--large", action="store_true", help="everything, with large numbers")
    parser.add_argument("--only", default="", help="only these rows, parted by commas")
    parser.add_argument("--out", type=Path, help="write the table here, as Markdown")
    parser.add_argument("--json", type=Path, help="write the rows here")
    parser.add_argument("--seed", type=int, help="with --only R31: tell this schedule event by event")
    options = parser.parse_args()
    if options.seed is not None:
        if options.only != "R31":
            parser.error("only the schedules of R31 are replayed by a seed")
        told = list(schedules.replay(options.seed))
        print("\n".join(told))
        sys.exit(any(line.startswith("BROKEN") for line in told))
    known = [entry for entry in MEASURES if options.large or entry.push]
    wanted = [name for name in options.only.split(",") if name]
    unknown = sorted(set(wanted) - {entry.id for entry in known})
    if unknown:
        parser.error(f"no such row: {', '.join(unknown)}; known: {', '.join(entry.id for entry in known)}")
    found = []
    for entry in [entry for entry in known if not wanted or entry.id in wanted]:
        began = time.monotonic()
        finding = measure(entry, large=options.large)
        found.append(finding)
        verdict = "passed" if finding.passed else "FAILED"
        seconds = f"{time.monotonic() - began:.0f} s"
        print(f"{finding.id} {verdict} in {seconds}: {finding.figure}", file=sys.stderr, flush=True)
        if options.out:
            before = options.out.read_text() if options.out.exists() else ""
            options.out.write_text(page([finding], before))
    if options.json:
        options.json.write_text(json.dumps([asdict(finding) for finding in found], indent=2) + "\n")
    if not options.out:
        print(page(found))
    sys.exit(not all(finding.passed for finding in found))


if __name__ == "__main__":
    main()
