"""Where things of the user's lie."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """The folder that `COE_CACHE` names, else the user's cache: what is in it can be made again."""
    from platformdirs import user_cache_path  # noqa: PLC0415 a named folder needs none of it

    named = os.environ.get("COE_CACHE")
    return Path(named).expanduser().absolute() if named else user_cache_path("coe", appauthor=False)
