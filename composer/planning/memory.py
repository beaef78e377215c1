"""Plans that were followed, with what came of them: the best of those like a question are shown to the planner (OpenAGI's feedback
from the task, without a gradient; Ge et al. 2023; METHODS I.8)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from composer.errors import InputError
from composer.folders import mend, replacing
from composer.planning.examples import MOST, Example
from composer.planning.plan import PlanError, read
from routers.errors import RouterError
from routers.nearest import Nearest
from routers.store import read as read_folder
from routers.store import write as write_folder
from routers.types import Array

if TYPE_CHECKING:
    from composer.registry.experts import Registry

_NEAR = 12  # of the nearest plans, those that did best are shown
_CLOSE = 0.25  # cosine, under which a question has nothing to do with another
_GOOD = 0.5  # what a plan has to have earned, to be followed
_HOMES = (__name__,)
_AGAIN = "learn them again: coe fit answers --plans FILE"
OTHER = (
    "the plans that are remembered are of another planner, or of this one with other weights or settings, and left out"
)


@dataclass(frozen=True, slots=True)
class Memory:
    """Questions [n], the text of the plan that was followed for each, what it earned (`scores`, 0 to 1), and the questions' unit
    `vectors` [n, dim]. One question may stand there with several plans."""

    questions: tuple[str, ...] = ()
    plans: tuple[str, ...] = ()
    scores: tuple[float, ...] = ()
    vectors: Array = field(default_factory=lambda: np.zeros((0, 0), dtype=np.float32))

    def __len__(self) -> int:
        return len(self.questions)

    def learn(self, questions: Sequence[str], plans: Sequence[str], scores: Sequence[float], vectors: Array) -> Memory:
        """With these as well; `vectors` [m, dim]. Raises PlanError for a text that is no plan, and nothing is learnt then."""
        for text in plans:
            read(text)
        own = np.asarray(vectors, dtype=np.float32)
        return Memory(
            (*self.questions, *questions),
            (*self.plans, *plans),
            (*self.scores, *map(float, scores)),
            np.concatenate([self.vectors, own]) if len(self) else own,
        )

    def examples(self, vectors: Array, most: int = MOST) -> list[tuple[Example, ...]]:
        """For each of `vectors` [m, dim], at most `most` plans of questions near it, those with the best score times cosine,
        the best one last, next to the question. None of them earned less than half."""
        good = [place for place, score in enumerate(self.scores) if score >= _GOOD]
        if not good or most < 1:
            return [()] * len(vectors)
        rows, cosines = Nearest().fit(self.vectors[good]).find(vectors, _NEAR)
        return [
            tuple(self._chosen([good[int(row)] for row in near], own, most))
            for near, own in zip(rows, cosines, strict=True)
        ]

    def _chosen(self, places: Sequence[int], cosines: Sequence[float], most: int) -> list[Example]:
        rated: dict[str, tuple[float, Example]] = {}
        for place, cosine in zip(places, cosines, strict=True):
            if cosine >= _CLOSE:
                worth = self.scores[place] * float(cosine)
                example = Example(self.questions[place], self.plans[place])
                rated.setdefault(example.question, (worth, example))
        best = sorted(rated.values(), key=lambda pair: -pair[0])[:most]
        return [example for _, example in reversed(best)]


class Known(NamedTuple):
    """The plans that a planner may be shown, and `why` they are none of those that are kept ("": they are)."""

    memory: Memory
    why: str = ""


@dataclass(frozen=True, slots=True)
class _Kept:
    """The file: whose plans they are."""

    planner: str
    memory: Memory


def planner_print(registry: Registry, planner: str) -> str:
    """What the plans of this planner belong to, as a sha256: another one, or the same with other weights or settings, may split the same
    question otherwise."""
    return hashlib.sha256(json.dumps(registry.material(planner), sort_keys=True).encode()).hexdigest()


def write_memory(folder: Path, memory: Memory, *, encoder: str, planner: str) -> None:
    """Write it to `folder` as a whole; `encoder` is the print of what made its vectors, `planner` that of who is shown them. Raises
    InputError where that cannot be written."""
    try:
        with replacing(folder) as fresh:
            write_folder(_Kept(planner, memory), fresh, keys={"encoder": encoder}, homes=_HOMES)
    except OSError as why:
        raise InputError(
            f"no plan can be kept here: {why.strerror or why}", where=str(folder), remedy="check the folder"
        ) from why


def read_memory(folder: Path, *, encoder: str, planner: str) -> Known:
    """What is kept in `folder`; empty where there is nothing, and where it is of another planner than has the print `planner`, or does
    not say of whom. Raises InputError where it cannot be read, holds what is no plan, or is of another encoder."""
    mend(folder)
    if not folder.exists():
        return Known(Memory())
    try:
        found = read_folder(folder, keys={"encoder": encoder}, homes=_HOMES)
        kept = found if isinstance(found, _Kept) else _Kept("", found)  # older ones do not say whose they are
        if not isinstance(kept.memory, Memory):
            raise RouterError("this is no memory of plans")
        for text in kept.memory.plans:
            read(text)
    except (RouterError, PlanError) as why:
        raise InputError(f"these plans cannot be used: {why}", where=str(folder), remedy=_AGAIN) from why
    if kept.planner != planner:
        return Known(Memory(), OTHER if len(kept.memory) else "")
    return Known(kept.memory)
