"""Who merges and judges where a pipeline says `by: auto`: what `coe fit answers --mergers` chose per task, kept as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter

from composer.errors import InputError
from composer.records.written import read_record, write_record

ALL = ""
"""The task of the choice over all prompts."""
FIT = "coe fit answers --mergers all"
_FILE = "mergers.json"


@dataclass(frozen=True, slots=True)
class Merger:
    """The expert that merges for a `task` (a skill of the profile; `ALL`: wherever no other choice is). Of one right and two
    wrong responses it made a right answer on the share `right` of the `prompts` it was chosen on; `rated` has that of every
    candidate. On `held` prompts that had no part in the choice the share was `shown`, 95 % interval `low` to `high` (None: there
    were no such prompts). A task that is not its `own` had too few prompts and takes the choice over all."""

    task: str
    expert: str
    right: float
    prompts: int
    rated: Mapping[str, float]
    held: int
    shown: float | None
    low: float | None
    high: float | None
    own: bool = True

    @property
    def why(self) -> str:
        """For the trace."""
        told = f"it made a right answer on {self.right:.0%} of {self.prompts} prompts"
        if self.shown is not None:
            told += f", {self.shown:.0%} [{self.low:.0%}, {self.high:.0%}] of {self.held} held-out ones"
        return told


@dataclass(frozen=True, slots=True)
class Mergers:
    """The choices of a registry, that over `ALL` among them, and the `prints` of all arms that merged or were merged when
    they were made: with others they say nothing."""

    choices: tuple[Merger, ...]
    prints: Mapping[str, str]

    def of(self, task: str | None) -> tuple[str, str]:
        """The expert for a question of this task (None: nobody knows which it has), and why it is this one."""
        by_task = {one.task: one for one in self.choices}
        overall = by_task[ALL]
        found = by_task.get(task) if task is not None else None
        if found is None:
            return overall.expert, f"best over all tasks: {overall.why}"
        if not found.own:
            return overall.expert, f"best over all tasks, as {task} has only {found.prompts} prompts: {overall.why}"
        return found.expert, f"best for {task}: {found.why}"


_MERGERS = TypeAdapter(Mergers)


def write_mergers(folder: Path, mergers: Mergers) -> None:
    """Write the choices to `folder` as a whole. Raises InputError where that cannot be written."""
    write_record(folder, _FILE, asdict(mergers), "choice of mergers")


def read_mergers(folder: Path, prints: Mapping[str, str]) -> Mergers:
    """The choices in `folder`. Raises InputError where nobody made any, they cannot be read, or one of their arms is another
    than when they were made: `prints` are those of today."""
    path = folder / _FILE
    found = read_record(path, _MERGERS, "the choice of mergers", FIT)
    if found is None:
        raise InputError(
            "nobody has chosen who merges: the pipeline says `by: auto`", remedy=f"{FIT}, or name an expert"
        )
    overall = [one for one in found.choices if one.task == ALL]
    if len(overall) != 1 or not {one.expert for one in found.choices} <= set(found.prints):
        raise InputError("the choice of mergers is incomplete", where=str(path), remedy=FIT)
    if changed := sorted(name for name, own in found.prints.items() if prints.get(name) != own):
        raise InputError(
            f"who merges was chosen with other weights or settings of {', '.join(changed)}", where=str(path), remedy=FIT
        )
    return found
