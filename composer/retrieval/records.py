"""Fitted gates on disk: which one decides for an arm that reads, what it was fitted on, and what reading costs there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from composer.errors import InputError
from composer.folders import mend, replacing
from composer.plugins import homes
from composer.retrieval.choosing import Costs
from composer.retrieval.gate import Gate
from routers.errors import RouterError
from routers.store import read, write

_HOMES = tuple(f"composer.retrieval.{name}" for name in ("records", "gate", "choosing"))
_AGAIN = "fit the gates again: coe fit gate"


@dataclass(frozen=True, slots=True)
class GateRecord:
    """The gates of one arm that reads (`arm`; `plain` is its expert without passages), by name; `chosen` decides where no
    other is named. `gain` is what reading added to P(right) on average; `value`: the seconds that a right answer was worth when it was
    chosen; `prints` are those of both arms when they were asked: with others it says nothing."""

    arm: str
    plain: str
    chosen: str
    gates: Mapping[str, Gate]
    costs: Costs
    gain: float
    value: float
    prints: tuple[str, str]


def _homes() -> tuple[str, ...]:
    """Where the classes of gates may lie: in our modules, and in those that installed packages offer gates from."""
    return tuple(dict.fromkeys((*_HOMES, *homes("gates"))))


@dataclass(frozen=True, slots=True)
class _Records:
    records: tuple[GateRecord, ...]


def write_records(folder: Path, records: Mapping[str, GateRecord], *, encoder: str) -> None:
    """Write the records of these arms to `folder` as a whole. Raises InputError where that cannot be written."""
    try:
        with replacing(folder) as fresh:
            write(_Records(tuple(records.values())), fresh, keys={"encoder": encoder}, homes=_homes())
    except OSError as why:
        raise InputError(
            f"no gate can be written here: {why.strerror or why}", where=str(folder), remedy="check the folder"
        ) from why


def read_records(folder: Path, prints: Mapping[str, str], *, encoder: str) -> tuple[dict[str, GateRecord], list[str]]:
    """The records in `folder` by arm, and the arms whose record is of other weights, passages or settings than `prints`
    says: those are left out. Empty where nobody has fitted any. Raises InputError where they cannot be read, or are of
    another encoder."""
    mend(folder)
    if not folder.exists():
        return {}, []
    try:
        found: tuple[GateRecord, ...] = read(folder, keys={"encoder": encoder}, homes=_homes()).records
    except RouterError as why:
        raise InputError(f"these gates cannot be used: {why}", where=str(folder), remedy=_AGAIN) from why
    kept = {one.arm: one for one in found if one.prints == (prints.get(one.plain), prints.get(one.arm))}
    return kept, [one.arm for one in found if one.arm not in kept and one.arm in prints]
