"""`python -m evals.tasks.skills --out FILE`: the labelled questions the default router learns from.

With a skill and `--lessons N`, N training questions of it instead, with what its specialist is to write: the data of
`coe experts train`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict
from importlib import resources
from pathlib import Path
from random import Random

from evals.tasks.skills import DEFAULT, SKILLS, Item, items
from evals.tasks.skills.mix import mix, rows

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
    parser.add_argument("skills", nargs="*", metavar="SKILL", help=f"of {', '.join(SKILLS)}")
    parser.add_argument("--lessons", type=int, help="how many training questions, in equal shares of the skills")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    if strange := [skill for skill in given.skills if skill not in SKILLS]:
        parser.error(f"no skill is called {strange[0]!r}; known: {', '.join(SKILLS)}")
    if bool(given.skills) != (given.lessons is not None):
        parser.error("a SKILL and --lessons N go together")
    if given.skills:
        made: Iterator[dict[str, str]] = rows(mix(given.skills, given.lessons, given.seed))
    else:
        made = (asdict(item) for item in packaged(given.seed))
    lines = [json.dumps(row, ensure_ascii=False) for row in made]
    given.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
