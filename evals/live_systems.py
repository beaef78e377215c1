"""The systems of `coe eval live`: each is a pipeline of the registry."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from composer.settings.specs import Settings, StageSpec

ROUTED, VOTE, ALL = "routed", "vote of three", "majority of all"
MERGED, JUDGED, SCORED, REFINED = "merged", "judged", "scored", "refined"
DISCUSSED, SEARCHED = "discussed", "searched"
PLANNED = "planned"
SYSTEMS = (ROUTED, VOTE, ALL, MERGED, JUDGED, SCORED, REFINED, DISCUSSED, SEARCHED, PLANNED)
CODER = "coder"
PROGRAMS, ENSEMBLE, PRISM, PLANNED_TOO = (
    "routed with programs",
    "ensemble of strategies",
    "prism",
    "planned with programs",
)
WITH_PROGRAMS = (PROGRAMS, ENSEMBLE, PRISM, PLANNED_TOO)

Steps = tuple[tuple[str, Mapping[str, Any]], ...]
_DRAW: Steps = (("generate", {}), ("verify", {}))
_VOTE: Steps = (("aggregate", {"by": "majority"}),)


def with_systems(settings: Settings, merger: str, planner: str | None) -> Settings:
    """The registry with a pipeline per way of composing. Without a planner nothing is planned."""
    three: Steps = (("decide", {"k": 3}), *_DRAW)
    ways: dict[str, Steps] = {
        ROUTED: (("decide", {"k": 1}), *_DRAW, ("aggregate", {"by": "best"})),
        VOTE: (*three, *_VOTE),
        ALL: (("decide", {"k": len(settings.arms)}), *_DRAW, *_VOTE),
        MERGED: (*three, ("merge", {"by": merger}), *_VOTE),
        JUDGED: (*three, ("judge", {"by": merger}), *_VOTE),
        SCORED: (*three, ("score", {"by": merger}), *_VOTE),
        REFINED: (*three, ("refine", {"by": merger, "tries": 2}), *_VOTE),
        DISCUSSED: (*three, ("discuss", {"rounds": 1}), *_VOTE),
        SEARCHED: (*three, ("search", {"paths": 4, "rounds": 1}), *_VOTE),
    }
    if planner is not None:
        ways[PLANNED] = (("decide", {"k": 1}), ("plan", {"planner": planner}), *_DRAW, ("aggregate", {"by": "best"}))
    return _with(settings, ways)


def with_programs(settings: Settings, planner: str | None) -> Settings:
    """A registry whose experts also answer by programs, with the pipelines that ask them, and those alone."""
    run: Steps = (("generate", {}), ("execute", {}), ("verify", {}))
    best: Steps = (("aggregate", {"by": "best"}),)
    ways: dict[str, Steps] = {
        PROGRAMS: (("decide", {"k": 1}), *run, *best),
        ENSEMBLE: (("decide", {"k": len(settings.arms)}), *run, ("aggregate", {"by": "ordered"})),
        PRISM: (("decide", {"policy": "prism"}), *run, ("aggregate", {"by": "prism"})),
    }
    if planner is not None:
        ways[PLANNED_TOO] = (("decide", {"k": 1}), ("plan", {"planner": planner}), *run, *best)
    usual = tuple(StageSpec(use, dict(options), 1) for use, options in ways[PROGRAMS])
    return _with(replace(settings, pipeline=usual, pipelines={}), ways)


def _with(settings: Settings, ways: Mapping[str, Steps]) -> Settings:
    pipelines = {
        name_of(name): tuple(StageSpec(use, dict(options), 1) for use, options in steps) for name, steps in ways.items()
    }
    return replace(settings, pipelines={**settings.pipelines, **pipelines})


def ways_of(settings: Settings) -> list[str]:
    """The systems that there is a pipeline for, in the order of the table."""
    return [name for name in (*SYSTEMS, *WITH_PROGRAMS) if name_of(name) in settings.pipelines]


def name_of(system: str) -> str:
    """The pipeline of a system."""
    return system.replace(" ", "-")
