"""What was answered, as columns, and what aggregators make of it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from composer.errors import InputError
from routers.coverage import Signals
from routers.types import Arm, Indices

Table = NDArray[np.float64]
TRAITS = (
    "place of the option",
    "its length (log, less the mean)",
    "share of longer options",
    "none or all of the above",
)
_OPTION = re.compile(r"(?m)^[A-Z]\) (.*)$")
_SWEEPING = re.compile(r"\b(none|all|both) of\b|\bof the above\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Ballots:
    """The drafts of n questions, [n, T] in plan order, padded with slots where `arm` is -1.

    `arm` is a place in `arms`; `code` is equal for equal answers of a question and -1 where no answer could be read;
    `score` is the router's P(right) of the arm on the question; `length` counts characters; `options` [n] is how many
    there are to choose from (0: answers are free); `skill` [n] is a place in `skills`, -1 where none was found;
    `traits` [n, T, 4] (`TRAITS`) say what the option that was chosen looks like, zeros where there are none; `signals`
    say where the questions lie, None (or NaN in them) where nobody measured it.
    """

    arms: tuple[Arm, ...]
    arm: Indices
    code: Indices
    score: Table
    length: Indices
    options: Indices
    traits: Table
    skills: tuple[str, ...] = ()
    skill: Indices | None = None
    signals: Signals | None = None

    def __len__(self) -> int:
        return len(self.arm)

    def take(self, rows: Indices) -> Ballots:
        """The questions at `rows`."""
        return replace(
            self,
            arm=self.arm[rows],
            code=self.code[rows],
            score=self.score[rows],
            length=self.length[rows],
            options=self.options[rows],
            traits=self.traits[rows],
            skill=None if self.skill is None else self.skill[rows],
            signals=None if self.signals is None else self.signals.take(rows),
        )

    def places(self, names: Sequence[str]) -> Indices:
        """`arm` as places in `names`, those that an aggregator was fitted on. Raises InputError for an arm that is not
        among them."""
        column = {name: place for place, name in enumerate(names)}
        if strange := [arm.name for arm in self.arms if arm.name not in column]:
            raise InputError(
                f"the aggregator has not seen {', '.join(strange[:3])}", remedy="fit it again: coe fit answers"
            )
        here = np.array([column[arm.name] for arm in self.arms] or [0])
        return np.where(self.arm >= 0, here[np.maximum(self.arm, 0)], -1)

    def until(self, asked: Indices) -> Ballots:
        """Only the first `asked` [n] drafts of each question."""
        kept = np.arange(self.arm.shape[1]) < asked[:, None]
        return replace(self, arm=np.where(kept, self.arm, -1), code=np.where(kept, self.code, -1))


@dataclass(frozen=True, slots=True)
class Verdicts:
    """What an aggregator takes: the slot of the draft [n] (-1: none holds an answer), and how sure it is of it, in
    [0, 1] (P(right) where the aggregator was fitted, else a share)."""

    slot: Indices
    sure: Table


class Aggregator(Protocol):
    """Takes one draft per question."""

    def combine(self, ballots: Ballots) -> Verdicts:
        """Pure; a question alone and in a batch has the same verdict."""
        ...


@runtime_checkable
class Learning(Protocol):
    """An aggregator that learns from questions whose right answer is known."""

    def fit(self, ballots: Ballots, right: Table) -> Self:
        """Learn; `right` [n, T] is what each draft was worth, in [0, 1]. A second fit forgets the first."""
        ...


def traits(prompt: str, answers: Sequence[str | None]) -> Table:
    """What the options look like that `answers` (letters) name, [len(answers), 4]; zeros where the prompt has no
    lettered options or the answer is none of them.

    >>> traits("Which?\\nA) a cat\\nB) none of these", ["B", None]).round(2).tolist()
    [[1.0, 0.43, 0.0, 1.0], [0.0, 0.0, 0.0, 0.0]]
    """
    found = np.zeros((len(answers), len(TRAITS)))
    options = _OPTION.findall(prompt)
    if len(options) < 2:
        return found
    length = np.log1p([len(option) for option in options])
    for row, answer in enumerate(answers):
        place = ord(answer) - ord("A") if answer is not None and len(answer) == 1 else -1
        if 0 <= place < len(options):
            sweeping = bool(_SWEEPING.search(options[place]))
            longer = float((length > length[place]).mean())
            found[row] = place, length[place] - length.mean(), longer, sweeping
    return found
