"""The routers that can be learnt from outcomes alone, by name, with the settings that we found good."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from routers.baselines import BestSingle
from routers.category import CategoryRouter
from routers.cluster import ClusterRouter
from routers.errors import RouterError
from routers.form import FormRouter
from routers.hierarchical import HierarchicalRouter
from routers.linear import LinearRouter
from routers.neighbours import NeighbourRouter
from routers.perarm import Table
from routers.ridge import RidgeRouter
from routers.skill import SkillRouter
from routers.stacked import StackedRouter
from routers.types import Router

PLAIN = "best-single"
USUAL = "stacked"  # keeps its place unless another router is clearly better
UNLABELLED: Mapping[str, Callable[[], Router]] = {
    PLAIN: BestSingle,
    "neighbours": NeighbourRouter,
    "ridge": RidgeRouter,
    "cluster": lambda: ClusterRouter(25, 3),
    "cluster-rank": lambda: ClusterRouter(35, 1, use="rank"),
    "linear": LinearRouter,
    "form": FormRouter,
}
_PLAIN_MEMBERS: tuple[Router, ...] = (NeighbourRouter(), RidgeRouter(), FormRouter())
LABELLED: Mapping[str, Callable[[], Router]] = {
    "skill": lambda: SkillRouter(floor=-1.0),
    "category": CategoryRouter,
    "hierarchical": HierarchicalRouter,
    "stacked": lambda: stacked(),
}


def stacked() -> StackedRouter:
    """A table per domain corrected by neighbours, records by skill, neighbours, regressions on the vector and on the
    form of the text, weighted by what each foretells.

    In cross-validation on the profile of six pools it explained most of the differences between arms (docs/log.md).
    """
    return StackedRouter((HierarchicalRouter(), SkillRouter(floor=-1.0), *_PLAIN_MEMBERS))


def family(labelled: bool) -> dict[str, Callable[[], Router]]:
    """Every candidate; without labels those that need none, and a stack of these."""
    if labelled:
        return {**UNLABELLED, **LABELLED}
    return {**UNLABELLED, USUAL: lambda: StackedRouter(_PLAIN_MEMBERS)}


def prefer(found: Mapping[str, Table], default: str) -> str:
    """The name to choose out of paired results (right per calibration question, [n] each).

    The best mean, but the default keeps its place unless it is beaten by more than two standard errors of the paired
    difference: with ten candidates and a few hundred questions one of them is ahead by luck most of the time. Raises
    RouterError when there are no questions.
    """
    if not all(map(len, found.values())):
        raise RouterError("there are no questions to choose on\n  next: give more, with fewer that say the same")
    best = max(found, key=lambda name: (float(found[name].mean()), name == default))
    if default in found:
        gain = found[best] - found[default]
        if gain.mean() <= 2 * gain.std() / np.sqrt(max(1, len(gain))):
            return default
    return best
