"""A disk that is full (R15): runs in a file system of a few hundred KiB, in a name space of their own.

Run as `unshare -rm python -m evals.faults.disk FOLDER POINTS`, as `full_disks` does; it prints one JSON object.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

from evals.faults.bench import RUN, Bench, Finding, digest, left_behind, questions, rows_of
from evals.faults.nursery import Nursery

_QUESTIONS = 200
_SMALLEST, _LARGEST = 132, 1532  # KiB: from hardly a table to nearly all of a run


def full_disks(bench: Bench, points: int) -> Finding:
    """R15: the run meets a full disk at `points` sizes; then there is room, and the same command goes on."""
    promise = "exit 7 with a message and no torn export; with room again the same command ends as one that met none"
    folder = bench.new("disk")
    whole = bench.prepared("whole", questions(_QUESTIONS), "ok")
    bench.nursery.run(whole, RUN)
    for name in ("in.jsonl", "experts.yaml", "out.jsonl"):
        shutil.copy(whole / name, folder / name)
    words = [sys.executable, "-m", __name__, str(folder), str(points)]
    asked = subprocess.run(["unshare", "-rm", *words], capture_output=True, text=True, check=False)
    if asked.returncode:
        figure = f"could not be measured here: {asked.stderr.strip().splitlines()[-1]}"
        return Finding("R15", "disk full", promise, figure, 0, False)
    told = json.loads(asked.stdout)
    wrong = Counter[str](told["wrong"])
    others = "".join(f"; {name} {count}" for name, count in wrong.items() if count and name not in ("lost", "torn"))
    figure = f"stopped {told['stopped']}, lost or doubled {wrong['lost']}, torn exports {wrong['torn']}{others}"
    return Finding("R15", "disk full", promise, figure, points, not +wrong)


def main(source: Path, points: int) -> None:
    """Inside the name space."""
    wrong, stopped = Counter[str](), 0
    disk = source / "disk"
    disk.mkdir()
    with Nursery() as nursery:
        for point in range(points):
            subprocess.run(
                [
                    "mount",
                    "-t",
                    "tmpfs",
                    "-o",
                    f"size={_SMALLEST + (_LARGEST - _SMALLEST) * point // points}k",
                    "none",
                    disk,
                ],
                check=True,
            )
            for name in ("in.jsonl", "experts.yaml"):
                shutil.copy(source / name, disk / name)
            command = {"TMPDIR": str(source), "COE_SAID": str(source / "said.txt")}
            code = nursery.run(disk, RUN, **command)
            said = (source / "said.txt").read_text()
            stopped += code == 7
            wrong[f"exit {code} instead of 7"] += code not in (0, 7)
            wrong["no message"] += code != 0 and ("full" not in said or "Traceback" in said)
            torn = (disk / "out.jsonl").exists() and digest(disk) != digest(source)
            wrong["torn"] += torn
            subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
            wrong["not resumed"] += nursery.run(disk, RUN, **command) != 0
            wrong["lost"] += digest(disk) != digest(source) or len(rows_of(disk / "out.jsonl")) != _QUESTIONS
            wrong["left behind"] += len(left_behind(disk))
            subprocess.run(["umount", disk], check=True)
    sys.stdout.write(json.dumps({"stopped": stopped, "wrong": wrong}) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
