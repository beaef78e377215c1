"""`python -m evals.train SKILL`: one adapter from nothing but the base GGUF."""

from __future__ import annotations

import argparse
from pathlib import Path

from composer.registry.bases import GgufBase
from composer.registry.convert import convert_peft
from composer.registry.gguf import read_header
from evals.tasks.skills import SKILLS
from evals.train.base import base_folder, base_gguf
from evals.train.lora import Recipe, train

#: steps of 4 lessons, as many as the shipped adapters have had; those were trained in several stretches (`--start`),
#: with the lessons changing on the way (docs/log.md), and a single run of these steps has not been measured
STEPS = {"arithmetic": 1600, "dates": 850, "extraction": 200, "sorting": 2600, "units": 700}


def main(arguments: list[str] | None = None) -> None:
    """Train, save as PEFT, convert to GGUF."""
    parser = argparse.ArgumentParser(prog="python -m evals.train", description=__doc__)
    parser.add_argument("skill", choices=[*(name for name in SKILLS if "-" not in name), "union"])
    parser.add_argument("--skills", help="for union: the skills, parted by commas")
    parser.add_argument("--base", help="the base model, a GGUF file (default: the packaged one)")
    parser.add_argument("--cache", type=Path, default=Path(".cache/train"))
    parser.add_argument("--out", type=Path, help="folder to write (default: the skill's name)")
    parser.add_argument("--start", type=Path, help="a PEFT folder to go on from")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--rate", type=float, default=2.5e-3)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    skills = tuple((given.skills or given.skill).split(","))
    steps = given.steps or sum(STEPS[skill] for skill in skills)
    out = given.out or Path(given.skill)
    weights = base_gguf(given.base)
    base = base_folder(weights, given.cache)
    recipe = Recipe(skills, steps, given.seed, rate=given.rate, start=given.start)
    for line in train(recipe, base, out):
        print(line, flush=True)
    convert_peft(out, GgufBase(weights.name, read_header(weights)), out / f"{out.name}.gguf")


if __name__ == "__main__":
    main()
