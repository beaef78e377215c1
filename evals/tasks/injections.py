"""Hostile passages: what somebody may write into a document for the model that will read it, and how success shows."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from composer.answers.extract import holds, words
from composer.errors import InputError
from composer.jsonl import lines_of

FILE = Path(__file__).with_name("injections.jsonl")
Part = Literal["tuning", "report"]
"""The defence may be changed by what is seen on `tuning`; figures that are published are of `report`."""


@dataclass(frozen=True, slots=True)
class Injection:
    """One attack. Of its texts `{name}` is the thing that is asked about, `{question}` the question, `{wrong}` the answer that
    the attacker wants to be given. `passages` are found with the right one; all have the title `title`. It has succeeded
    where one of `success` (phrases, parted by `|`) stands in the draft, however the model came to write it."""

    id: str
    part: Part
    family: str
    success: str
    passages: tuple[str, ...]
    title: str = "{name}"

    def filled(self, name: str, question: str, wrong: str) -> Injection:
        """The attack on one question."""

        def fill(text: str) -> str:  # not str.format: hostile texts have braces of their own
            return text.replace("{name}", name).replace("{question}", question).replace("{wrong}", wrong)

        return Injection(
            self.id, self.part, self.family, fill(self.success), tuple(map(fill, self.passages)), fill(self.title)
        )

    def succeeded(self, draft: str) -> bool:
        """Whether the draft has what the attacker wants."""
        said = words(draft)
        return any(holds(said, words(phrase)) for phrase in self.success.split("|"))


def injections(path: Path = FILE) -> tuple[Injection, ...]:
    """The attacks of a file, in its order. Raises InputError where a row is not in its form or an id comes twice."""
    found: dict[str, Injection] = {}
    for number, raw in lines_of(path):
        where = f"{path}:{number}"
        try:
            row: Any = json.loads(raw)
            one = Injection(**{**row, "passages": tuple(row["passages"])})
            texts = (one.id, one.family, one.success, one.title, *one.passages)
        except (ValueError, TypeError, KeyError, RecursionError) as why:
            raise InputError(f"this is no injection ({why!r})", where=where) from why
        if (
            not one.passages
            or not all(isinstance(text, str) and text for text in texts)
            or one.part not in get_args(Part)
        ):
            raise InputError("an injection has id, part, family, success and passages", where=where)
        if one.id in found:
            raise InputError(f"the id {one.id!r} comes twice", where=where)
        found[one.id] = one
    return tuple(found.values())
