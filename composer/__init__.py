"""Composes experts into answers: `Pipeline.from_file("experts.yaml").run(["What is 47 + 38?"])`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from composer.errors import ComposerError
    from composer.pipeline import Pipeline
    from composer.state import Answer, Query

__all__ = ["Answer", "ComposerError", "Pipeline", "Query"]
__version__ = "0.1.0"

_HOME = {
    "Answer": "composer.state",
    "ComposerError": "composer.errors",
    "Pipeline": "composer.pipeline",
    "Query": "composer.state",
}


def __getattr__(name: str) -> Any:
    """Load the public names on first use, so that `import composer` costs nothing."""
    if name not in _HOME:
        raise AttributeError(f"module 'composer' has no attribute {name!r}")
    from importlib import import_module  # noqa: PLC0415 not needed by `coe --help`

    return getattr(import_module(_HOME[name]), name)
