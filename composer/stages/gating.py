"""Which of an expert's arms answers: as it is, or reading. A gate decides, question by question, by what reading is worth."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from composer.plugins import load
from composer.retrieval.corpus import BROKEN
from composer.retrieval.gate import Gate, Signals, Table
from composer.retrieval.records import GateRecord
from composer.stages.asking import Ask, asking
from composer.stages.kit import Kit
from composer.stages.looking import look
from composer.state import Gated, State, Update

FITTED = "auto"  # the gate that `coe fit gate` chose for the arm
_CONSTANT = ("never", "always")


def check_gate(name: str) -> None:
    """Raise ConfigError at the option `gate` for a name that no gate has."""
    if name != FITTED:
        load("gates", name, "gate")


@dataclass(frozen=True, slots=True)
class _Choice:
    """A wanted arm of a row, and what else of its expert may answer instead: `plain` None where it is asked already."""

    row: int
    arm: str
    plain: str | None
    reading: tuple[str, ...]


async def gated(kit: Kit, state: State, name: str, value: float) -> Update:
    """Put the arm of the same expert that is worth most in the place of each wanted one: without passages, or with those
    whose gain times `value` (seconds that a right answer is worth) exceeds what they cost by most. Arms that nobody
    fitted a gate for, and those that are asked already, are left alone; so is an expert that was asked for by name. A row
    whose drafts for the gate
    were not allowed, or cut, is withheld: an uninterrupted run might decide otherwise."""
    if state.course is None:
        return {}
    records = kit.gates() if name not in _CONSTANT else {}
    choices = [one for row in range(len(state.queries)) for one in _choices(kit, state, row, name, records)]
    if not choices:
        return {}
    gains: dict[tuple[int, str], float] = {}
    cut: set[str] = set()
    ask = asking(kit.pool(), budget=kit.budget(), emit=kit.emit, cut=cut)
    for arm in dict.fromkeys(arm for one in choices for arm in one.reading):
        own = [one for one in choices if arm in one.reading]
        told = await _gains(kit, state, arm, own, name, records.get(arm), ask)
        gains.update({(one.row, arm): float(gain) for one, gain in zip(own, told, strict=True)})
    wanted, every = [list(arms) for arms in state.wanted], [list(arms) for arms in state.asked]
    known = [dict(own) for own in state.gated]
    for one in choices:
        decided = _decided(one, gains, name, value, records)
        known[one.row][decided.chose] = decided
        for column in (wanted, every):
            column[one.row][column[one.row].index(one.arm)] = decided.chose
    withheld = [held or query.id in cut for held, query in zip(state.withheld, state.queries, strict=True)]
    return {"wanted": _frozen(wanted), "asked": _frozen(every), "gated": tuple(known), "withheld": tuple(withheld)}


def _frozen(column: Sequence[Sequence[str]]) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(arms) for arms in column)


def _choices(kit: Kit, state: State, row: int, name: str, records: Mapping[str, GateRecord]) -> list[_Choice]:
    found = []
    taken = set(state.asked[row])
    for arm in state.wanted[row]:
        plain, *others = kit.registry.variants(arm)
        free = [one for one in (plain, *others) if one == arm or (one not in taken and one in state.arms)]
        reading = tuple(one for one in free if one != plain and (name in _CONSTANT or _serves(records.get(one), name)))
        unsure = arm != plain and arm not in reading  # then nobody knows what it is worth beside the others
        if reading and not unsure:
            found.append(_Choice(row, arm, plain if plain in free else None, reading))
            taken |= {plain, *others}  # one arm of an expert, not two that the gate might make equal
    return found


def _serves(record: GateRecord | None, name: str) -> bool:
    return record is not None and (name == FITTED or name in record.gates)


def _decided(
    one: _Choice, gains: Mapping[tuple[int, str], float], name: str, value: float, records: Mapping[str, GateRecord]
) -> Gated:
    def cost(arm: str) -> float:
        return records[arm].costs.reading if arm in records else 0.0

    def net(arm: str) -> float:
        return value * gains[one.row, arm] - cost(arm)

    best = max(one.reading, key=net)
    gate = records[best].chosen if name == FITTED else name
    chose = best if one.plain is None or net(best) > 0 else one.plain
    gain = gains[one.row, best]
    return Gated(gate, chose, gain if math.isfinite(gain) else math.copysign(1.0, gain), cost(best), value)


async def _gains(
    kit: Kit, state: State, arm: str, choices: Sequence[_Choice], name: str, record: GateRecord | None, ask: Ask
) -> Table:
    """[len(choices)]: what reading as this arm adds to P(right). Where an index cannot be searched it is what reading adds on
    average, and so it is where no draft tells a signal: what is lost is told when passages are looked up."""
    gate: Gate = load("gates", name)() if record is None else record.gates[record.chosen if name == FITTED else name]
    if not gate.needs:
        return gate.gain(Signals(np.zeros(len(choices))))
    assert record is not None
    queries = [state.queries[one.row] for one in choices]
    try:
        signals = await look(kit, arm, record.plain, queries, gate.needs, ask)
        return gate.gain(signals)
    except BROKEN:
        return np.full(len(choices), record.gain)
