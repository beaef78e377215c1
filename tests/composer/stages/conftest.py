"""What the tests of stages share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.composer.scripted import Scripted


@pytest.fixture
def scripted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scripted:
    """Pipelines whose experts answer from a script."""
    return Scripted(tmp_path, monkeypatch)
