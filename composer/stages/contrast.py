"""contrast: take what a weaker source would say off what the chosen experts say, where that was shown to help."""

from __future__ import annotations

from collections.abc import Mapping

from composer.errors import ConfigError
from composer.settings.contrast import FITTED
from composer.stages.kit import Kit, Stage
from composer.stages.partnering import contrasted
from composer.state import Contrasted, State, Update


def contrast(kit: Kit, *, use: str = FITTED) -> Stage:
    """Arms of which `coe fit contrast` has shown that a contrast helps are decoded with it from now on, under their own name
    (`auto`); or `use` names a contrast of the registry, and all that have it are. The trace says with whom, how much, and
    why. Who asks for an expert by name gets that arm as it is."""
    if use != FITTED and not _named(kit, use):
        raise ConfigError(
            f"no contrast is called {use!r}", where="use", remedy=f"declare it in `contrasts:`, or write {FITTED}"
        )

    async def stage(state: State) -> Update:
        return {} if state.course is None else {"contrasted": decided_contrasts(kit, state, use=use)}

    return stage


def decided_contrasts(kit: Kit, state: State, *, use: str = FITTED) -> tuple[Mapping[str, Contrasted], ...]:
    """The contrasts of every row, with those that this stage puts onto arms which have none yet."""
    records = kit.contrasts() if use == FITTED else {}
    declared = _named(kit, use)
    found = [dict(own) for own in state.contrasted]
    for row, own in enumerate(found):
        for plain, record in records.items():
            if plain not in own and plain in state.arms:
                chosen = contrasted(kit.registry, state, row, record.arm)
                assert chosen is not None
                own[plain] = chosen.but(record.beta, record.alpha, record.why)
        for arm, plain in declared.items():
            if plain not in own and (chosen := contrasted(kit.registry, state, row, arm)) is not None:
                own[plain] = chosen.but(chosen.beta, chosen.alpha, f"every arm that can is decoded with `{use}`")
    return tuple(found)


def _named(kit: Kit, contrast: str) -> dict[str, str]:
    """The arms with the contrast of this name, and what each is without it."""
    arms = kit.registry.contrasts().items()
    return {arm: plain for arm, plain in arms if (spec := kit.registry.contrast(arm)) and spec.name == contrast}
