"""Decides who should answer: text, vectors and tables of outcomes, never a model or an engine.

Names are imported when they are first used, so that `import routers` costs nothing (numpy alone is 90 ms).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from routers.baselines import BestSingle, KeywordRouter, RandomRouter, TfidfRouter
    from routers.errors import NotFittedError, RouterError
    from routers.policy import Fixed
    from routers.select import TopK, top_k
    from routers.skill import SkillRouter
    from routers.skills import SkillFinder
    from routers.types import Arm, Outcomes, Policy, Questions, Reason, Route, Router

__all__ = [
    "Arm",
    "BestSingle",
    "Fixed",
    "KeywordRouter",
    "NotFittedError",
    "Outcomes",
    "Policy",
    "Questions",
    "RandomRouter",
    "Reason",
    "Route",
    "Router",
    "RouterError",
    "SkillFinder",
    "SkillRouter",
    "TfidfRouter",
    "TopK",
    "top_k",
]

_HOME = {
    "Arm": "routers.types",
    "BestSingle": "routers.baselines",
    "Fixed": "routers.policy",
    "KeywordRouter": "routers.baselines",
    "NotFittedError": "routers.errors",
    "Outcomes": "routers.types",
    "Policy": "routers.types",
    "Questions": "routers.types",
    "RandomRouter": "routers.baselines",
    "Reason": "routers.types",
    "Route": "routers.types",
    "Router": "routers.types",
    "RouterError": "routers.errors",
    "SkillFinder": "routers.skills",
    "SkillRouter": "routers.skill",
    "TfidfRouter": "routers.baselines",
    "TopK": "routers.select",
    "top_k": "routers.select",
}


def __getattr__(name: str) -> Any:
    """Load the public names on first use."""
    if name not in _HOME:
        raise AttributeError(f"module 'routers' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
