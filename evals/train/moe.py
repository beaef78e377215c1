"""`python -m evals.train.moe OUT`: a small mixture-of-experts model that has learnt something, from the arithmetic lessons.

A Mixtral of 4 layers with 8 experts of which 2 answer, over the 14 characters of written sums. It reads `95-66=` and
writes `35-6=29`: the specialist's own way of solving (`evals.tasks.skills.arithmetic`), without its words and blanks. It
is for looking at what routing does in a model that is no longer random (`evals.train.moe_contrast`), and good for nothing
else. Training takes an interpreter with torch and transformers (--python, else COE_VLLM).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from random import Random
from typing import Any

import composer
from composer.registry.vllm_home import find_python
from evals.tasks.skills import SKILLS, Split, split_of

SHARES = {"arithmetic": 0.5, "arithmetic-3digit": 0.5}  # of the lessons; two-digit problems are few, and are repeated
LESSONS = 200_000
SHAPE = {
    "hidden_size": 128,
    "intermediate_size": 192,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
    "max_position_embeddings": 64,
    "router_aux_loss_coef": 0.02,
}
_CHILD = Path(__file__).with_name("moe_child.py")


@dataclass(frozen=True, slots=True)
class Sum:
    """A problem as the model sees it: `prompt` up to the first `=`, the `target` after it, its last number the answer."""

    form: str
    prompt: str
    target: str

    @property
    def answer(self) -> str:
        return self.target.rsplit("=", 1)[-1]


def sums(skill: str, split: Split, n: int, seed: int = 0, *, unique: bool = True) -> list[Sum]:
    """`n` problems of a split, the same for the same seed; fewer where no more are found (`unique`).

    >>> [one.prompt + one.target for one in sums("arithmetic", "test", 3)]
    ['50+17=67', '99*6=540+54=594', '35-17=25-7=18']
    """
    taught, rng = SKILLS[skill], Random(f"moe/{skill}/{split}/{seed}")
    found: dict[str, Sum] = {}
    for tried in count():
        if len(found) >= n or tried > 50 * n:
            break
        problem = taught.draw(rng, split)
        if split_of(problem.key) != split:
            continue
        prompt, _, target = problem.target.replace(" ", "").partition("=")
        form = problem.form if skill == "arithmetic" else "plus-3digit"
        found[problem.key if unique else str(tried)] = Sum(form, f"{prompt}=", target)
    return list(found.values())


def lessons(n: int, seed: int) -> list[Sum]:
    """`n` training problems in their shares, shuffled."""
    found = [
        one for skill, share in SHARES.items() for one in sums(skill, "train", round(n * share), seed, unique=False)
    ]
    Random(seed).shuffle(found)
    return found


def child(python: str, script: Path, job: Mapping[str, Any], *, bare: bool = False) -> subprocess.Popen[str]:
    """Start a script of the other interpreter with its job as JSON; what it prints is to be read. It has one thread, and
    with `bare` the folder of `composer`, but none of what that package else needs."""
    with tempfile.NamedTemporaryFile("w", suffix=".json", prefix="coe-moe-", delete=False) as file:
        json.dump(job, file)
    ready = f"sys.modules['composer'] = types.ModuleType('composer'); sys.modules['composer'].__path__ = {list(composer.__path__)!r}"
    code = (
        f"import runpy, sys, types; {ready if bare else 'pass'}; runpy.run_path(sys.argv.pop(1), run_name='__main__')"
    )
    alone = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "HF_HUB_OFFLINE"), "1")
    return subprocess.Popen(
        [python, "-c", code, str(script), file.name], stdout=subprocess.PIPE, text=True, env={**os.environ, **alone}
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Train and write a folder of safetensors, its vocabulary in it."""
    parser = argparse.ArgumentParser(prog="python -m evals.train.moe", description=__doc__)
    parser.add_argument("out", type=Path, help="folder to write")
    parser.add_argument("--python", help="an interpreter with torch and transformers")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--size", type=int, default=128, help="problems per step")
    parser.add_argument("--rate", type=float, default=3e-3)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    held = [one for skill in SHARES for one in sums(skill, "profile", 150, given.seed)]
    job = {
        "lessons": [[one.prompt, one.target] for one in lessons(LESSONS, given.seed)],
        "held": [[one.prompt, one.target] for one in held],
        "shape": SHAPE,
        "steps": given.steps,
        "size": given.size,
        "rate": given.rate,
        "seed": given.seed,
        "out": str(given.out),
    }
    running = child(find_python(given.python), _CHILD, job)
    assert running.stdout is not None
    for line in running.stdout:
        print(line, end="", flush=True)
    raise SystemExit(running.wait())


if __name__ == "__main__":
    main()
