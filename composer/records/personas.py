"""Where a persona was shown to help: what `coe fit gate` measured for the personas of a registry."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter

from composer.records.written import read_record, write_record

_FILE = "personas.json"
_AGAIN = "measure them again: coe fit gate labelled.jsonl"
ALPHA = 0.05
"""The chance that any gate of a registry is open although its persona does not help, at most."""


@dataclass(frozen=True, slots=True)
class PersonaRecord:
    """What the arm `arm` was worth more than `plain`, the same expert without its persona, on `questions` of this `intent`: `gain`,
    95 % interval `low` to `high`, by `measure` (accuracy, or who judged). What decides is `p`, of a paired test, after Holm's correction
    for all `gates` of the registry that were tested with it. Of too few questions `low`, `high` and `p` are None. `left` questions
    were left out, as a draft or the judge failed. `prints` are those of both arms when they were asked: with others it says nothing."""

    arm: str
    plain: str
    intent: str
    gain: float
    low: float | None
    high: float | None
    questions: int
    measure: str
    prints: tuple[str, str]
    p: float | None = None
    gates: int = 0  # of a record of before there was a correction
    left: int = 0

    @property
    def open(self) -> bool:
        """Whether the gate lets the persona through: only where it is shown to help."""
        return self.p is not None and self.p <= ALPHA and self.gain > 0

    @property
    def why(self) -> str:
        """For people, and the trace."""
        left = f"; {self.left} left out, as a draft or the judge failed" if self.left else ""
        if self.low is None or self.high is None or self.p is None:
            return f"{self.questions} questions are too few{left}"
        return (
            f"{self.gain:+.2f} [{self.low:+.2f}, {self.high:+.2f}] by {self.measure} on {self.questions} questions, "
            f"p {self.p:.3f} corrected for {self.gates} {'gate' if self.gates == 1 else 'gates'}{left}"
        )


@dataclass(frozen=True, slots=True)
class _Kept:
    """The file: `intents` is the digest of what intents are told by (`Intents.digest`)."""

    intents: str
    records: tuple[PersonaRecord, ...]


_KEPT = TypeAdapter(_Kept)


def write_personas(folder: Path, records: Sequence[PersonaRecord], intents: str) -> None:
    """Write these records to `folder` as a whole. Raises InputError where that cannot be written."""
    write_record(folder, _FILE, asdict(_Kept(intents, tuple(records))), "persona gate")


def read_personas(
    folder: Path, prints: Mapping[str, str], intents: str
) -> tuple[tuple[PersonaRecord, ...], tuple[str, ...]]:
    """The records in `folder`, and the arms whose record is of other weights, settings or intents than today's, or was not corrected
    for the number of gates: those are left out. Empty where nobody has measured any. Raises InputError where they cannot be read."""
    found = read_record(folder / _FILE, _KEPT, "the gates of personas", _AGAIN)
    if found is None:
        return (), ()
    known = [one for one in found.records if one.arm in prints]
    kept = [
        one
        for one in known
        if one.gates and found.intents == intents and one.prints == (prints.get(one.plain), prints[one.arm])
    ]
    return tuple(kept), tuple(dict.fromkeys(one.arm for one in known if one not in kept))
