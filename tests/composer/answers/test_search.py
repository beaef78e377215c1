"""Search over paths: numbers of experts are spread and inherited, the best are kept, and answers weigh what their paths are worth."""

from __future__ import annotations

import numpy as np
import pytest

from composer.answers.search import (
    Path,
    agreeing,
    answer_of,
    best_of,
    children,
    distinct,
    first_paths,
    widths,
    winner,
)


@pytest.mark.parametrize(
    ("k", "most", "found"),
    [(1, 5, (1, 2, 3)), (3, 9, (1, 2, 3, 4, 5)), (5, 5, (3, 4, 5)), (8, 3, (1, 2, 3)), (1, 1, (1,))],
)
def test_widths_lie_around_the_usual_one_and_are_clipped(k: int, most: int, found: tuple[int, ...]) -> None:
    assert widths(k, most) == found


@pytest.mark.parametrize("count", range(1, 12))
def test_paths_are_spread_evenly(count: int) -> None:
    paths = first_paths(count, (1, 2, 3, 4, 5), 3)
    ks = [path.k for path in paths]

    assert len(paths) == count
    assert count < 5 or max(map(ks.count, range(1, 6))) - min(map(ks.count, range(1, 6))) <= 1
    assert count >= 5 or (len(set(ks)) == count and 3 in ks)
    assert len({(path.k, path.sample) for path in paths}) == count


def test_one_path_asks_as_many_as_usual() -> None:
    assert [path.k for path in first_paths(1, (1, 2, 3), 2)] == [2]


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_the_number_of_experts_stays_along_a_path(steps: int) -> None:
    kept = first_paths(4, (1, 2, 3), 2)
    for number in range(steps):
        grown = [path.after(tuple(range(number * 3, number * 3 + path.k))) for path in kept]
        assert all(len(step) == path.k for path in grown for step in path.steps)
        parents = {path.steps: path.k for path in grown}
        kept = children(grown[:2], 4)
        assert all(parents[path.steps] == path.k for path in kept)


def test_paths_with_the_same_drafts_are_one() -> None:
    one, other, same = Path(1, 0, ((0,),)), Path(2, 0, ((0, 1),)), Path(1, 1, ((0,),))

    assert distinct([one, other, same]) == (one, other)


def test_a_path_says_what_most_of_its_last_step_say() -> None:
    codes = [1, 2, 2, -1]

    assert answer_of(Path(3, 0, ((0, 1, 2),)), codes) == 2
    assert answer_of(Path(2, 0, ((1, 2), (0, 3))), codes) == 1, "of the last step alone"
    assert answer_of(Path(2, 0, ((0, 1),)), codes) == 1, "of equally many the better routed"


def test_the_beam_and_the_vote_go_by_value() -> None:
    assert best_of([0.1, 0.4, 0.4, 0.2], 3) == [1, 2, 3]
    assert winner([5, 6, 6], [0.6, 0.2, 0.3]) == 0
    assert winner([5, 6, 6], [0.4, 0.2, 0.3]) == 2
    assert winner([5, 6], [0.4, 0.4]) == 0
    assert winner([5, 5, 6], [0.3, 0.3, 0.6]) == 2
    assert winner([5, 6], [0.0, 0.0]) is None
    assert winner([-1, 6], [0.9, 0.1]) == 1
    assert agreeing(6, [5, 6, 6, -1]) == 0.5 and agreeing(-1, [-1]) == 0


def coverage(ks: list[int], right: np.ndarray, sample: np.ndarray) -> float:
    """The share of questions that any of the paths answers rightly. `right` [question, expert, sample] in the order in which they
    are routed; wrong experts agree with each other, so a path is right where more than half of its experts are."""
    said = [right[:, :k, sample[place]].sum(axis=1) * 2 > k for place, k in enumerate(ks)]
    return float(np.any(said, axis=0).mean())


def test_paths_of_different_widths_cover_more_than_as_many_of_the_usual_one() -> None:
    """METHODS I.7: on half of the questions the best routed expert knows it and others do not, on the other half it is sure and
    wrong, and most of the others know it. At any single width about half of the questions are answered."""
    rng = np.random.default_rng(0)
    alone = rng.random(2000) < 0.5
    chance = np.where(alone[:, None], [0.9, 0.05, 0.05, 0.05, 0.05], [0.05, 0.9, 0.9, 0.9, 0.9])
    right = rng.random((2000, 5, 5)) < chance[:, :, None]
    mixed = first_paths(5, widths(3, 5), 3)
    usual = [Path(3, sample) for sample in range(5)]

    each = [coverage([k], right, np.array([0])) for k in (1, 3, 5)]
    gain = coverage([path.k for path in mixed], right, np.arange(5)) - coverage([3] * 5, right, np.arange(5))

    assert max(each) - min(each) < 0.12, "equal accuracy, complementary answers"
    assert sum(path.k for path in mixed) == sum(path.k for path in usual), "the same calls"
    assert gain > 0.1


def test_where_no_width_knows_more_than_another_nothing_is_gained() -> None:
    rng = np.random.default_rng(1)
    right = rng.random((2000, 5, 5)) < 0.5
    gain = coverage([1, 2, 3, 4, 5], right, np.arange(5)) - coverage([3] * 5, right, np.arange(5))

    assert abs(gain) < 0.05
