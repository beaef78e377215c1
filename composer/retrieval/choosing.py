"""Which gate is worth most: questions asked both ways, what reading and looking cost, and the curve over a right answer's
value (METHODS D.1, after ExpertRAG 2025)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields

import numpy as np
from numpy.typing import NDArray

from composer.errors import InputError
from composer.plugins import load, names
from composer.retrieval.gate import DRAFTED, Gate, Marks, Signals, Table, opens

SETTINGS = tuple(round(0.05 * step, 2) for step in range(1, 21))
"""What reading costs, in right answers: from nearly nothing to a whole one, above which reading can never pay."""


@dataclass(frozen=True, slots=True)
class BothWays:
    """Questions that were answered `without` passages and `reading` them: what each answer was worth, [n] in [0, 1]."""

    signals: Signals
    without: Table
    reading: Table

    def __len__(self) -> int:
        return len(self.without)

    def rows(self, rows: NDArray[np.int64]) -> BothWays:
        """These questions alone."""
        return BothWays(self.signals.rows(rows), self.without[rows], self.reading[rows])


@dataclass(frozen=True, slots=True)
class Costs:
    """Seconds per question: `reading` is looking up and reading what was found, `drafts` maps the signals that need drafts
    to what these take, paid whether the gate opens or not."""

    reading: float
    drafts: Mapping[str, float] = field(default_factory=dict[str, float])

    def looking(self, gate: Gate) -> float:
        """What it costs to ask this gate. Margin and confidence come from one draft."""
        found = {name: self.drafts.get(name, 0.0) for name in gate.needs & set(DRAFTED)}
        if {"margin", "confidence"} <= found.keys():
            del found["margin"]
        return sum(found.values())


@dataclass(frozen=True, slots=True)
class Point:
    """What a gate costs and brings at one `value` of a right answer, per question: the share that reads, the share right,
    value less cost (`utility`, in the unit of the value), and the share of always' cost that is saved."""

    value: float
    read: float
    right: float
    utility: float
    saved: float


def utility(read: Marks, both: BothWays, costs: Costs, value: float, looking: float = 0.0) -> Table:
    """[n]: the value of what was answered less what reading and looking cost."""
    return value * np.where(read, both.reading, both.without) - costs.reading * read - looking


def earned(gate: Gate, both: BothWays, costs: Costs, value: float) -> Table:
    """[n]: the utility of letting this gate decide."""
    return utility(opens(gate, both.signals, costs.reading, value), both, costs, value, costs.looking(gate))


def curve(gate: Gate, both: BothWays, costs: Costs, values: Sequence[float]) -> list[Point]:
    """The report of METHODS D.1: a point per value."""
    points, looking = [], costs.looking(gate)
    for value in values:
        read = opens(gate, both.signals, costs.reading, value)
        right, share = float(np.where(read, both.reading, both.without).mean()), float(read.mean())
        saved = 1 - share - looking / costs.reading if costs.reading else 0.0
        points.append(Point(value, share, right, value * right - costs.reading * share - looking, saved))
    return points


def values_of(costs: Costs) -> list[float]:
    """The values of a right answer at which reading costs the share `SETTINGS` of it."""
    return [costs.reading / share for share in SETTINGS]


def gate_names() -> list[str]:
    """Every gate that is installed, the plainest first."""
    return sorted(names("gates"), key=lambda name: (name != "never", name != "always", name))


def fit_all(both: BothWays) -> dict[str, Gate]:
    """Every gate whose signals are there, fitted. Raises InputError for too few questions."""
    there = {one.name for one in fields(both.signals) if getattr(both.signals, one.name) is not None}
    found: dict[str, Gate] = {}
    for name in gate_names():
        gate: Gate = load("gates", name)()
        if gate.needs <= there and not (name.endswith("-drafts") and there.isdisjoint(DRAFTED)):
            found[name] = gate.fit(both.signals, both.without, both.reading)
    return found


def ratings(gates: Mapping[str, Gate], check: BothWays, costs: Costs, values: Sequence[float]) -> dict[str, float]:
    """What each gate earns on questions it has not learnt from, in right answers per question, on average over `values`."""
    if costs.reading <= 0:
        raise InputError(f"reading costs {costs.reading} seconds: nothing is to be weighed", remedy="measure it again")
    return {
        name: float(np.mean([earned(gate, check, costs, value).mean() / value for value in values]))
        for name, gate in gates.items()
    }


def best(rated: Mapping[str, float]) -> str:
    """The gate that earns most, of equal ones the first, which is the plainer."""
    return max(rated, key=lambda name: rated[name])
