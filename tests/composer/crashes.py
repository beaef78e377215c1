"""A process that dies while it changes names."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def crash_at(rename: int) -> Iterator[None]:
    """In this block everything ends at the `rename`th change of a name, counted from 1."""
    renames = iter(range(1, 9))
    real = Path.rename

    def crashing(self: Path, to: Path) -> Path:
        if next(renames) == rename:
            raise KeyboardInterrupt
        return real(self, to)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "rename", crashing)
        yield
