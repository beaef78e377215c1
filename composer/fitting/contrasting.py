"""Arms asked as they are and with what they are contrasted with, on labelled questions, in one pass over the hosts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from composer.errors import InputError
from composer.jsonl import Labelled
from composer.learning.fitted import decided_by
from composer.marks import mark
from composer.pipeline import Pipeline
from composer.stages.asking import asking
from composer.stages.partnering import contrasted, streams_of
from composer.stages.retrieve import read
from composer.state import Query, State, lettered
from composer.types import Draft, Evidence, Request
from routers.types import Questions

Column = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Variant:
    """A way to decode `plain`: as the declared arm `arm` with these numbers; None: as it is. `samples` drafts of it, each
    after the first with a seed of its own, at `temperature` (None: the expert's)."""

    plain: str
    arm: str | None = None
    beta: float = 0.0
    alpha: float = 0.0
    samples: int = 1
    temperature: float | None = None


@dataclass(frozen=True, slots=True)
class Tried:
    """What a variant did: `drafts` [question][sample], and per question, of the first sample, whether it was `right`, and
    whether there was a reply at all (`told`); of all
    together the `tokens` written and read, forward `passes`, and seconds."""

    variant: Variant
    drafts: tuple[tuple[Draft, ...], ...]
    right: Column
    told: NDArray[np.bool_]
    tokens: Column
    passes: Column
    seconds: Column


@dataclass(frozen=True, slots=True)
class Asked:
    """Labelled questions, and what the router makes of them: `scores` [question, arm] over `arms`, None where there is no
    choice."""

    items: Sequence[Labelled]
    questions: Questions
    state: State

    def only(self, rows: NDArray[np.int64]) -> Asked:
        """The questions at `rows`."""
        at = [int(row) for row in rows]
        return Asked([self.items[row] for row in at], self.questions.take(rows), self.state.part(at))

    def routed(self, plain: str) -> NDArray[np.int64]:
        """The questions that the router would give to the arm; all where it has no say."""
        scores = self.state.scores
        if scores is None or plain not in self.state.arms:
            return np.arange(len(self.items))
        best = np.asarray(scores).argmax(axis=1)
        return np.flatnonzero(best == self.state.arms.index(plain))


def prepared(pipeline: Pipeline, items: Sequence[Labelled]) -> Asked:
    """The questions with vectors and scores. Raises InputError for none, RouterError, SourceError."""
    if not items:
        raise InputError("there is no question to ask", remedy="give a labelled file")
    texts = tuple(lettered(item.question.text, item.question.choices) for item in items)
    questions = Questions(tuple(item.question.id for item in items), texts, pipeline.encoder().encode(texts))
    router = pipeline.router(decided_by(pipeline.settings))
    queries = tuple(
        Query(one.question.id, one.question.text, one.question.choices, kind=one.question.kind) for one in items
    )
    arms = tuple(arm.name for arm in router.arms)
    state = State.of(queries).apply({"arms": arms, "scores": router.score(questions)})
    return Asked(items, questions, state)


async def try_all(pipeline: Pipeline, asked: Asked, variants: Sequence[Variant]) -> list[Tried]:
    """Every question to every variant, all in one submission, so each host is opened once. A draft that failed is
    wrong, and not `told`. Raises PassageError where an index cannot be opened."""
    requests = [
        request for place, one in enumerate(variants) for request in await _requests(pipeline, asked, place, one)
    ]
    drafts = await asking(pipeline.pool)(requests)
    return [_tried(asked, place, one, drafts) for place, one in enumerate(variants)]


async def _requests(pipeline: Pipeline, asked: Asked, place: int, one: Variant) -> list[Request]:
    registry = pipeline.registry
    state = asked.state.apply({"asked": ((one.plain,),) * len(asked.items)})
    given: list[Evidence] | list[None] = [None] * len(asked.items)
    if registry.evidence(one.plain) is not None:
        pairs = [(one.plain, query) for query in state.queries]
        given = await read(registry, asking(pipeline.pool), pipeline.encoder, pipeline.passages, pairs)
    found = []
    for row, (query, evidence) in enumerate(zip(state.queries, given, strict=True)):
        against = contrasted(registry, state, row, one.arm) if one.arm is not None else None
        if against is not None:
            against = against.but(one.beta, one.alpha, "")
        streams, mix = streams_of(registry, query, one.plain, evidence, against)
        found += list(_samples(pipeline, _name(query.id, place), one, Request("", streams, mix=mix)))
    return found


def _samples(pipeline: Pipeline, name: str, one: Variant, like: Request) -> Iterator[Request]:
    sampling = pipeline.registry.sampling(one.plain)
    if one.temperature is not None:
        sampling = replace(sampling, temperature=one.temperature)
    for sample in range(one.samples):
        own = replace(sampling, seed=sampling.seed + sample) if sample else sampling
        yield replace(like, id=f"{name}:{sample}", sampling=own, sample=sample, arm=one.arm or one.plain, parent=name)


def _name(query: str, place: int) -> str:
    return f"{query}:{place}"


def _tried(asked: Asked, place: int, one: Variant, drafts: Mapping[str, Draft]) -> Tried:
    own = tuple(
        tuple(drafts[f"{_name(item.question.id, place)}:{sample}"] for sample in range(one.samples))
        for item in asked.items
    )
    right = np.array(
        [mark(item, each[0].text, each[0].ok)[1] or 0.0 for item, each in zip(asked.items, own, strict=True)]
    )
    usage = [[draft.usage for draft in each] for each in own]
    return Tried(
        one,
        own,
        right,
        np.array([each[0].error is None and each[0].stop != "cancelled" for each in own]),
        np.array([sum(use.tokens_in + use.tokens_out for use in each) for each in usage], dtype=np.float64),
        np.array([sum(use.passes for use in each) for each in usage], dtype=np.float64),
        np.array([sum(use.seconds for use in each) for each in usage], dtype=np.float64),
    )
