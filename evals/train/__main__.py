"""`python -m evals.train SKILL`: the lessons of a skill written as JSONL, and one adapter made of them.

The same as `python -m evals.tasks.skills SKILL --lessons N --out FILE` and then `coe experts train --data FILE`, with the
settings of the packaged specialists.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from composer.config import load_settings, packaged_registry
from composer.registry.experts import Registry
from composer.registry.vllm_home import find_python
from composer.training.base import find_trainee
from composer.training.lessons import read_lessons
from composer.training.process import Step
from composer.training.run import Recipe, train
from composer.training.show import line
from evals.tasks.coder import programs
from evals.tasks.planner import plans
from evals.tasks.skills import SKILLS, Lesson
from evals.tasks.skills.mix import mix, rows

PLANNER, CODER = "planner", "coder"
#: steps of `SIZE` lessons, as many as the shipped adapters have had; the first five were trained in several stretches
#: (`--start`), with the lessons changing on the way (docs/log.md), and a single run of these steps has not been measured
STEPS = {
    "arithmetic": 1600,
    "dates": 850,
    "extraction": 200,
    "sorting": 2600,
    "units": 700,
    "numerals": 400,
    "wordforms": 300,
    PLANNER: 500,
    CODER: 600,
}
SIZE = 4  # small batches take more steps, which taught more per token


def main(arguments: list[str] | None = None) -> None:
    """Write FOLDER.jsonl and FOLDER."""
    parser = argparse.ArgumentParser(prog="python -m evals.train", description=__doc__)
    parser.add_argument("skill", choices=[*(name for name in SKILLS if "-" not in name), PLANNER, CODER, "union"])
    parser.add_argument("--skills", help="for union: the skills, parted by commas")
    parser.add_argument("--base", help="a model of the packaged registry, a GGUF file or a folder")
    parser.add_argument("--out", type=Path, help="folder to write (default: the skill's name)")
    parser.add_argument("--start", type=Path, help="a PEFT folder to go on from")
    parser.add_argument("--python", help="an interpreter with torch, transformers and peft")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--rate", type=float, default=2.5e-3)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    skills = tuple((given.skills or given.skill).split(","))
    steps = given.steps or sum(STEPS[skill] for skill in skills)
    out = given.out or Path(given.skill)
    data = out.with_name(f"{out.name}.jsonl")
    lessons = _lessons(skills, steps * SIZE, given.seed)
    made = [json.dumps(row, ensure_ascii=False) for row in rows(lessons)]
    data.write_text("\n".join(made) + "\n", encoding="utf-8")
    registry = Registry(load_settings(packaged_registry()))
    recipe = Recipe(
        steps=steps, size=SIZE, rank=4, alpha=8, rate=given.rate, seed=given.seed, patience=steps, start=given.start
    )
    done = train(
        find_trainee(registry, given.base or registry.settings.generalist.model),
        read_lessons(data, holdout=None, seed=given.seed),
        out,
        recipe,
        name=out.name,
        python=find_python(given.python),
        threads=1,
        hear=_print,
    )
    print(f"held-out questions right: before {done.before}, after {done.after}")


def _lessons(skills: tuple[str, ...], n: int, seed: int) -> list[Lesson]:
    if skills == (PLANNER,):
        return plans(n, seed)
    return programs(n, seed) if skills == (CODER,) else mix(skills, n, seed)


def _print(told: Step | str) -> None:
    if isinstance(told, str) or told.held is not None:
        print(told if isinstance(told, str) else line(told), flush=True)


if __name__ == "__main__":
    main()
