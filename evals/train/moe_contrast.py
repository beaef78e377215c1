"""`python -m evals.train.moe_contrast FOLDER`: whether routing on purpose helps the small model of `evals.train.moe`, and what
it costs.

Exact matches on problems it was not trained with: greedy, other numbers of experts, top-p routing, self-contrast with weak
experts by rank and at random. What is chosen (rank, beta, p) is chosen on calibration problems; the table is of test
problems, each difference to greedy with its paired 95 % interval. `--cost` measures CPU seconds per token instead.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from composer.registry.vllm_home import find_python
from evals.tasks.skills import Split
from evals.train.moe import SHARES, Sum, child, sums
from routers.stats import paired_difference

RANKS = (1, 2, 3, 5, 7)  # from 0; a top-2 model itself chooses 0 and 1
BETAS = (0.1, 0.3, 0.5, 0.7, 0.9)
PS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
LARGER = {
    "vocab_size": 2000,
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
}
_CHILD = Path(__file__).with_name("moe_contrast_child.py")


@dataclass(frozen=True, slots=True)
class Way:
    """A way to decode. `rank` is a rank from 0, "random", or None for one path; `k` and `top_p` are of the strong path."""

    name: str
    rank: int | str | None = None
    beta: float = 0.0
    alpha: float = 0.1
    weight: str = "one"
    k: int | None = None
    top_p: float | None = None
    weights: str = "raw"


@dataclass(frozen=True, slots=True)
class Told:
    """What a way did: which problems it got right, passes and expert activations per token that was written."""

    right: tuple[bool, ...]
    passes: float
    activations: float

    @property
    def share(self) -> float:
        return sum(self.right) / len(self.right)


def families() -> dict[str, list[Way]]:
    """The ways by what is chosen among them on calibration problems."""
    return {
        **{f"{k} expert{'s' * (k > 1)}": [Way("", k=k)] for k in (1, 2, 3, 4)},
        "top-p, raw weights": [Way(f"p {p}", top_p=p) for p in PS],
        "top-p, normalised": [Way(f"p {p}", top_p=p, weights="family") for p in PS],
        "SCMoE as published": [Way("rank 2, beta 0.5", 2, 0.5)],
        "SCMoE": [Way(f"rank {rank}, beta {beta}", rank, beta) for rank in RANKS for beta in BETAS],
        "SCMoE, raw weight": [
            Way(f"rank {rank}, beta {beta}", rank, beta, weight="raw") for rank in RANKS for beta in BETAS
        ],
        "random weak expert": [Way(f"beta {beta}", "random", beta) for beta in BETAS],
    }


def problems(split: Split, n: int, seed: int) -> list[Sum]:
    """`n` problems of each skill, or as many as there are."""
    return [one for skill in SHARES for one in sums(skill, split, n, seed)]


def ask(python: str, folder: Path, ways: Sequence[Way], given: Sequence[Sum]) -> list[Told]:
    """What each way does with the problems."""
    job = {
        "folder": str(folder),
        "ways": [asdict(way) for way in ways],
        "problems": [[one.prompt, one.target] for one in given],
    }
    return [Told(tuple(row["right"]), row["passes"], row["activations"]) for row in rows(python, job)]


def rows(python: str, job: dict[str, Any]) -> list[dict[str, Any]]:
    """What the child says of a job, line by line."""
    running = child(python, _CHILD, job, bare=True)
    told, _ = running.communicate()
    if running.returncode:
        raise SystemExit(running.returncode)
    return [json.loads(line) for line in told.splitlines() if line.startswith("{")]


def table(greedy: Told, found: Sequence[tuple[str, Way, Told]], given: Sequence[Sum], seed: int) -> list[str]:
    """The rows of the table in Markdown."""
    forms = sorted({one.form for one in given})
    lines = [
        f"| way | chosen | right of {len(given)} | less greedy (95 %) | passes a token | activations a token | {' | '.join(forms)} |",
        "|---" * (6 + len(forms)) + "|",
    ]
    for name, way, told in found:
        mean, low, high = paired_difference(told.right, greedy.right, seed=seed)
        shares = []
        for form in forms:
            own = [right for right, one in zip(told.right, given, strict=True) if one.form == form]
            shares.append(f"{100 * sum(own) / len(own):.1f} %")
        gap = "" if told is greedy else f"{100 * mean:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"
        lines.append(
            f"| {name} | {way.name} | {100 * told.share:.1f} % | {gap} | {told.passes:.2f} | {told.activations:.1f} | {' | '.join(shares)} |"
        )
    return lines


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table, or the costs."""
    parser = argparse.ArgumentParser(prog="python -m evals.train.moe_contrast", description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", help="what `evals.train.moe` wrote; not needed with --random")
    parser.add_argument("--python", help="an interpreter with torch and transformers")
    parser.add_argument("--calibration", type=int, default=300, help="problems of each skill")
    parser.add_argument("--test", type=int, default=800, help="problems of each skill")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cost", action="store_true")
    parser.add_argument(
        "--random", action="store_true", help="cost of a random model of 21 M parameters, whose experts weigh more"
    )
    given = parser.parse_args(arguments)
    if (given.random and not given.cost) or (given.folder is None and not given.random):
        parser.error("a random model has a cost and nothing else; the rest needs the FOLDER of a trained one")
    python = find_python(given.python)
    if given.cost:
        model = {"random": LARGER} if given.random else {"folder": str(given.folder)}
        for row in rows(python, {"cost": [1, 8, 32], **model}):
            print(
                f"batch {row['batch']}: greedy {1000 * row['greedy']:.2f} CPU ms a token, "
                + ", ".join(
                    f"{name} {row[name] / row['greedy']:.2f} times" for name in row if name not in ("batch", "greedy")
                )
            )
        return
    groups = families()
    calibration = problems("calibration", given.calibration, given.seed)
    ways = [way for group in groups.values() for way in group]
    seen = dict(zip(ways, ask(python, given.folder, ways, calibration), strict=True))
    chosen = {
        name: max(group, key=lambda way: seen[way].share) for name, group in groups.items()
    }  # of equal ones the first
    for name in ("SCMoE", "random weak expert"):
        print(f"calibration, {name}: " + "; ".join(f"{way.name} {100 * seen[way].share:.1f} %" for way in groups[name]))
    test = problems("test", given.test, given.seed)
    ways = [Way("greedy"), *chosen.values()]
    greedy, *told = ask(python, given.folder, ways, test)
    lines = [
        ("greedy", Way(""), greedy),
        *((name, way, one) for (name, way), one in zip(chosen.items(), told, strict=True)),
    ]
    print("\n".join(table(greedy, lines, test, given.seed)))


if __name__ == "__main__":
    main()
