"""What the registry has to know of an index of passages without opening it."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

from composer.errors import PassageError
from composer.folders import mend

MANIFEST = "index.json"
_PIECES = re.compile(r"[a-zA-Z]{1,3}|\n+|[^a-zA-Z\s]")


def index_print(folder: Path) -> str:
    """The sha256 of all that decides what is found in the index. Raises PassageError where there is none."""
    mend(folder)
    try:
        found = json.loads((folder / MANIFEST).read_bytes())
        material = [found["encoder"], found["lists"], found["probes"], sorted(found["files"].items())]
    except FileNotFoundError as why:
        raise PassageError(
            "there is no index", where=str(folder), remedy=f"build it: coe index build {folder.name} FOLDER"
        ) from why
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as why:
        raise PassageError(
            f"{MANIFEST} cannot be read: {why}",
            where=str(folder),
            remedy=f"build it again: coe index build {folder.name} FOLDER",
        ) from why
    return hashlib.sha256(json.dumps(material).encode()).hexdigest()


def most_tokens(text: str) -> int:
    """About the most tokens that a tokenizer makes of a text: three letters, one digit, one sign, two per other character.

    >>> most_tokens("A cat, 12 mice"), most_tokens("漢字")
    (7, 4)
    """
    pieces: list[str] = _PIECES.findall(text)
    return len(pieces) + sum(not piece.isascii() for piece in pieces)
