"""How ratings become a score, where that was shown to be better than their mean: what `coe fit answers --scorer` installed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter

from composer.answers.rating import Scorer
from composer.errors import InputError
from composer.records.written import read_record, write_record

_FILE = "scorers.json"
_AGAIN = "fit it again: coe fit answers --scorer EXPERT"


@dataclass(frozen=True, slots=True)
class ScorerRecord:
    """The fitted scorer of the expert `by`: its pair accuracy was higher than that of the mean rating by `gain` (95 % interval
    `low` to `high`, above 0) on `questions` held-out ones. `print` is that of the expert when it rated: with another one it
    says nothing."""

    by: str
    print: str
    scorer: Scorer
    gain: float
    low: float
    high: float
    questions: int


_RECORDS = TypeAdapter(tuple[ScorerRecord, ...])


def write_scorers(folder: Path, records: Sequence[ScorerRecord]) -> None:
    """Write these records to `folder` as a whole. Raises InputError where that cannot be written."""
    write_record(folder, _FILE, [asdict(record) for record in records], "scorer")


def read_scorers(folder: Path, prints: Mapping[str, str]) -> tuple[dict[str, ScorerRecord], list[str]]:
    """The records in `folder` by expert, and the experts whose record is of other weights or settings than `prints` says: those
    are left out. Empty where nobody has fitted any. Raises InputError where they cannot be read."""
    path = folder / _FILE
    found = read_record(path, _RECORDS, "these scorers", _AGAIN) or ()
    if faulty := [one.by for one in found if not _whole(one.scorer)]:
        raise InputError(f"the scorer of {faulty[0]} has not one weight per question", where=str(path), remedy=_AGAIN)
    kept = {one.by: one for one in found if one.print == prints.get(one.by)}
    return kept, [one.by for one in found if one.by not in kept and one.by in prints]


def _whole(scorer: Scorer) -> bool:
    return all(len(own) == len(scorer.capabilities.get(name, ())) for name, own in scorer.weights.items())
