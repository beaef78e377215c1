"""retrieve: find passages for the rows whose wanted arms are given any."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Gt

from composer.retrieval.corpus import BROKEN
from composer.retrieval.evidence import as_evidence
from composer.stages.kit import Arms, Encoder, Finder, Kit, Stage
from composer.state import Query, State, Update
from composer.types import Evidence

if TYPE_CHECKING:
    from composer.stages.asking import Ask

WORTH = 60.0
"""Seconds of computing that a right answer is worth, where nobody says."""


def retrieve(kit: Kit, *, gate: str | None = None, value: Annotated[float, Gt(0)] = WORTH) -> Stage:
    """Search once per index for all rows that want an arm with evidence from it, and have experts write what others read. What
    was found for a row stays with it: an arm that is asked again reads the same.

    With a `gate` (`auto`: the one that `coe fit gate` chose for each arm; or the name of one) the wanted arms are first
    weighed against those of the same expert with and without evidence, where a right answer is worth `value` seconds of
    computing. An index that is missing or damaged is an error before anything is asked; one
    that fails later leaves its rows without passages, and marks their answers."""

    if gate is not None:
        from composer.stages.gating import check_gate, gated  # noqa: PLC0415 - only who has a gate needs it

        check_gate(gate)

    async def stage(state: State) -> Update:
        update: dict[str, Any] = {}
        if gate is not None:
            update |= await gated(kit, state, gate, value)
            state = state.apply(update)
        if not any(_wanting(kit, state)):
            return update
        return {**update, **await _found(kit, state)}

    return stage


def evidence_of(kit: Kit, state: State) -> tuple[Mapping[str, Evidence], ...]:
    """The evidence of every row, with that of an index for the arms which are wanted now. Raises PassageError."""
    found = [dict(own) for own in state.evidence]
    wanting = enumerate(_wanting(kit, state))
    asked = [(row, arm) for row, arms in wanting for arm in arms if not writing(kit.registry, arm)]
    told = look_up(kit.registry, kit.passages, [(arm, state.queries[row]) for row, arm in asked])
    for (row, arm), evidence in zip(asked, told, strict=True):
        found[row][arm] = evidence
    return tuple(found)


async def _found(kit: Kit, state: State) -> Update:
    """The evidence with that of the arms which are wanted now. A row for which experts were not allowed to write everything,
    or were cut, is withheld: an uninterrupted run would read more."""
    from composer.stages.asking import asking  # noqa: PLC0415 - asyncio: `coe route` makes this stage and never runs it

    asked = [(row, arm) for row, arms in enumerate(_wanting(kit, state)) for arm in arms]
    cut: set[str] = set()
    ask = asking(kit.pool(), budget=kit.budget(), emit=kit.emit, cut=cut)
    pairs = [(arm, state.queries[row]) for row, arm in asked]
    found = [dict(own) for own in state.evidence]
    for (row, arm), evidence in zip(
        asked, await read(kit.registry, ask, kit.encoder, kit.passages, pairs), strict=True
    ):
        found[row][arm] = evidence
    withheld = [held or query.id in cut for held, query in zip(state.withheld, state.queries, strict=True)]
    return {"evidence": tuple(found), "withheld": tuple(withheld)}


def writing(registry: Arms, arm: str) -> bool:
    """Whether the arm reads what experts write."""
    spec = registry.evidence(arm)
    return spec is not None and spec.writers is not None


def _wanting(kit: Kit, state: State) -> list[list[str]]:
    """Per row the wanted arms whose evidence is not there yet."""
    pairs = zip(state.wanted, state.evidence, strict=True)
    return [[arm for arm in arms if kit.registry.evidence(arm) and arm not in known] for arms, known in pairs]


async def read(
    registry: Arms,
    ask: Ask,
    encoder: Callable[[], Encoder],
    passages: Callable[[Path], Finder],
    asked: Sequence[tuple[str, Query]],
) -> list[Evidence]:
    """The evidence for each (arm, question), found or written. Raises PassageError where an index cannot be opened; what
    fails later is told in the evidence."""
    import asyncio  # noqa: PLC0415 as above

    from composer.stages.knowledge import write_evidence  # noqa: PLC0415 as above

    places = [place for place, (arm, _) in enumerate(asked) if writing(registry, arm)]
    found = await asyncio.to_thread(look_up, registry, passages, asked)
    told = await write_evidence(registry, ask, encoder, passages, [asked[place] for place in places]) if places else []
    for place, evidence in zip(places, told, strict=True):
        found[place] = evidence
    return found


def look_up(registry: Arms, passages: Callable[[Path], Finder], asked: Sequence[tuple[str, Query]]) -> list[Evidence]:
    """The evidence for each (arm, question), one search per index. Of an arm that reads none it is empty. Raises
    PassageError where an index cannot be opened; what fails later is told in the evidence."""
    found = [Evidence()] * len(asked)
    places: dict[tuple[Path, int, int], list[int]] = {}
    for place, (arm, _) in enumerate(asked):
        if (spec := registry.evidence(arm)) and spec.index is not None:
            places.setdefault((spec.index, spec.k, spec.rerank), []).append(place)
    for (folder, k, rerank), own in places.items():
        finder = passages(folder)
        texts = list(dict.fromkeys(asked[place][1].text for place in own))
        try:
            hits = dict(zip(texts, finder.search(texts, k, rerank=rerank), strict=True))
        except BROKEN as why:
            for place in own:
                found[place] = Evidence(missing=str(why))
            continue
        for place in own:
            arm, query = asked[place]
            before = "".join(turn.content for turn in query.turns)
            found[place] = as_evidence(
                query.prompt,
                [hit.passage for hit in hits[query.text]],
                lambda text, arm=arm, before=before: registry.fits(arm, before + text),  # type: ignore[misc]
            )
    return found
