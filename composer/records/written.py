"""What was fitted, as one JSON file in a folder that is replaced as a whole: contrasts, scorers, personas, who merges."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from composer.errors import InputError
from composer.folders import mend, replacing

T = TypeVar("T")


def write_record(folder: Path, file: str, value: Any, what: str) -> None:
    """Write `value`, plain data, as `file` into `folder`. Raises InputError, which names `what`, where that cannot be written."""
    try:
        with replacing(folder) as fresh:
            (fresh / file).write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
    except OSError as why:
        raise InputError(
            f"no {what} can be written here: {why.strerror or why}", where=str(folder), remedy="check the folder"
        ) from why


def read_record(path: Path, form: TypeAdapter[T], what: str, remedy: str) -> T | None:
    """What stands in `path`; None where its folder is not there. Raises InputError, which names `what` and says the `remedy`, where it
    cannot be read or is of another form."""
    mend(path.parent)
    if not path.parent.exists():
        return None
    try:
        return form.validate_json(path.read_bytes())
    except (OSError, ValidationError) as why:
        told = str(why).splitlines()[0]
        raise InputError(f"{what} cannot be used: {told}", where=str(path), remedy=remedy) from why
