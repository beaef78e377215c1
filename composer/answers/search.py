"""Search over paths that ask different numbers of experts: which paths there are, what they inherit, which are kept, and what
the answer is. Pure: nothing is asked here.

Dynamic Experts Search (METHODS I.7) varies how many experts inside one mixture-of-experts model are active, from path to path, and
keeps the number along a path. Here whole experts take the place of those inside.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Path:
    """A path that asks `k` experts at each step. `sample` tells it from others of the same k and the same past, where experts
    draw at a temperature; `steps` are the places of the drafts that each step gave, among all drafts of the question."""

    k: int
    sample: int = 0
    steps: tuple[tuple[int, ...], ...] = ()

    def after(self, drafts: Sequence[int]) -> Path:
        """One step further; k stays."""
        return Path(self.k, self.sample, (*self.steps, tuple(drafts)))

    @property
    def drafts(self) -> tuple[int, ...]:
        """All drafts of the path, each once, first to last."""
        return tuple(dict.fromkeys(place for step in self.steps for place in step))


def widths(k: int, most: int, spread: int = 2) -> tuple[int, ...]:
    """How many experts a path may ask: `k` and up to `spread` fewer or more, of `most` there are.

    >>> widths(1, 5), widths(3, 4)
    ((1, 2, 3), (1, 2, 3, 4))
    """
    return tuple(range(max(1, min(k, most) - spread), min(most, k + spread) + 1))


def first_paths(count: int, among: Sequence[int], usual: int) -> tuple[Path, ...]:
    """`count` paths, spread evenly over the widths `among`, the `usual` one always with them; what is left over goes to those nearest
    to it. Paths of one width have samples of their own.

    >>> [(path.k, path.sample) for path in first_paths(4, (1, 2, 3), 1)]
    [(1, 0), (1, 1), (2, 0), (3, 0)]
    >>> [path.k for path in first_paths(2, (1, 2, 3, 4, 5), 3)]
    [1, 3]
    """
    each, left = divmod(count, len(among))
    if each == 0:
        others = [k for k in among if k != usual]
        spread = np.linspace(0, len(others) - 1, count - (usual in among))
        extra = {usual, *(others[round(place)] for place in spread)}
    else:
        extra = set(sorted(among, key=lambda k: (abs(k - usual), k))[:left])
    return tuple(Path(k, sample) for k in among for sample in range(each + (k in extra)))


def children(kept: Sequence[Path], count: int) -> tuple[Path, ...]:
    """`count` paths that go on from those that were `kept`, best first, in turns; each has the k of its parent.

    >>> [(path.k, path.sample) for path in children([Path(3, 0, ((1,),)), Path(1, 1, ((0,),))], 3)]
    [(3, 0), (1, 0), (3, 1)]
    """
    return tuple(
        Path(kept[place % len(kept)].k, place // len(kept), kept[place % len(kept)].steps) for place in range(count)
    )


def distinct(paths: Sequence[Path]) -> tuple[Path, ...]:
    """Of paths with the same k and the same drafts the first: at temperature 0 they are one path, and would vote twice."""
    found: dict[tuple[int, tuple[tuple[int, ...], ...]], Path] = {}
    for path in paths:
        found.setdefault((path.k, path.steps), path)
    return tuple(found.values())


def answer_of(path: Path, codes: Sequence[int]) -> int:
    """The code of what most drafts of the path's last step say, of equally many the one that was planned first; -1 where none
    holds an answer. `codes` are equal for equal answers, -1 where there is none.

    >>> answer_of(Path(3, 0, ((0, 1, 2),)), [7, 4, 4]), answer_of(Path(2, 0, ((0, 1),)), [-1, -1])
    (4, -1)
    """
    said = [codes[place] for place in path.steps[-1] if codes[place] >= 0]
    return max(said, key=said.count, default=-1)


def agreeing(code: int, codes: Sequence[int]) -> float:
    """Self-consistency as a verifier: the share of all drafts of the question that say it; 0 for no answer.

    >>> agreeing(4, [7, 4, 4, -1])
    0.5
    """
    return codes.count(code) / len(codes) if code >= 0 else 0.0


def best_of(values: Sequence[float], width: int) -> list[int]:
    """The places of the `width` most valued paths, best first; of equal ones the first.

    >>> best_of([0.2, 0.5, 0.5], 2)
    [1, 2]
    """
    return sorted(range(len(values)), key=lambda place: -values[place])[:width]


def winner(answers: Sequence[int], values: Sequence[float]) -> int | None:
    """The place of the path whose answer has the largest sum of values over all paths that give it: of these the most valued one.
    Equal sums go to the answer of the most valued path, then of the first. None where no path with an answer has a value above 0.

    >>> winner([4, 7, 7], [0.5, 0.3, 0.4]), winner([-1], [0.0])
    (2, None)
    """
    sums: dict[int, float] = {}
    for code, value in zip(answers, values, strict=True):
        if code >= 0 and value > 0:
            sums[code] = sums.get(code, 0.0) + value
    if not sums:
        return None
    most = {code: max(value for own, value in zip(answers, values, strict=True) if own == code) for code in sums}
    best = max(sums, key=lambda code: (round(sums[code], 9), most[code]))
    return max((place for place, code in enumerate(answers) if code == best), key=lambda place: values[place])
