"""Contrast as the registry file declares it: what a weaker source would say is taken off what the arm says."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from composer.errors import ConfigError, suggest
from composer.types import Mix, Request, Stream

if TYPE_CHECKING:
    from composer.engines.base import Engine
    from composer.settings.form import ContrastRow
    from composer.settings.specs import ArmSpec, ExpertSpec, Settings

BASE, UNCHOSEN, RANDOM, UNREAD, WEAK = "base", "unchosen", "random", "unread", "weak"
KINDS = {
    BASE: "its base without its adapter",
    UNCHOSEN: "the expert on the same base that the router ranks last",
    RANDOM: "another expert on the same base, drawn by the question",
    UNREAD: "itself without the passages it reads",
    WEAK: "itself, in each layer the one expert of the model that it would not choose",
}
"""What an arm can be contrasted with beside an expert that is named."""

FITTED = "auto"
"""What the stage `contrast` uses where it names no contrast: what `coe fit contrast` installed."""

CONTRASTING = "`llamacpp`, `transformers`, or `vllm` with `in_process: true`"
"""The engines that decode several streams together."""

Fault = Callable[[str, str, str], ConfigError]
"""The error of a setting: what, and the remedy."""


@dataclass(frozen=True, slots=True)
class ContrastSpec:
    """(1 + `beta`) times what the arm says less `beta` times what `against` says (one of `KINDS`, or an expert), over the
    tokens that are at least `alpha` times as probable to the arm as its best (METHODS C.1, C.2)."""

    name: str
    against: str
    beta: float = 0.5
    alpha: float = 0.1


def contrast_of(
    name: str, row: ContrastRow, arms: Mapping[str, ArmSpec], experts: Mapping[str, ExpertSpec], error: Fault
) -> tuple[ContrastSpec, list[ArmSpec]]:
    """What this row of the file declares, and the arms that have it beside. Raises ConfigError."""
    at = f"contrasts.{name}"
    spec = ContrastSpec(name, row.against, row.beta, row.alpha)
    if row.against in KINDS and row.against in experts:
        raise error(f"{at}.against", f"`{row.against}` is an expert, and a word for {KINDS[row.against]}", "rename it")
    if row.against not in KINDS and row.against not in experts:
        known = [*KINDS, *experts]
        raise error(f"{at}.against", f"no expert is called {row.against!r}", suggest(row.against, known))
    for arm in row.arms or ():
        if arm not in arms:
            raise error(f"{at}.arms", f"no arm is called {arm!r}", suggest(arm, list(arms)))
        if (why := _unfit(arms[arm], spec, experts)) is not None:
            raise error(f"{at}.arms", f"{arm} {why}", "remove it")
    found = [arms[arm] for arm in row.arms or arms if _unfit(arms[arm], spec, experts) is None]
    if not found:
        why = _unfit(next(iter(arms.values())), spec, experts)
        raise error(at, f"it is for no arm: {next(iter(arms))}, for one, {why}", "remove it")
    return spec, found


def partners(spec: ContrastSpec, expert: str, experts: Mapping[str, ExpertSpec]) -> Sequence[str]:
    """The experts that may be the partner of this one: the one that is named, or all whose adapters stand on the same base;
    none where it is contrasted with itself, without its adapter or its passages."""
    if spec.against in experts:
        return [spec.against]
    if spec.against in (BASE, UNREAD, WEAK):
        return []
    own = experts[expert].model
    return [
        name
        for name, one in experts.items()
        if name != expert and one.model == own and one.adapter is not None and one.writes == "answers"
    ]


def _unfit(arm: ArmSpec, spec: ContrastSpec, experts: Mapping[str, ExpertSpec]) -> str | None:
    """Why the arm cannot be contrasted so; None if it can."""
    expert = experts[arm.expert]
    if arm.persona is not None:
        return "speaks as a persona, which is another way to change what it says"
    if arm.strategy is not None:
        return f"has the strategy {arm.strategy.use}, and is asked as it is"
    if spec.against == BASE:
        return None if expert.adapter is not None else "has no adapter, so it is its base"
    if spec.against == WEAK:
        return None
    if spec.against == UNREAD:
        return None if arm.evidence is not None else "reads nothing"
    if spec.against in (UNCHOSEN, RANDOM):
        return None if partners(spec, arm.expert, experts) else f"has no other expert with an adapter on {expert.model}"
    return None if spec.against != arm.expert else "would be contrasted with itself"


def check_engines(settings: Settings, engine: Callable[[str], Engine]) -> None:
    """Refuse contrasts that the engines of their models cannot decode, before anything is loaded. `engine` makes the one of
    a model. Raises ConfigError."""
    engine = cache(engine)
    for arm in settings.contrasting:
        assert arm.contrast is not None
        at = f"contrasts.{arm.contrast.name}"
        expert = settings.experts[arm.expert]
        own = settings.models[expert.model]
        others = {settings.experts[name].model for name in partners(arm.contrast, arm.expert, settings.experts)}
        made = engine(own.name)
        caps = made.caps
        what = remedy = ""
        mix = Mix("logit", arm.contrast.alpha)
        streams = (
            Stream(expert.name, "x", weight=1 + arm.contrast.beta),
            Stream(expert.name, "x", weight=-arm.contrast.beta),
        )
        refused = getattr(made, "why_not", lambda _: None)(Request("check", streams, expert.sampling, mix=mix))
        if not caps.contrast and refused is not None:
            what, remedy = refused, "change its options, or remove the contrast"
        elif not caps.contrast:
            what = f"the engine of {own.name}, `{own.engine}`, decodes no streams together as it is set up"
            remedy = f"serve it by {CONTRASTING}, or remove the contrast"
        elif arm.contrast.against == WEAK and caps.level != "hooks":
            what = f"`{own.engine}` reaches no experts inside {own.name}"
            remedy = "serve a mixture-of-experts model by `transformers`, or remove the contrast"
        elif elsewhere := sorted(others - {own.name}):
            kind = settings.models[elsewhere[0]].engine
            if kind != own.engine:
                what = f"{own.name} is served by `{own.engine}` and {elsewhere[0]} by `{kind}`: they share no step"
                remedy = "serve both by one engine"
            elif dict(settings.models[elsewhere[0]].options) != dict(own.options):
                what = f"{own.name} and {elsewhere[0]} are opened by one engine, and their `options` differ"
                remedy = "give both the same options"
            elif settings.models[elsewhere[0]].completion != own.completion:
                what = f"one of {own.name} and {elsewhere[0]} chats and the other only continues text"
                remedy = "contrast models of one kind"
            elif not caps.beside:
                what = f"`{own.engine}` opens no second base beside {own.name}, and {arm.contrast.against} is on {elsewhere[0]}"
                remedy = "serve both by `llamacpp` or `transformers`"
        if not what and refused is not None:
            what, remedy = refused, "change the contrast, or the expert's sampling"
        if what:
            raise ConfigError(f"{arm.name}: {what}", where=settings.where(at), remedy=remedy)
