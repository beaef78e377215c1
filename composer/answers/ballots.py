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
    "share of smaller options, where they are numbers",
    "its distance from their middle",
    "kind of a free answer: number, quoted, bracketed, True or False or None",
)
_OPTION = re.compile(r"(?m)^[A-Z]\) (.*)$")
_SWEEPING = re.compile(r"\b(none|all|both) of\b|\bof the above\b", re.IGNORECASE)
_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?(?:[eE][-+]?\d{1,2})?")
_KIND = re.compile(
    r"\s*(?:([-+]?\d[\d,]*(?:\.\d*)?)|('.*'|\".*\")|(\[.*\]|\(.*\)|\{.*\})|(True|False|None))\s*", re.DOTALL
)
_MOSTLY = 0.7  # of the options hold a number: they are numbers


@dataclass(frozen=True, slots=True)
class Ballots:
    """The drafts of n questions, [n, T] in plan order, padded with slots where `arm` is -1.

    `arm` is a place in `arms`; `code` is equal for equal answers of a question and -1 where no answer could be read;
    `score` is the router's P(right) of the arm on the question; `length` counts characters; `options` [n] is how many
    there are to choose from (0: answers are free); `skill` [n] is a place in `skills`, -1 where none was found;
    `traits` [n, T, 7] (`TRAITS`) say what the answer looks like; `signals`
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
    """Takes one draft per question. One that also has `whole`, and it is true, needs all questions of a batch together."""

    def combine(self, ballots: Ballots) -> Verdicts:
        """Pure; a question alone and in a batch has the same verdict, unless it is `whole`."""
        ...


@runtime_checkable
class Learning(Protocol):
    """An aggregator that learns from questions whose right answer is known."""

    def fit(self, ballots: Ballots, right: Table) -> Self:
        """Learn; `right` [n, T] is what each draft was worth, in [0, 1]. A second fit forgets the first."""
        ...


def traits(prompt: str, answers: Sequence[str | None]) -> Table:
    """What `answers` look like (`TRAITS`), [len(answers), 7]: letters as the options of the prompt that they name, and
    where it has none, what kind of thing the answer is. Zeros where there is no answer, or a letter names no option.

    Source: ours, after the cues by which multiple-choice questions are solved without knowing (test-wiseness, Millman
    et al. 1965): what they are worth is learnt from the test at hand, and holds for tests made like it.

    >>> traits("Which?\\nA) a cat\\nB) none of these", ["B", None]).round(2).tolist()
    [[1.0, 0.42, 0.0, 1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]]
    """
    found = np.zeros((len(answers), len(TRAITS)))
    options = _OPTION.findall(prompt)
    if len(options) < 2:
        found[:, -1] = [_kind(answer) for answer in answers]
        return found
    length = np.log1p([len(option) for option in options])
    numbers = _numbers(options)
    for row, answer in enumerate(answers):
        place = ord(answer) - ord("A") if answer is not None and len(answer) == 1 else -1
        if 0 <= place < len(options):
            sweeping = bool(_SWEEPING.search(options[place]))
            longer = float((length > length[place]).mean())
            found[row, :-1] = place, length[place] - length.mean(), longer, sweeping, *numbers[place]
    return found


def _kind(answer: str | None) -> int:
    """1 to 4, 0 for anything else."""
    told = _KIND.fullmatch(answer) if answer is not None else None
    return told.lastindex or 0 if told else 0


def _numbers(options: Sequence[str]) -> Table:
    """How each option's first number stands among those of the others, [option, 2]; zeros where most have none."""
    told = [_NUMBER.search(option) for option in options]
    value = np.array([float(each.group().replace(",", "")) if each else np.nan for each in told])
    known = ~np.isnan(value)
    found = np.zeros((len(options), 2))
    if known.mean() < _MOSTLY or known.sum() < 2:
        return found
    rank = (value[known][:, None] > value[known]).mean(axis=1)
    found[known] = np.column_stack([rank, np.abs(rank - rank.mean())])
    return found
