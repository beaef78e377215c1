"""Recorded answers as a table [question, arm]: what every way to ask and to combine can be rehearsed on."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from composer.answers.ballots import TRAITS, Ballots, Table, traits
from composer.recorded import Recorded
from routers.coverage import Signals
from routers.types import Arm, Array, Indices, Outcomes


@dataclass(frozen=True, slots=True)
class Grid:
    """Recorded answers, [question, arm] each: `right` (0 where the arm was not run), `code` (equal answers of a question
    have equal numbers; -1 where none could be extracted; one of its own for each arm where no answers were recorded), `cost` (USD where the record has prices, else characters; the
    arm's mean where the arm was not run or no length was recorded, NaN where nothing is known of it),
    `length` in characters, `looks` [question, arm, 7] of the answer (`TRAITS`); `options` [question]; `voted`:
    answers are known. `skill` [question] is a place in `skills`, -1 unknown; None: nobody looked. `signals` say where the questions
    lie, None where nobody measured it."""

    arms: tuple[Arm, ...]
    right: Table
    code: Indices
    cost: Table
    length: Indices
    looks: Table
    options: Indices
    voted: bool
    skills: tuple[str, ...] = ()
    skill: Indices | None = None
    signals: Signals | None = None

    @classmethod
    def of(cls, record: Recorded) -> Grid:
        """The first sample of every cell."""
        outcomes = record.outcomes
        first = first_samples(outcomes)
        question, arm = outcomes.question[first], outcomes.arm[first]
        shape = (len(record), len(outcomes.arms))
        right, cost = np.zeros(shape), np.full(shape, np.nan)
        code, length = np.full(shape, -1, dtype=np.int64), np.zeros(shape, dtype=np.int64)
        said: list[list[str | None]] = [[None] * shape[1] for _ in range(shape[0])]
        known: dict[str, int] = {}
        numbers = [-1 if answer is None else known.setdefault(answer, len(known)) for answer in outcomes.answer]
        right[question, arm] = outcomes.score[first]
        code[question, arm] = np.array(numbers, dtype=np.int64)[first] if record.voted else arm
        priced = not bool(np.isnan(outcomes.cost).any())
        lengths = np.where(outcomes.length > 0, outcomes.length, np.nan)
        cost[question, arm] = (outcomes.cost if priced else lengths)[first]
        known_ = ~np.isnan(cost)
        mean = np.where(known_, cost, 0).sum(axis=0) / np.where(known_.any(axis=0), known_.sum(axis=0), np.nan)
        cost = np.where(known_, cost, mean)
        length[question, arm] = outcomes.length[first]
        for cell in np.flatnonzero(first):
            said[int(outcomes.question[cell])][int(outcomes.arm[cell])] = outcomes.answer[cell]
        looks = np.zeros((*shape, len(TRAITS)))
        for row, (text, own) in enumerate(zip(record.text, said, strict=True)):
            looks[row] = traits(text, own)
        return cls(outcomes.arms, right, code, cost, length, looks, record.options, record.voted)

    def take(self, rows: Indices) -> Grid:
        """The questions at `rows`."""
        return replace(
            self,
            right=self.right[rows],
            code=self.code[rows],
            cost=self.cost[rows],
            length=self.length[rows],
            looks=self.looks[rows],
            options=self.options[rows],
            skill=None if self.skill is None else self.skill[rows],
            signals=None if self.signals is None else self.signals.take(rows),
        )

    @property
    def flags(self) -> list[tuple[str, ...]]:
        """The names of the signals that crossed their threshold, per question; empty where nobody measured them."""
        return [] if self.signals is None else self.signals.flags

    def only(self, arms: Indices) -> Grid:
        """The arms at these places."""
        return replace(
            self,
            arms=tuple(self.arms[int(place)] for place in arms),
            right=self.right[:, arms],
            code=self.code[:, arms],
            cost=self.cost[:, arms],
            length=self.length[:, arms],
            looks=self.looks[:, arms],
        )

    def ballots(self, place: Indices, scores: Array) -> Ballots:
        """What the arms at `place` [n, T] (plan order, -1: nobody) answered; `scores` [n, arm] are the router's."""
        rows, own = np.arange(len(place))[:, None], np.maximum(place, 0)
        asked = place >= 0
        return Ballots(
            arms=self.arms,
            arm=place,
            code=np.where(asked, self.code[rows, own], -1),
            score=np.where(asked, scores.astype(np.float64)[rows, own], 0.0),
            length=np.where(asked, self.length[rows, own], 0),
            options=self.options,
            traits=np.where(asked[:, :, None], self.looks[rows, own], 0.0),
            skills=self.skills,
            skill=self.skill,
            signals=self.signals,
        )


def first_samples(outcomes: Outcomes) -> NDArray[np.bool_]:
    """Which rows are the first sample of their cell, whatever samples are counted from."""
    cell = outcomes.question * max(1, len(outcomes.arms)) + outcomes.arm
    order = np.lexsort((outcomes.sample, cell))
    first = np.ones(len(order), dtype=bool)
    first[1:] = cell[order][1:] != cell[order][:-1]
    found = np.zeros(len(order), dtype=bool)
    found[order[first]] = True
    return found
