"""What self-contrast inside one mixture-of-experts model costs; a part of `evals.bench.contrast`.

The model is a random Mixtral of 21 M parameters in a process of the interpreter that has torch. "Alone" is what a user of
transformers would write (`bare` in `evals/train/moe_contrast_child.py`): greedy decoding with a cache, without a hook.
Each batch is of prompts of 12 tokens, and every text has 24: no token ends one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from evals.train.moe_contrast import LARGER, rows

ROUNDS = 7  # of turns, of which the median counts


@dataclass(frozen=True, slots=True)
class InModel:
    """CPU milliseconds per token of a batch of `size`."""

    size: int
    alone: float
    both: float


def in_model(python: str, sizes: Sequence[int], rounds: int = ROUNDS) -> list[InModel]:
    """All sizes. Raises SystemExit where the process fails, which says why itself."""
    told = rows(python, {"cost": list(sizes), "random": LARGER, "rounds": rounds})
    return [InModel(row["batch"], 1000 * row["greedy"], 1000 * row["SCMoE"]) for row in told]
