"""persona: let an expert speak as one of its personas, on questions of an intent for which that was shown to help."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from composer.settings.persona import Voiced
from composer.stages.kit import Kit, Stage
from composer.state import State, Update

if TYPE_CHECKING:
    from composer.records.personas import PersonaRecord


def persona(kit: Kit) -> Stage:
    """On questions of an intent for which `coe fit gate` has shown a gain, the arm with the persona answers in the place of its
    expert (PRISM, persona routing by intent; METHODS G.2): nowhere else, and never a merger, a judge or a planner. The reply stands
    under the expert's name, and the trace says as whom it spoke, for which intent, and why. Who asks for an expert by name gets it as
    it is."""

    async def stage(state: State) -> Update:
        if state.course is None or state.round > 1:  # later rounds ask for the same questions
            return {}
        import asyncio  # noqa: PLC0415 - `coe route` makes this stage and never runs it

        return {"voiced": await asyncio.to_thread(voiced, kit, state)}

    return stage


def voiced(kit: Kit, state: State) -> tuple[Mapping[str, Voiced], ...]:
    """Per row the experts that would speak as a persona, whether they are asked or not."""
    records = [one for one in kit.personas() if one.open and one.plain in state.arms]
    if not records:
        return state.voiced
    intents = kit.intents().of(kit.encoder().encode([query.prompt for query in state.queries]))
    return tuple(_best(records, intent) for intent in intents)


def _best(records: Sequence[PersonaRecord], intent: str) -> dict[str, Voiced]:
    """Of each expert the persona that gains most for sure."""
    found: dict[str, PersonaRecord] = {}
    for one in records:
        if one.intent == intent and (one.plain not in found or (one.low or 0) > (found[one.plain].low or 0)):
            found[one.plain] = one
    return {plain: Voiced(one.arm, intent, one.why) for plain, one in found.items()}
