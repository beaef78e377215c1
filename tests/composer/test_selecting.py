"""A few experts of many: solvers that differ are chosen, duplicates are not, and those are offered as one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from composer.cli import app
from composer.config import PACKAGED
from composer.errors import InputError
from composer.pipeline import Pipeline
from composer.registry.experts import Registry
from composer.selecting import choose, correlation, distances, judged, lines, select

NONE = np.ones((4, 4))


def test_a_duplicate_of_the_best_is_not_chosen_and_a_bad_expert_is_not_either() -> None:
    quality = np.array([1.0, 0.95, 0.7, 0.1])  # the best, its duplicate, another solver, a guesser
    apart = np.array([[0, 0, 0.9, 1], [0, 0, 0.9, 1], [0.9, 0.9, 0, 1], [1, 1, 1, 0.0]])

    assert choose(quality, apart, 2) == [0, 2]
    assert choose(quality, apart, 2, diversity=0) == [0, 1]
    assert choose(quality, apart, 3) == [0, 1, 2] or choose(quality, apart, 3) == [0, 2, 3]


def test_many_sets_are_built_up_from_the_best_and_few_are_all_looked_at() -> None:
    rng = np.random.default_rng(0)
    quality, apart = rng.random(60), rng.random((60, 60))
    apart = (apart + apart.T) / 2

    chosen = choose(quality, apart, 20)

    assert len(set(chosen)) == 20 and int(np.argmax(quality)) in chosen
    assert choose(quality, apart, 1) == [int(np.argmax(quality))]


def test_those_alike_are_offered_as_one_by_how_often_each_is_the_best() -> None:
    scores = np.array([[1, 1, 0, 0], [1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 1, np.nan]])
    quality = np.array([1.0, 0.7, 0.5, 0.0])

    found = {one.name: one for one in judged(["a", "b", "c", "d"], scores, quality, [0, 2], NONE)}

    b, d = found["b"], found["d"]
    assert (b.like, b.chosen) == ("a", False) and b.correlation == pytest.approx(2 / 3)
    assert b.weights == pytest.approx((1 / 3, 2 / 3))  # best on 1 of its questions, the other on 2
    assert d.weights is None and found["a"].like is None
    assert "coe experts add --sum a=0.67,b=0.33" in "\n".join(lines(list(found.values())))


def test_what_cannot_be_mixed_is_not_offered() -> None:
    scores = np.array([[1, 1], [0, 0.0]])

    [_, other] = judged(["a", "b"], scores, np.array([1.0, 1.0]), [0], np.zeros((2, 2)))

    assert (other.like, other.weights) == (None, None)


def test_correlation_of_what_never_changes_is_none() -> None:
    assert correlation(np.array([1.0, 1, 1]), np.array([1.0, 0, 1])) == 0
    assert correlation(np.array([1.0, 0, np.nan]), np.array([1.0, 0, 1])) == pytest.approx(1)


def test_adapters_differ_by_what_they_change_and_models_by_what_they_answer(packaged: Registry) -> None:
    names = ["general", "arithmetic", "units"]

    found = distances(packaged, names, [{"q": "1", "r": "2"}, {"q": "1", "r": "3"}, {"q": "4", "r": "3"}])

    assert (found == found.T).all() and found[0].tolist() == [0, 0.5, 1]
    assert 0.5 < found[1, 2] < 1.5  # two trainings have little in common


def test_the_real_solver_is_chosen_by_examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [json.loads(line) for line in (PACKAGED / "items.jsonl").read_text().splitlines()]
    few = [row for row in rows if row["task"] == "sorting"][:5]
    Path("few.jsonl").write_text("".join(json.dumps(row) + "\n" for row in few))

    done = CliRunner().invoke(app, ["experts", "select", "--data", "few.jsonl", "--keep", "1", "--json"])

    found = json.loads(done.stdout)
    assert found[0]["name"] == "sorting" and [one["chosen"] for one in found] == [True, False, False, False, False]
    assert found[0]["right"] > max(one["right"] for one in found[1:])


@pytest.mark.parametrize("keep", [0, 5])
def test_a_choice_of_all_or_none_is_refused(tmp_path: Path, keep: int) -> None:
    with pytest.raises(InputError, match="of 5 experts is no choice"):
        select(Pipeline.from_file(None), tmp_path / "none.jsonl", keep)
