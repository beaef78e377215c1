"""Where a contrast was shown to help: what `coe fit contrast` installed for the arms of a registry."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter

from composer.records.written import read_record, write_record

_FILE = "contrasts.json"
_AGAIN = "fit them again: coe fit contrast"


@dataclass(frozen=True, slots=True)
class ContrastRecord:
    """The arm `plain` is decoded as the declared arm `arm` is, with these `beta` and `alpha`: it was right more often by
    `gain` (95 % interval `low` to `high`, above 0) on `questions` held-out ones. `prints` are those of both arms when
    they were asked (`fitted.contrast_prints`): with others it says nothing."""

    plain: str
    arm: str
    beta: float
    alpha: float
    gain: float
    low: float
    high: float
    questions: int
    prints: tuple[str, str]

    @property
    def why(self) -> str:
        """For the trace."""
        return (
            f"right {100 * self.gain:+.1f} points more often [{100 * self.low:+.1f}, {100 * self.high:+.1f}] "
            f"on {self.questions} held-out questions"
        )


_RECORDS = TypeAdapter(tuple[ContrastRecord, ...])


def write_contrasts(folder: Path, records: Sequence[ContrastRecord]) -> None:
    """Write these records to `folder` as a whole. Raises InputError where that cannot be written."""
    write_record(folder, _FILE, [asdict(record) for record in records], "contrast")


def read_contrasts(folder: Path, prints: Mapping[str, str]) -> tuple[dict[str, ContrastRecord], list[str]]:
    """The records in `folder` by plain arm, and the arms whose record is of other weights or settings than `prints` says:
    those are left out. Empty where nobody has fitted any. Raises InputError where they cannot be read."""
    found = read_record(folder / _FILE, _RECORDS, "these contrasts", _AGAIN) or ()
    kept = {one.plain: one for one in found if one.prints == (prints.get(one.plain), prints.get(one.arm))}
    return kept, [one.arm for one in found if one.plain not in kept and one.arm in prints]
