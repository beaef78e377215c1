"""Evidence that experts write (METHODS E): all rows of a batch at once, a pass over the hosts per step."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from composer.asker import Asker
from composer.retrieval import filters
from composer.retrieval.corpus import BROKEN
from composer.retrieval.evidence import RECALLED, as_evidence
from composer.retrieval.knowledge import (
    Written,
    distinct,
    enough,
    named,
    need_request,
    passage_requests,
    passages,
    whom_request,
)
from composer.retrieval.split import Passage
from composer.settings.evidence import EvidenceSpec, Writers
from composer.stages.asking import Ask
from composer.stages.kit import Arms, Encoder, Finder
from composer.state import Query
from composer.types import Draft, Evidence, Request
from routers.types import Array

_CHECKED = 3  # passages of an index that a claim is compared with


@dataclass(slots=True)
class _Row:
    """One question of an arm on its way: what is written and kept so far, what went wrong."""

    arm: str
    query: Query
    spec: EvidenceSpec
    writers: Writers
    asker: Asker
    kept: list[Written] = field(default_factory=list)
    known: list[Written] = field(default_factory=list)  # all that was written, kept or not
    drawn: dict[str, int] = field(default_factory=dict)  # how many drafts each card was asked for
    failed: dict[str, str] = field(default_factory=dict)  # cards of which no draft came, with the reason
    probes: int = 0

    def ask(self, registry: Arms, card: str) -> list[Request]:
        """The next drafts of this card: other ones than before."""
        first = self.drawn.get(card, 0)
        self.drawn[card] = first + self.writers.drafts
        return passage_requests(registry, card, self.query.text, range(first, self.drawn[card]), self.asker)

    def hear(self, requests: Sequence[Request], drafts: Mapping[str, Draft]) -> list[Written]:
        """What was written, all of it kept in mind."""
        new = passages(drafts, requests)
        for card in dict.fromkeys(request.arm for request in requests):
            own = [drafts[request.id] for request in requests if request.arm == card]
            if not any(one.card == card for one in (*self.known, *new)):
                error = next((draft.error.message for draft in own if draft.error is not None), "wrote nothing")
                self.failed[card] = error
            else:
                self.failed.pop(card, None)
        self.known += new
        return new


async def write_evidence(
    registry: Arms,
    ask: Ask,
    encoder: Callable[[], Encoder],
    passages: Callable[[Path], Finder],
    asked: Sequence[tuple[str, Query]],
) -> list[Evidence]:
    """The evidence for each (arm, question), all of arms that read what experts write. Bottom-up is one step; top-down up to
    three (does the reader need more, from whom, and what does that one write) for each of at most `rounds` rounds, with the
    rows that still want more. Raises PassageError where the index to check against cannot be opened."""
    rows = [_row(registry, arm, query) for arm, query in asked]
    for folder in dict.fromkeys(row.writers.against for row in rows if row.writers.against is not None):
        await asyncio.to_thread(passages, folder)
    work = _Work(registry, ask, encoder, passages)
    await work.bottom_up([row for row in rows if row.writers.way == "bottom-up"])
    await work.top_down([row for row in rows if row.writers.way == "top-down"])
    return [work.evidence(row) for row in rows]


def foreseen(registry: Arms, asked: Sequence[tuple[str, Query]]) -> tuple[list[Request], int]:
    """What `write_evidence` asks first for these, and how many calls more it may come to ask: the rounds of top-down."""
    first: dict[str, Request] = {}
    later = 0
    for arm, query in asked:
        row = _row(registry, arm, query)
        writers = row.writers
        if writers.way == "bottom-up":
            own = [one for card in writers.experts for one in row.ask(registry, card)]
        else:
            own = [need_request(registry, arm, query.prompt, 0, row.asker)]
            later += writers.rounds * (1 + (len(writers.experts) > 1) + writers.drafts) - 1
        first.update((request.id, request) for request in own)
    return list(first.values()), later


def _row(registry: Arms, arm: str, query: Query) -> _Row:
    spec = registry.evidence(arm)
    assert spec is not None and spec.writers is not None, f"{arm} reads nothing that experts write"
    asker = query.asker
    return _Row(arm, query, spec, spec.writers, asker)


class _Work:
    def __init__(
        self, registry: Arms, ask: Ask, encoder: Callable[[], Encoder], passages: Callable[[Path], Finder]
    ) -> None:
        self._registry, self._ask, self._encoder, self._passages = registry, ask, encoder, passages

    async def bottom_up(self, rows: Sequence[_Row]) -> None:
        """Every writer writes; relevance, brevity and factuality choose, in the order of the paper."""
        requests = [[one for card in row.writers.experts for one in row.ask(self._registry, card)] for row in rows]
        drafts = await self._drafts(requests)
        written = [row.hear(own, drafts) for row, own in zip(rows, requests, strict=True)]
        await asyncio.to_thread(self._choose, rows, written)

    def _choose(self, rows: Sequence[_Row], written: Sequence[Sequence[Written]]) -> None:
        texts: list[str] = []
        for row, own in zip(rows, written, strict=True):
            if row.writers.relevance or row.writers.brevity:
                texts += [row.query.text, *(one.text for one in own), *filters.brief_texts(own)]
        vectors = self._vectors(texts)
        short = [_shortened(row, own, vectors) for row, own in zip(rows, written, strict=True)]
        pairs = [(row, one) for row, own in zip(rows, short, strict=True) for one in own]
        vectors |= self._vectors([one.text for row, one in pairs if row.query.text in vectors])
        judged = self._judged(rows, short, short)
        for row, own in zip(rows, judged, strict=True):
            row.kept = self._taken(row, distinct(_ranked(row, own, vectors)), row.spec.k)

    async def top_down(self, rows: Sequence[_Row]) -> None:
        """The reader says whether it needs more, and of several writers from whom; one passage of what that one writes is
        put before what it was given."""
        most = max((row.writers.rounds for row in rows), default=0)
        still = list(rows)
        for number in range(most):
            still = [row for row in still if number < row.writers.rounds]
            still = await self._needing(still)
            cards = await self._chosen(still)
            requests = [row.ask(self._registry, card) for row, card in zip(still, cards, strict=True)]
            drafts = await self._drafts(requests)
            written = [row.hear(own, drafts) for row, own in zip(still, requests, strict=True)]
            await asyncio.to_thread(self._keep_one, still, written)

    async def _needing(self, rows: Sequence[_Row]) -> list[_Row]:
        """Those whose reader does not say that it has enough. One that cannot be asked gets no more."""
        asked = [need_request(self._registry, row.arm, self._text(row), self._place(row), row.asker) for row in rows]
        drafts = await self._drafts([[request] for request in asked])
        needing = []
        for row, request in zip(rows, asked, strict=True):
            draft = drafts[request.id]
            if draft.error is not None:
                row.failed[row.arm] = draft.error.message
            elif draft.stop != "cancelled" and not enough(draft):
                needing.append(row)
        return needing

    async def _chosen(self, rows: Sequence[_Row]) -> list[str]:
        """The card that each reader names, else the one whose description is most like the question."""
        asked = [
            whom_request(self._registry, row.arm, self._text(row), row.writers.experts, self._place(row), row.asker)
            if len(row.writers.experts) > 1
            else None
            for row in rows
        ]
        drafts = await self._drafts([[request] for request in asked if request is not None])
        found = [
            row.writers.experts[0] if request is None else named(drafts[request.id], row.writers.experts)
            for row, request in zip(rows, asked, strict=True)
        ]
        open_rows = [row for row, card in zip(rows, found, strict=True) if card is None]
        nearest = iter(await asyncio.to_thread(self._nearest, open_rows))
        return [next(nearest) if card is None else card for card in found]

    def _nearest(self, rows: Sequence[_Row]) -> list[str]:
        """The card of each row whose description is most like the question."""
        told = {card: self._registry.description(card) or card for row in rows for card in row.writers.experts}
        vectors = self._vectors([*told.values(), *(row.query.text for row in rows)])
        found = []
        for row in rows:
            cards, question = row.writers.experts, vectors[row.query.text]
            likeness = [float(vectors[told[card]] @ question) for card in cards]
            found.append(cards[likeness.index(max(likeness))])
        return found

    def _keep_one(self, rows: Sequence[_Row], written: Sequence[Sequence[Written]]) -> None:
        judged = self._judged(rows, written, [row.known for row in rows])
        for row, own in zip(rows, judged, strict=True):
            fresh = distinct(_ranked(row, own, {}), [one.text for one in row.kept])
            row.kept = [*self._taken(row, fresh, 1), *row.kept][: row.spec.k]

    # The parts of both ways

    def _judged(
        self, rows: Sequence[_Row], written: Sequence[Sequence[Written]], beside: Sequence[Sequence[Written]]
    ) -> list[list[Written]]:
        """What was written, with how likely it is true: against the row's index, else by what all in `beside` say."""
        found: list[list[Written]] = []
        for row, own, others in zip(rows, written, beside, strict=True):
            if row.writers.factuality == "off":
                found.append(list(own))
            elif row.writers.against is not None:
                found.append(self._checked(row, row.writers.against, own))
            else:
                truth = {(one.id, one.text): one.truth for one in filters.agreed(others, row.query.text)}
                found.append([replace(one, truth=truth[one.id, one.text]) for one in own])
        return found

    def _checked(self, row: _Row, folder: Path, own: Sequence[Written]) -> list[Written]:
        """Each passage beside the closest of the index; where that fails nobody can tell."""
        texts = list(dict.fromkeys(one.text for one in own))
        try:
            hits = self._passages(folder).search(texts, _CHECKED)
        except BROKEN:
            return list(own)
        truth = {
            text: filters.checked(text, [hit.passage.text for hit in near], row.query.text)
            for text, near in zip(texts, hits, strict=True)
        }
        return [replace(one, truth=truth[one.text]) for one in own]

    def _taken(self, row: _Row, written: Sequence[Written], k: int) -> list[Written]:
        if row.writers.factuality in ("off", "weigh"):
            return list(written[:k])
        if row.writers.factuality == "delete":
            return filters.likely(written)[:k]
        return filters.drawn(written, k, row.query.text)

    def _text(self, row: _Row) -> str:
        """The question after what the reader was given."""
        return self.evidence(row).text + row.query.prompt

    def _place(self, row: _Row) -> int:
        row.probes += 1
        return row.probes - 1

    def _vectors(self, texts: Sequence[str]) -> dict[str, Array]:
        own = list(dict.fromkeys(texts))
        return dict(zip(own, self._encoder().encode(own), strict=True)) if own else {}

    async def _drafts(self, requests: Sequence[Sequence[Request]]) -> Mapping[str, Draft]:
        """Everything in one pass; what several arms of a question want alike is asked once."""
        every = {request.id: request for own in requests for request in own}
        return await self._ask(list(every.values())) if every else {}

    def evidence(self, row: _Row) -> Evidence:
        """What is kept, as a part of the prompt of the row's arm."""
        before = "".join(turn.content for turn in row.query.turns)
        found = as_evidence(
            row.query.prompt,
            [Passage(one.id, one.card, 0, len(one.text), "", one.text) for one in row.kept],
            lambda text: self._registry.fits(row.arm, before + text),
            origin=RECALLED,
        )
        if not row.failed:
            return found
        if not row.known:
            return replace(found, missing="; ".join(f"{card}: {why}" for card, why in row.failed.items()))
        return replace(found, without=tuple(row.failed))


def _shortened(row: _Row, own: Sequence[Written], vectors: Mapping[str, Array]) -> list[Written]:
    """Relevance and brevity, as far as the row wants them."""
    found = list(own)
    if row.writers.relevance:
        found = filters.relevant(found, vectors[row.query.text], vectors, row.writers.relevant)
    if row.writers.brevity:
        found = [filters.brief(one, vectors[row.query.text], vectors) for one in found]
    return found


def _ranked(row: _Row, own: Sequence[Written], vectors: Mapping[str, Array]) -> list[Written]:
    """The most likely true and most like the question first, where factuality weighs at all."""
    if row.writers.factuality == "off":
        return list(own)
    question = vectors.get(row.query.text)

    def worth(one: Written) -> float:
        return one.truth * (1.0 if question is None else max(0.0, float(vectors[one.text] @ question)))

    return sorted(own, key=lambda one: -worth(one))
