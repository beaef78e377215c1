"""Asks a language model which skills questions need."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from composer.stages.kit import Arms
from composer.types import Draft, Request
from routers.keywords import PROMPT, REPEATS, TEMPERATURE, Annotate, keywords_of

if TYPE_CHECKING:
    from composer.pipeline import Pipeline


def annotator(pipeline: Pipeline, expert: str) -> Annotate:
    """The callable that `KeywordFinder` wants: asks `expert` through the pipeline's pool, so that what the store has is
    asked of nobody again. Use it inside `with pipeline:`, not from a running event loop."""

    def annotate(texts: Sequence[str]) -> list[tuple[str, ...]]:
        return keywords_by_text(len(texts), pipeline.complete(_drafts(pipeline, texts, expert))) if texts else []

    return annotate


async def _drafts(pipeline: Pipeline, texts: Sequence[str], expert: str) -> dict[str, Draft]:
    requests = annotation_requests(texts, expert, pipeline.registry)
    return {name: piece async for name, piece in pipeline.pool.submit(requests) if isinstance(piece, Draft)}


def annotation_requests(texts: Sequence[str], expert: str, registry: Arms) -> list[Request]:
    """Five requests per text to the arm `expert` (METHODS A.1); ids are "place:repeat", charged as annotation."""
    sampling = replace(registry.sampling(expert), temperature=TEMPERATURE, max_tokens=48)
    found = []
    for place, text in enumerate(texts):
        stream = registry.stream(expert, registry.messages(expert, PROMPT.format(question=text)))
        found += [
            Request(
                f"{place}:{repeat}", (stream,), sampling, sample=repeat, role="annotate", arm=expert, parent=str(place)
            )
            for repeat in range(REPEATS)
        ]
    return found


def keywords_by_text(n: int, drafts: Mapping[str, Draft]) -> list[tuple[str, ...]]:
    """The keywords of each of `n` texts from the drafts by request id; failed and cut drafts are left out."""
    return [
        keywords_of(
            [draft.text for repeat in range(REPEATS) if (draft := drafts.get(f"{place}:{repeat}")) and draft.ok]
        )
        for place in range(n)
    ]
