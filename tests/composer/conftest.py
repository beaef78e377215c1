"""What the tests of registry files share."""

from __future__ import annotations

from pathlib import Path

import pytest
from registry_texts import Load

from composer.config import Settings, load_settings


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Load:
    """Writes experts.yaml into an empty working directory and reads it."""
    monkeypatch.chdir(tmp_path)
    path = Path("experts.yaml")

    def write_and_load(text: str) -> Settings:
        path.write_text(text, encoding="utf-8")
        return load_settings(path)

    return write_and_load
