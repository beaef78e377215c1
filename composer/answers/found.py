"""What the steps of a plan, a scorer, a supervisor and a search have found on the way to an answer: for traces."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rated:
    """A draft as a scorer rated it: of which arm, the `answer` in it, a rating from 1 to 5 per capability question (None: it
    could not be read), and the `score` made of them (None: none could be read)."""

    arm: str
    answer: str
    ratings: tuple[int | None, ...]
    score: float | None


@dataclass(frozen=True, slots=True)
class Checked:
    """A draft that a supervisor looked at: of which arm, the `answer` in it, whether it found it `right` (None: it does not
    say), its `remark`, and where somebody was asked again, who that was (`author`: of a program the expert in prose), the answer in the
    new draft (`revised`) and whether that draft stands: it holds another answer (`stands`; None: nobody was asked)."""

    arm: str
    answer: str
    right: bool | None
    remark: str
    revised: str | None = None
    stands: bool | None = None
    author: str = ""


@dataclass(frozen=True, slots=True)
class Walked:
    """A path of a search after one of its rounds: how many experts it asks at a time (`k`), what they `said` in this round
    (arm, answer), the path's `answer`, its `value` in [0, 1] by the verifier, and whether it was `kept`."""

    round: int
    k: int
    said: tuple[tuple[str, str | None], ...]
    answer: str | None
    value: float
    kept: bool


@dataclass(frozen=True, slots=True)
class Stepped:
    """A step of a plan that was taken: what was `asked`, the `answer` read out of the draft that was taken ("": there was
    none), and of which arm (None: nobody answered)."""

    asked: str
    answer: str
    chosen: str | None
