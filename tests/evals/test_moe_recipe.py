"""The recipe of the small mixture-of-experts model, and what is measured on it."""

import math
import subprocess
import sys
from pathlib import Path

import pytest

from evals.tasks.skills import split_of
from evals.train.moe import SHARES, lessons, sums
from evals.train.moe_contrast import Told, Way, families, problems, table


def test_no_problem_of_the_test_is_taught() -> None:
    taught = {one.prompt for one in lessons(4000, seed=0)}
    assert len(taught) > 1500
    for split in ("profile", "calibration", "test"):
        held = [one for skill in SHARES for one in sums(skill, split, 300)]
        assert not taught & {one.prompt for one in held}
        assert len({one.prompt for one in held}) == len(held) == 600
    assert split_of("17+25") == split_of("17+25")


def test_what_is_taught_is_true_and_the_answer_is_its_last_number() -> None:
    for one in lessons(2000, seed=1):
        *steps, answer = [part for part in (one.prompt + one.target).split("=") if part]
        values = {math.prod(map(int, step.split("*"))) if "*" in step else _sum(step) for step in steps}
        assert values == {int(answer)} == {int(one.answer)}, one


def _sum(text: str) -> int:
    return sum(int(part) for part in text.replace("-", "+-").split("+"))


def test_the_table_pairs_each_way_with_greedy() -> None:
    given = sums("arithmetic", "test", 40)
    greedy = Told(tuple(place % 2 == 0 for place in range(40)), 1.0, 8.0)
    better = Told((True,) * 40, 2.0, 12.0)

    lines = table(greedy, [("greedy", Way(""), greedy), ("SCMoE", Way("rank 2", 2, 0.5), better)], given, 0)

    assert len(lines) == 4
    assert "| 50.0 % |  | 1.00 | 8.0 |" in lines[2]
    assert "| SCMoE | rank 2 | 100.0 % | +50.0 (+" in lines[3] and "| 2.00 | 12.0 |" in lines[3]


def test_calibration_and_test_share_no_problem_and_every_way_has_a_name() -> None:
    groups = families()
    assert all(way.name for group in groups.values() if len(group) > 1 for way in group)
    assert groups["SCMoE as published"][0] in groups["SCMoE"]
    assert not {one.prompt for one in problems("calibration", 200, 0)} & {
        one.prompt for one in problems("test", 200, 0)
    }


@pytest.mark.vllm
@pytest.mark.slow
def test_a_model_is_trained_measured_and_the_same_again(tmp_path: Path) -> None:
    """Three steps teach nothing: this is about the way from one end to the other."""
    for name in ("one", "two"):
        _run("evals.train.moe", str(tmp_path / name), "--steps", "3", "--size", "8")
    one, two = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("one", "two"))
    assert one == two

    told = _run("evals.train.moe_contrast", str(tmp_path / "one"), "--calibration", "3", "--test", "3")

    assert "| SCMoE | rank 1, beta 0.1 | 0.0 % | +0.0 (+0.0 to +0.0) | 2.00 | 12.0 |" in told
    assert "| 4 experts |  | 0.0 % | +0.0 (+0.0 to +0.0) | 1.00 | 16.0 |" in told


def _run(*arguments: str) -> str:
    done = subprocess.run([sys.executable, "-m", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout
