"""From the steps of a pipeline, as the registry writes them, to stages."""

from __future__ import annotations

from collections.abc import Sequence

from composer.errors import ConfigError
from composer.plugins import check_options, load
from composer.settings.specs import Settings, StageSpec
from composer.stages.kit import Kit, Stage

_ORDER = (
    ("plan", "decide", "generate"),
    ("persona", "decide", "generate"),
    ("execute", "generate", "verify"),
    *((name, "verify", "aggregate") for name in ("discuss", "judge", "merge", "refine", "score", "search")),
)
"""Stages that have to stand between two others."""


def stages_of(settings: Settings, kit: Kit, steps: Sequence[StageSpec], at: str) -> list[tuple[str, Stage]]:
    """The stages of the pipeline at the setting `at`. The loop begins with a decision and the run ends with an answer, or
    it never ends, or ends without one: ConfigError."""
    names = [step.use for step in steps]
    if len(names) < 3 or (names[0], names[-1]) != ("decide", "aggregate") or "generate" not in names:
        raise ConfigError(
            f"the pipeline is {', '.join(names) or 'empty'}: it must begin with `decide`, hold `generate`, and end with `aggregate`",
            where=settings.where(at),
            remedy="write `decide` first and `aggregate` last, `generate` and the other stages between them",
        )
    if settings.reading and "retrieve" not in names[: names.index("generate")]:
        raise ConfigError(
            f"the pipeline is {', '.join(names)}: {settings.reading[0].name} reads passages, and nothing looks them up",
            where=settings.where(at),
            remedy="write `- use: retrieve` between `decide` and `generate`, or remove `evidence:`",
        )
    if settings.strategic and "execute" not in names:
        raise ConfigError(
            f"the pipeline is {', '.join(names)}: {settings.strategic[0].name} writes programs, and nothing runs them",
            where=settings.where(at),
            remedy="write `- use: execute` between `generate` and `verify`, or remove `strategies:`",
        )
    if "contrast" in names and names.index("contrast") > names.index("generate"):
        raise ConfigError(
            f"the pipeline is {', '.join(names)}: what `generate` has drawn is contrasted no more",
            where=settings.where(f"{at}[{names.index('contrast')}]"),
            remedy="write `- use: contrast` between `decide` and `generate`",
        )
    for name, after, before in _ORDER:
        if name in names and not (after in names and names.index(after) < names.index(name) < names.index(before)):
            raise ConfigError(
                f"the pipeline is {', '.join(names)}: `{name}` works on what `{after}` has made of a question",
                where=settings.where(f"{at}[{names.index(name)}]"),
                remedy=f"write `- use: {name}` between `{after}` and `{before}`",
            )
    return [(step.use, stage_of(settings, kit, step, f"{at}[{place}]")) for place, step in enumerate(steps)]


def stage_of(settings: Settings, kit: Kit, step: StageSpec, where: str) -> Stage:
    """The stage of this step, its options checked; every error names the line."""
    factory = load("stages", step.use, settings.where(f"{where}.use"))
    options = check_options(factory, step.options, lambda name: settings.where(f"{where}.options.{name}"))
    try:
        stage: Stage = factory(kit, **options)
    except ConfigError as why:
        option = (why.where or "").partition(".")[0]
        at = f"{where}.options.{why.where}" if option in step.options else f"{where}.options"
        raise ConfigError(why.what, where=settings.where(at), remedy=why.remedy) from why
    return stage
