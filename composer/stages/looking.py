"""Looking at questions for a gate: signals from the text, the index, and short drafts of whoever would answer."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from composer.retrieval.gate import DRAFTED, Signals
from composer.retrieval.signals import asked, drafted, probes
from composer.stages.asking import Ask
from composer.stages.kit import Kit
from composer.stages.prompting import prompt_of
from composer.state import Query
from routers.types import Array


async def look(
    kit: Kit,
    arm: str,
    plain: str,
    queries: Sequence[Query],
    needs: frozenset[str],
    ask: Ask,
    vectors: Array | None = None,
) -> Signals:
    """The signals of these questions for the arm that reads; of those that cost drafts, which `plain` writes, the ones in
    `needs`, as far as they can be had. `vectors` of the questions spare the encoding. Raises what `BROKEN` lists where
    the index cannot be searched."""
    spec = kit.registry.evidence(arm)
    assert spec is not None
    texts = [query.prompt for query in queries]

    def before() -> Signals:
        index = None if spec.index is None else kit.passages(spec.index)
        return asked(texts, kit.encoder().encode(texts) if vectors is None else vectors, index)

    signals = await asyncio.to_thread(before)
    if not needs & set(DRAFTED):
        return signals
    names = [f"{query.id}:{plain}:probe" for query in queries]
    requests = [
        request
        for name, query in zip(names, queries, strict=True)
        for request in probes(
            name,
            plain,
            kit.registry.stream(plain, prompt_of(kit.registry, query, plain, None)),
            query.wishes.of(kit.registry.sampling(plain)),
            needs,
            query.id,
        )
    ]
    return drafted(signals, names, await ask(requests), kit.registry.kind(plain))
