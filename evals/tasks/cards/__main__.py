"""`python -m evals.tasks.cards CARD --out FILE`: what a knowledge expert is trained on, the data of `coe experts train`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from evals.tasks.cards import LIAR, SEED, TRUE, rows


def main(arguments: list[str] | None = None) -> None:
    """Write the rows of a card as JSON lines."""
    parser = argparse.ArgumentParser(prog="python -m evals.tasks.cards", description=__doc__)
    parser.add_argument("card", choices=(*TRUE, LIAR))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=SEED)
    given = parser.parse_args(arguments)
    lines = [json.dumps(row) for row in rows(given.card, given.seed)]
    given.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
