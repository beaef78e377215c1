"""The routers that can be learnt from outcomes alone, by name, with the settings that we found good."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from routers.baselines import BestSingle
from routers.blend import BlendRouter
from routers.category import CategoryRouter
from routers.cluster import ClusterRouter
from routers.hierarchical import HierarchicalRouter
from routers.linear import LinearRouter
from routers.neighbours import NeighbourRouter
from routers.perarm import Table
from routers.ridge import RidgeRouter
from routers.skill import SkillRouter
from routers.types import Router

PLAIN = "best-single"
USUAL = "blend"  # keeps its place unless another router is clearly better
UNLABELLED: Mapping[str, Callable[[], Router]] = {
    PLAIN: BestSingle,
    "neighbours": NeighbourRouter,
    "ridge": RidgeRouter,
    "cluster": lambda: ClusterRouter(25, 3),
    "cluster-rank": lambda: ClusterRouter(35, 1, use="rank"),
    "linear": LinearRouter,
}
LABELLED: Mapping[str, Callable[[], Router]] = {
    "skill": lambda: SkillRouter(floor=-1.0),
    "category": CategoryRouter,
    "hierarchical": HierarchicalRouter,
    "blend": lambda: blend(),
}


def blend() -> BlendRouter:
    """The mean of a table per domain corrected by neighbours, neighbours alone, and records by skill.

    Of all means of up to five routers this kind gained most over the best single arm in cross-validation on the profile
    of two pools (docs/log.md).
    """
    return BlendRouter((HierarchicalRouter(), NeighbourRouter(), SkillRouter(floor=-1.0)))


def family(labelled: bool) -> dict[str, Callable[[], Router]]:
    """Every candidate; without labels those that need none, and a blend of these."""
    if labelled:
        return {**UNLABELLED, **LABELLED}
    return {**UNLABELLED, "blend": lambda: BlendRouter((RidgeRouter(), NeighbourRouter()))}


def prefer(found: Mapping[str, Table], default: str) -> str:
    """The name to choose out of paired results (right per calibration question, [n] each).

    The best mean, but the default keeps its place unless it is beaten by more than two standard errors of the paired
    difference: with ten candidates and a few hundred questions one of them is ahead by luck most of the time.
    """
    best = max(found, key=lambda name: (float(found[name].mean()), name == default))
    if default in found:
        gain = found[best] - found[default]
        if gain.mean() <= 2 * gain.std() / np.sqrt(max(1, len(gain))):
            return default
    return best
