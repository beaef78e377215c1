"""Makes one answer of several drafts by looking at who said what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import fsum
from typing import Protocol

from composer.answers.extract import agree


@dataclass(frozen=True, slots=True)
class Candidate:
    """One draft in the vote: the arm it is from, the router's score of that arm, its canonical answer (None: none)."""

    arm: str
    score: float
    answer: str | None
    text: str


@dataclass(frozen=True, slots=True)
class Choice:
    """The draft that was taken: its index in the row (None: there is nothing to take) and its canonical answer.

    `agreement` is the share of the row's drafts with that answer, 0 without one; `why` is for people and the trace.
    """

    index: int | None
    answer: str | None
    agreement: float
    why: str


class Aggregator(Protocol):
    """Takes one draft per row."""

    def combine(self, rows: Sequence[Sequence[Candidate]]) -> list[Choice]:
        """One choice per row; the candidates of a row stand in plan order. Pure."""
        ...


@dataclass(frozen=True, slots=True)
class BestScored:
    """The draft whose arm the router trusts most, among those with an answer; without any, the best one with a text.

    >>> row = [Candidate("base", 0.9, None, "Well ..."), Candidate("sums", 0.6, "5", "5")]
    >>> BestScored().combine([row])
    [Choice(index=1, answer='5', agreement=0.5, why='best score (0.60) among 1 of 2 drafts with an answer')]
    """

    def combine(self, rows: Sequence[Sequence[Candidate]]) -> list[Choice]:
        """One choice per row; equal scores go to the draft that was planned first."""
        return [_best(row) for row in rows]


@dataclass(frozen=True, slots=True)
class Majority:
    """The answer most drafts give; ties go to the higher sum of scores, then to the answer planned first.

    A draft without an answer counts for nobody. Among those that agree, the best scored one is taken.

    >>> row = [Candidate("a", 0.9, "4", "4"), Candidate("b", 0.2, "5", "5"), Candidate("c", 0.3, "5", "It is 5.")]
    >>> Majority().combine([row])[0].index
    2
    """

    def combine(self, rows: Sequence[Sequence[Candidate]]) -> list[Choice]:
        """One choice per row."""
        return [_most(row) for row in rows]


def best() -> Aggregator:
    """The aggregator `best`."""
    return BestScored()


def majority() -> Aggregator:
    """The aggregator `majority`."""
    return Majority()


def _best(row: Sequence[Candidate]) -> Choice:
    answered = [i for i, candidate in enumerate(row) if candidate.answer is not None]
    if not answered:
        return _unread(row)
    index = _top(row, answered)
    why = f"best score ({row[index].score:.2f}) among {len(answered)} of {len(row)} drafts with an answer"
    return Choice(index, row[index].answer, _share(row, row[index].answer), why)


def _most(row: Sequence[Candidate]) -> Choice:
    votes: dict[str, list[int]] = {}
    for i, candidate in enumerate(row):
        if candidate.answer is not None:
            votes.setdefault(candidate.answer, []).append(i)
    if not votes:
        return _unread(row)
    # `max` keeps the first of equals, and the dict is in plan order.
    answer, voters = max(votes.items(), key=lambda vote: (len(vote[1]), fsum(row[i].score for i in vote[1])))
    why = f"{len(voters)} of {len(row)} drafts agree"
    tied = sum(len(others) == len(voters) for others in votes.values()) > 1
    return Choice(_top(row, voters), answer, _share(row, answer), f"{why}; tie broken by scores" if tied else why)


def _unread(row: Sequence[Candidate]) -> Choice:
    written = [i for i, candidate in enumerate(row) if candidate.text.strip()]
    if not written:
        return Choice(None, None, 0.0, "no draft has a text")
    return Choice(_top(row, written), None, 0.0, "no answer could be read from any draft: best scored one as it stands")


def _top(row: Sequence[Candidate], places: Sequence[int]) -> int:
    return max(places, key=lambda i: row[i].score)


def _share(row: Sequence[Candidate], answer: str | None) -> float:
    return sum(agree(candidate.answer, answer) for candidate in row) / len(row)
