"""`python -m evals.tasks.skills --out FILE`: the labelled questions the default router learns from."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict
from importlib import resources
from pathlib import Path
from random import Random

from evals.tasks.skills import DEFAULT, Item, items

_PROFILE, _CALIBRATION = 60, 20  # questions per skill


def packaged(seed: int = 0) -> Iterator[Item]:
    """Per default skill 60 to profile and 20 to calibrate, and the general ones parted alike."""
    for task in DEFAULT:
        yield from items(task, "profile", _PROFILE, seed)
        yield from items(task, "calibration", _CALIBRATION, seed)
    yield from general(seed)


def general(seed: int = 0) -> list[Item]:
    """The questions of general knowledge, four in five to profile, the rest to calibrate."""
    text = resources.files(__package__).joinpath("general_profile.jsonl").read_text("utf-8")
    rows = [json.loads(line) for line in text.splitlines()]
    Random(seed).shuffle(rows)
    cut = len(rows) * 4 // 5
    return [Item(**row, split="profile" if i < cut else "calibration") for i, row in enumerate(rows)]


def main(arguments: list[str] | None = None) -> None:
    """Write the rows as JSON lines, the form of any labelled file."""
    parser = argparse.ArgumentParser(prog="python -m evals.tasks.skills", description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    lines = [json.dumps(asdict(item), ensure_ascii=False) for item in packaged(given.seed)]
    given.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
