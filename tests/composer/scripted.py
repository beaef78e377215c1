"""Pipelines of a small registry file whose experts answer from a script, for the tests of what holds them together."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from composer.config import load_settings
from composer.engines.base import Engine
from composer.engines.scripted import ScriptedEngine
from composer.pipeline import Pipeline
from composer.registry.experts import Registry
from composer.types import Caps, Draft, Failure, Request
from routers.testing import HashEncoder
from routers.types import Array

Say = Callable[[Request], str | Draft | Failure]
WEIGHTS = b"weights"
SHA = hashlib.sha256(WEIGHTS).hexdigest()
MODEL = f"models:\n  small: {{sources: [small.gguf], sha256: {SHA}, memory: 1MiB}}\n"
ONE = f"{MODEL}experts:\n  general: {{model: small}}\n"
THREE = (
    f"{ONE}  sums: {{model: small, system: Calculate.}}\n  law: {{model: small, system: Judge.}}\n"
    f"encoder: {{sources: [encoder.onnx], sha256: {'e' * 64}, tokenizer: tokenizer.json}}\n"
)


class Scripted:
    """Writes registry files into `folder` and makes their pipelines. `engines` are all that were opened, `encoded` the
    batches of texts that were turned into vectors, `said` what users were told."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.engines: list[ScriptedEngine] = []
        self.encoded: list[tuple[str, ...]] = []
        self.said: list[str] = []
        self.delay = 0.0
        self.caps: Caps | None = None
        self._answer: Say = lambda request: f"{request.arm} on {request.parent}"
        bench = self

        class Encoder(HashEncoder):
            def encode(self, texts: Sequence[str]) -> Array:
                bench.encoded.append(tuple(texts))
                return super().encode(texts)

        def engine(_: Registry, name: str) -> Engine:
            self.engines.append(ScriptedEngine(lambda request: self._answer(request), delay=self.delay, caps=self.caps))
            return self.engines[-1]

        def encoder(pipeline: Pipeline) -> Encoder:
            if pipeline.settings.encoder is None:
                pipeline.registry.encoder_files()  # as without a script: there is none
            return Encoder()

        monkeypatch.setattr(Registry, "engine", engine)
        monkeypatch.setattr(Pipeline, "encoder", encoder)

    def pipeline(self, text: str = THREE, answer: Say | None = None, *, project: str = "project") -> Pipeline:
        """The pipeline of the registry file `text`, written into the folder `project`."""
        if answer is not None:
            self._answer = answer
        folder = self.folder / project
        folder.mkdir(exist_ok=True)
        (folder / "small.gguf").write_bytes(WEIGHTS)
        (folder / "experts.yaml").write_text(text)
        return Pipeline(
            load_settings(folder / "experts.yaml"), store=self.folder / "drafts.sqlite", say=self.said.append
        )
