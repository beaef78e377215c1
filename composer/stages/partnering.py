"""Who an arm is contrasted with, question by question, and the streams that are decoded together."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace

from composer.decoding.recipes import contrast
from composer.settings.contrast import BASE, RANDOM, UNCHOSEN, UNREAD, WEAK
from composer.stages.kit import Arms
from composer.stages.prompting import prompt_of
from composer.state import Contrasted, Query, State
from composer.types import Evidence, Mix, Stream


def contrasted(registry: Arms, state: State, row: int, arm: str) -> Contrasted | None:
    """What is taken off of what the arm says about this row's question, None where nothing is: what was decided for the row
    (by the stage `contrast`), else what the arm's name says. `unchosen` is the expert on the same base, of those that the
    row does not ask, which the router ranks last; where nobody has ranked them, because the arm was asked for by name, one
    is drawn as for `random`, and it says so."""
    if (decided := state.contrasted[row].get(arm)) is not None:
        return decided
    spec = registry.contrast(arm)
    if spec is None:
        return None
    if spec.against not in (UNCHOSEN, RANDOM):
        return Contrasted(spec.against, "named", spec.beta, spec.alpha)
    asked = {registry.stream(one, "").expert for one in state.asked[row]}
    every = registry.partners(arm)
    free = [name for name in every if name not in asked] or list(every)
    if spec.against == UNCHOSEN and state.scores is not None:
        scores = dict(zip(state.arms, state.scores[row].tolist(), strict=True))
        ranked = [name for name in free if name in scores]
        if ranked:
            return Contrasted(min(ranked, key=lambda name: scores[name]), "ranked last", spec.beta, spec.alpha)
    drawn = hashlib.sha256(f"{arm}\0{state.queries[row].text}".encode("utf-8", "replace")).digest()
    how = "random" if spec.against == RANDOM else "random, as nobody ranked the experts"
    return Contrasted(free[int.from_bytes(drawn[:8], "big") % len(free)], how, spec.beta, spec.alpha)


def contrasts_of(registry: Arms, state: State) -> tuple[Mapping[str, Contrasted], ...]:
    """The contrasts of every row, with those of the arms which are wanted now."""
    return tuple(
        {**known, **{arm: found for arm in wanted if (found := contrasted(registry, state, row, arm)) is not None}}
        for row, (known, wanted) in enumerate(zip(state.contrasted, state.wanted, strict=True))
    )


def streams_of(
    registry: Arms, query: Query, arm: str, read: Evidence | None, against: Contrasted | None, voice: str | None = None
) -> tuple[tuple[Stream, ...], Mix | None]:
    """The streams of the arm's draft, and how they are combined: its own, and that of what it is contrasted with. Each has
    its own prompt: an expert its system message, and what the arm reads is read by both, unless that is the contrast. `voice` is the arm
    whose persona it speaks as."""
    own = registry.stream(arm, prompt_of(registry, query, voice or arm, read))
    if against is None:
        return (own,), None
    if against.partner == BASE:
        weak = registry.stream(arm, own.prompt, bare=True)
    elif against.partner == WEAK:
        weak = replace(own, routing="weak")
    elif against.partner == UNREAD:
        weak = registry.stream(arm, prompt_of(registry, query, voice or arm, None))
    else:
        weak = registry.stream(against.partner, prompt_of(registry, query, against.partner, read))
    (more, less), mix = contrast(against.beta, against.alpha)
    host = registry.host_of(weak.expert)
    base = host if host != registry.host_of(arm) else None
    return (replace(own, weight=more), replace(weak, weight=less, base=base)), mix
