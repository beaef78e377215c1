"""Pipelines for the tests of runs."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from batch_kit import Letters, Make, Say

from composer.config import load_settings
from composer.engines.base import Engine
from composer.engines.scripted import ScriptedEngine
from composer.pipeline import Pipeline
from composer.registry.experts import Registry


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Pipelines of one registry without a profile, whose only expert answers from a script."""
    weights = b"weights"
    (tmp_path / "small.gguf").write_bytes(weights)
    (tmp_path / "experts.yaml").write_text(
        f"models:\n  small: {{sources: [small.gguf], sha256: {hashlib.sha256(weights).hexdigest()}, memory: 1MiB}}\n"
        "experts:\n  general: {model: small}\n"
    )

    def made(answer: Say) -> Pipeline:
        def engine(self: Registry, name: str) -> Engine:
            return ScriptedEngine(answer)

        monkeypatch.setattr(Registry, "engine", engine)
        monkeypatch.setattr(Pipeline, "encoder", lambda self: Letters())
        return Pipeline(load_settings(tmp_path / "experts.yaml"), store=tmp_path / "drafts.sqlite")

    return made
