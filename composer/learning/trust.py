"""How far this pipeline's answers are to be believed: the pipeline rehearsed on its own profile, kept beside it."""

from __future__ import annotations

import copy
import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from composer.answers.ballots import Aggregator
from composer.answers.signals import Sureness
from composer.answers.trust import Alarm, Content, Trust, dissociated
from composer.errors import InputError
from composer.folders import mend, replacing
from composer.learning.answers import record_of
from composer.learning.grid import Grid
from composer.learning.tune import cross_scores, cross_signals, crossed, with_skills
from composer.places import router_folder, trust_folder
from composer.profile import TRUST, find_profile
from composer.registry.experts import Registry
from composer.settings.specs import Settings
from composer.stages.decide import policy_of
from composer.stages.kit import unfitted
from routers.errors import RouterError
from routers.skills import SkillFinder
from routers.store import FILE, read, write
from routers.types import Policy, Questions, Router

if TYPE_CHECKING:
    from composer.pipeline import Pipeline
    from composer.recorded import Recorded

_HOMES = ("composer.answers.signals", "composer.answers.trust")
_UNKNOWN = Trust(Sureness(), (), Content(), 0)
_LEAST = 30  # answers, from fewer of which nothing is learnt


def fit_trust(pipeline: Pipeline) -> Trust | None:
    """Rehearse the pipeline as its registry says on its profile, every question by a router and an aggregator that have not
    seen it, and learn what its answers' confidence is worth.

    None where there is nothing to choose, or there are too few answers to learn from (30, in four parts). Raises
    InputError where the aggregator cannot learn from the profile.
    """
    registry = pipeline.registry
    profile, _ = find_profile(registry)
    if len(profile.known) < 2:
        return None
    record, vectors = record_of(profile, registry.arms(), registry.generalist)
    questions = record.questions(vectors)
    labelled = len({name for own in questions.skills for name in own}) > 1
    if not record.voted or not labelled or len(questions) < _LEAST:
        return None
    decide, aggregate = (options_of(pipeline.settings, stage) for stage in ("decide", "aggregate"))
    router = pipeline.router(decide.pop("router", "auto"))
    return rehearsed_trust(
        router, policy_of(pipeline.kit, **decide), unfitted(aggregate.get("by", "best")), record, questions
    )


def rehearsed_trust(
    router: Router, policy: Policy, aggregator: Aggregator, record: Recorded, questions: Questions
) -> Trust | None:
    """What is to be believed of these collaborators together on recorded answers inside what the rest of them covers; they
    are fitted again, part by part."""
    scores = cross_scores(lambda: copy.deepcopy(router), questions, record.outcomes)
    grid = replace(
        with_skills(Grid.of(record), SkillFinder(floor=-1.0).fit(questions), questions.vectors),
        signals=cross_signals(questions, scores),
    )
    played = crossed(policy, aggregator, grid, scores, questions)
    assert grid.signals is not None
    rows = np.flatnonzero((played.taken >= 0) & ~grid.signals.outside)  # there scores are no probabilities
    if len(rows) < _LEAST:
        return None
    sure, right, signals = played.sure[rows], played.right[rows], grid.take(rows).signals
    sureness = Sureness().fit(sure, signals, right)
    assert grid.skill is not None
    alarms = dissociated(
        [grid.arms[int(arm)].name for arm in played.taken[rows]],
        [grid.skills[int(skill)] if skill >= 0 else None for skill in grid.skill[rows]],
        sureness.probable(sure, signals),
        right,
    )
    return Trust(sureness, alarms, Content().fit(questions), len(rows))


def install_trust(pipeline: Pipeline, folder: Path | None = None) -> Trust | None:
    """Fit it, and put it where the pipeline finds it (`folder`: beside the profile that is there). What was there is of
    another pipeline, and goes."""
    trust = fit_trust(pipeline)
    place = folder / TRUST if folder is not None else trust_folder(pipeline.registry)
    try:
        with replacing(place) as fresh:
            write(trust or _UNKNOWN, fresh, keys=_keys(pipeline.registry), homes=_HOMES)
        if folder is not None:
            shutil.rmtree(trust_folder(pipeline.registry), ignore_errors=True)  # the older one would be found first
    except OSError as why:
        raise InputError(
            f"nothing can be written here: {why.strerror or why}", where=str(place), remedy="check the folder"
        ) from why
    return trust


def told(trust: Trust | None) -> list[str]:
    """For people."""
    if trust is None:
        return ["how sure answers are is not calibrated: too few of the profile's questions have answers"]
    return [
        f"how sure answers are is calibrated on {trust.questions} rehearsed answers",
        *(f"{line}; such answers are marked" for line in alarm_lines(trust.alarms)),
    ]


def alarm_lines(alarms: Sequence[Alarm]) -> list[str]:
    """For people."""
    return [
        f"{alarm.arm} is sure and wrong on {alarm.domain}: P(right) less the share right is {alarm.excess:+.2f}, at least "
        f"{alarm.low:+.2f} ({alarm.questions} answers)"
        for alarm in alarms
    ]


def installed_trust(registry: Registry) -> Trust | None:
    """What was measured for this registry as it stands; None where nothing was, or it was for another one."""
    declared = registry.settings.profile
    for place in (trust_folder(registry), *([declared / TRUST] if declared is not None else [])):
        mend(place)
        if (place / FILE).exists():
            try:
                found: Trust = read(place, keys=_keys(registry), homes=_HOMES)
            except RouterError:  # of another registry, or damaged: the trace says that nothing is calibrated
                continue
            return found if found.questions else None
    return None


def options_of(settings: Settings, stage: str) -> dict[str, Any]:
    """The options that the registry gives to this stage of its pipeline."""
    return next((dict(step.options) for step in settings.pipeline if step.use == stage), {})


def _keys(registry: Registry) -> dict[str, str]:
    prints, experts = registry.prints(), registry.settings.experts
    told = [
        [
            arm.name,
            prints[arm.name],
            arm.price,
            registry.kind(arm.name),
            list(experts[registry.settings.arms[arm.name].expert].skills),
        ]
        for arm in registry.arms()
    ]  # what an arm costs and how its answers are read decide, too, which answer is taken
    arms = hashlib.sha256(json.dumps([registry.generalist, told], sort_keys=True).encode()).hexdigest()
    learnt = router_folder(registry) / FILE  # what `coe fit router` installed decides whose scores are looked at
    router = hashlib.sha256(learnt.read_bytes()).hexdigest() if learnt.exists() else "none"
    steps = [
        [step.use, dict(step.options)] for step in registry.settings.pipeline
    ]  # of another one nothing was rehearsed
    pipeline = hashlib.sha256(json.dumps(steps, sort_keys=True).encode()).hexdigest()
    return {"pipeline": pipeline, "arms": arms, "encoder": registry.encoder_sha, "router": router}
