"""Does every expert of the registry open, answer, and differ from its base? Found out by asking, not by reading."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from composer.errors import ComposerError
from composer.registry.differ import SAME, difference
from composer.registry.experts import Registry
from composer.registry.memory import refuse_what_cannot_fit
from composer.types import Delta, Draft, Request, Sampling

if TYPE_CHECKING:
    from composer.engines.base import Engine

QUESTION = "What is 7 + 5?"
TOP = 20


@dataclass(frozen=True, slots=True)
class Check:
    """What asking an expert showed. `difference` is the largest change of a log-probability (nats) that its adapter
    makes to the first token, None for a bare base and where it could not be measured; `seconds` and `memory` (bytes)
    are those of opening its host."""

    expert: str
    model: str
    ok: bool
    answer: str
    difference: float | None
    seconds: float
    memory: int
    problem: str | None


async def check_experts(registry: Registry, *, memory: int | None = None) -> AsyncIterator[Check]:
    """A check per expert, host by host. A host that cannot be opened fails its experts and costs no other host."""
    settings = registry.settings
    for model in settings.models:
        experts = [expert for expert in settings.experts.values() if expert.model == model]
        adapters = [expert.name for expert in experts if expert.adapter]
        engine: Engine | None = None
        try:
            engine = registry.engine(model)
            refuse_what_cannot_fit(model, registry.estimate(model, adapters), memory, registry.where(model))
            host = await asyncio.to_thread(registry.host, model, adapters)
            # Of weights that had to be fetched the size was not known before.
            refuse_what_cannot_fit(model, host.memory, memory, registry.where(model))
            opened = await engine.open(host)
            asked = {expert.name: _request(registry, expert.name) for expert in experts}
            drafts: dict[str, Draft] = {}
            # The base is asked in each adapter's own words: another prompt would differ by itself.
            bare = [_request(registry, name, bare=True) for name in adapters]
            async with aclosing(engine.generate([*asked.values(), *bare])) as pieces:  # type: ignore[type-var]
                async for name, piece in pieces:
                    if not isinstance(piece, Delta):
                        drafts[name] = piece
            for expert in experts:
                draft = drafts[expert.name]
                base = drafts[_bare(expert.name)] if expert.adapter else None
                parted = None if base is None else difference(_alternatives(draft), _alternatives(base))
                problem = _problem(draft, base, parted)
                yield Check(
                    expert.name,
                    model,
                    problem is None,
                    draft.text.strip(),
                    parted,
                    round(opened.seconds, 2),
                    opened.memory,
                    problem,
                )
        except ComposerError as why:
            for expert in experts:
                yield Check(expert.name, model, False, "", None, 0.0, 0, str(why))
        finally:
            if engine is not None:
                await engine.close()


def _request(registry: Registry, expert: str, *, bare: bool = False) -> Request:
    stream = registry.stream(expert, registry.messages(expert, QUESTION))
    if bare:
        stream = replace(stream, adapter=None)
    sampling = Sampling(max_tokens=1 if bare else 32, logprobs=TOP)
    return Request(_bare(expert) if bare else expert, (stream,), sampling, role="probe", arm=expert)


def _bare(expert: str) -> str:
    """The id of the request to an adapter's base; no expert can be called so."""
    return f"{expert} without its adapter"


def _alternatives(draft: Draft) -> dict[str, float]:
    """The first token's alternatives and their log-probabilities; some servers write an impossible one as -inf."""
    top = draft.logprobs[0].top if draft.logprobs else ()
    return {token: logprob for token, logprob in top if math.isfinite(logprob)}


def _problem(draft: Draft, base: Draft | None, difference: float | None) -> str | None:
    """What is wrong with an expert; `base` is what its model says without the adapter, None where it has none."""
    if draft.error is not None:
        return draft.error.message
    if not draft.text.strip():
        return "the answer is empty"
    if base is None:
        return None
    if difference is None:
        silent = "the model" if _alternatives(draft) else "the expert"
        why = base.error.message if base.error else f"{silent} gave no log-probabilities"
        return f"the adapter could not be proved to change the model: {why}"
    if difference < SAME:
        return (
            f"the adapter changes nothing (largest difference {difference:.1e} nats): the base answers in its name; "
            "its modules' names may not be the base's"
        )
    return None
