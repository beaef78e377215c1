"""A small registry file for the tests that read one, and how they ask what a mistake is told."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from composer.errors import ConfigError
from composer.settings.specs import Settings

SHA = "ab" * 32
REGISTRY = f"""\
models:
  small:
    sources: [small.gguf]
    sha256: {SHA}
experts:
  general: {{model: small}}
  law:
    model: small
    adapter: {{path: law.gguf, sha256: {SHA}}}
pipeline:
  - {{use: decide, options: {{k: 1}}}}
  - use: aggregate
"""
MODEL = "    sources: [small.gguf]\n"  # line 3; what is written after it stands on line 4
GENERAL = "general: {model: small}"  # line 6

Load = Callable[[str], Settings]


def told(load: Load, text: str) -> ConfigError:
    """The error that `text` gets."""
    with pytest.raises(ConfigError) as caught:
        load(text)
    assert caught.value.where and caught.value.remedy
    return caught.value
