"""What the tests of training share: rows, and a child without torch that plays a script."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from composer.jsonl import Labelled, Question
from composer.training.lessons import Lessons


def row(number: int, question: str = "", answer: str = "1", target: str | None = None) -> Labelled:
    return Labelled(
        Question(str(number), question or f"Question {number}?", (), "text", number), answer, None, None, target=target
    )


def lessons(n: int = 8, held: int = 2) -> Lessons:
    rows = tuple(row(number) for number in range(1, n + 1))
    return Lessons(rows[held:], rows[:held], (), "0" * 64)


def step(number: int, loss: float | None, held: float | None, best: int, left: float | None = 1.0) -> dict[str, Any]:
    return {"event": "step", "step": number, "loss": loss, "held": held, "best": best, "left": left}


READY = {"event": "ready", "device": "cpu", "dtype": "float32", "weights": 7, "versions": {"torch": "0"}}


def scripted(
    folder: Path, events: Sequence[dict[str, Any] | str], *, adapter: Path | None = None, wait: str = ""
) -> str:
    """An interpreter that runs no child of ours: it writes `adapter` into the job's folder, and tells `events` (a text:
    a line as it stands). `wait` "stop": then it waits until its input is closed, and tells one more look and `done`;
    "ever": it does not listen."""
    place = folder / "interpreter"
    place.write_text(
        f"""#!{sys.executable}
import json, pathlib, shutil, sys, time
job = json.loads(pathlib.Path(sys.argv[3]).read_text())
for path in pathlib.Path({str(adapter)!r}).glob("adapter_*"):
    shutil.copy(path, job["out"])
for event in json.loads({json.dumps(json.dumps(list(events)))}):
    print(event if isinstance(event, str) else json.dumps(event), flush=True)
if {wait!r} == "ever":
    time.sleep(600)
if {wait!r} == "stop":
    sys.stdin.read()
    print(json.dumps({{"event": "step", "step": 5, "loss": 1.0, "held": 0.5, "best": 5, "left": 0.0}}))
    print(json.dumps({{"event": "done", "why": "stopped", "steps": 5, "best": 5, "loss": 1.0, "first": 2.0, "held": 0.5,
                      "seconds": 1.0}}))
"""
    )
    place.chmod(0o755)
    return str(place)
