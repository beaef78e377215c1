"""What the tests of experts share: a small registry of every kind of host."""

from __future__ import annotations

from pathlib import Path

from composer.config import load_settings
from composer.registry.experts import Registry

SHA, OTHER = "ab" * 32, "cd" * 32
REGISTRY = f"""\
models:
  small:
    sources: [small.gguf]
    sha256: {SHA}
    price: {{in: 1.0, out: 3.0}}
    memory: 100MiB
  plain:
    sources: [plain.gguf]
    sha256: {OTHER}
    completion: true
  far: {{engine: http}}
experts:
  general: {{model: small, system: Be brief.}}
  law:
    model: small
    adapter: {{path: law.gguf, sha256: {SHA}}}
    answers: choice
    sampling: {{temperature: 0.5}}
  poet: {{model: plain}}
  cloud: {{model: far}}
"""


def registry(folder: Path, text: str = REGISTRY) -> Registry:
    (folder / "experts.yaml").write_text(text)
    return Registry(load_settings(folder / "experts.yaml"))
