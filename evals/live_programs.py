"""`coe eval live`: the packaged experts with those that answer by programs, measured on the profile's questions before they are routed to."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from composer.config import PACKAGED
from composer.pipeline import Pipeline
from composer.profiling import ITEMS, profile_file
from composer.settings.adapter import AdapterSpec
from composer.settings.specs import ExpertSpec, Settings
from composer.settings.strategy import ASKS, StrategySpec
from evals.live_systems import CODER, with_programs

_EVERY = 4  # of the profile's questions that the new arms are measured on


def programs(
    settings: Settings, folder: Path, planner: str | None, *, offline: bool, say: Callable[[str], None]
) -> Settings:
    """The registry with the coder, and with the generalist's program and tool; their records are kept in `folder`, where they are measured
    once. The registry's own profile stays as it is. Raises what asking raises."""
    base, general = next(iter(settings.models)), settings.generalist
    own = (StrategySpec("code", ASKS["code"]), StrategySpec("tool", ASKS["tool"]))
    experts = {**settings.experts, general.name: replace(general, strategies=own), CODER: _coder(base, settings)}
    more = with_programs(replace(settings, experts=experts, profile=folder / "profile"), planner)
    if settings.profile is not None and not (folder / "profile").exists():
        say("arms that answer by programs are measured on a part of the profile's questions")
        part = folder / "items.jsonl"
        part.write_text("\n".join(ITEMS.read_text(encoding="utf-8").splitlines()[::_EVERY]) + "\n", encoding="utf-8")
        fresh = folder / "profile.new"
        shutil.rmtree(fresh, ignore_errors=True)
        shutil.copytree(settings.profile, fresh)
        pipeline = Pipeline(replace(more, profile=settings.profile), store=folder / "profile.sqlite", offline=offline)
        profile_file(pipeline, part, fresh, only=[name for name, arm in more.arms.items() if arm.strategy is not None])
        fresh.rename(folder / "profile")
    return more


def _coder(model: str, settings: Settings) -> ExpertSpec:
    file = PACKAGED / "adapters" / CODER / f"{CODER}.gguf"
    return ExpertSpec(
        name=CODER,
        model=model,
        adapter=AdapterSpec(file, hashlib.sha256(file.read_bytes()).hexdigest()),
        description="writes a line of Python",
        skills=(),
        answers="text",
        sampling=replace(settings.models[model].sampling, max_tokens=96),
        generalist=False,
        strategies=(StrategySpec("code", ""),),
        prose=False,
    )
