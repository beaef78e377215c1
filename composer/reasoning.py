"""How well every expert follows reasons that somebody else has written: the perplexity of rationales (METHODS H)."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from composer.answers.extract import conclusion
from composer.stages.kit import Arms
from composer.state import lettered
from composer.types import Delta, Draft, Request, Sampling

if TYPE_CHECKING:
    from composer.jsonl import Labelled
    from composer.pool.pool import Pool


@dataclass(frozen=True, slots=True)
class Followed:
    """Of one expert over the rationales: perplexity per token of its own, and bits per character, which can be compared
    with those of a model that has other tokens."""

    perplexity: float
    bits: float


@dataclass(frozen=True, slots=True)
class Reasoning:
    """What was found per expert; one that is not in `experts` could not be scored. `notes` are for the user."""

    experts: Mapping[str, Followed] = field(default_factory=dict[str, Followed])
    notes: tuple[str, ...] = ()


def target_of(item: Labelled) -> str | None:
    """The rationale and the answer, as a reply that reasons ends (`Answer: …`); None for a row without a rationale."""
    if item.rationale is None:
        return None
    reasons = item.rationale.strip()
    answer = item.answer.strip()
    if conclusion(reasons) != reasons or re.search(rf"(?<!\w){re.escape(answer)}\W*$", reasons):
        return reasons  # it says the answer itself
    return f"{reasons}\nAnswer: {answer}"


async def follow(items: Sequence[Labelled], pool: Pool, registry: Arms, names: Sequence[str]) -> Reasoning:
    """Have every expert score the rationale and answer of each row, after the question as it is asked. Only rows that all
    of them have scored count: means over different texts say nothing."""
    targets = {row: target for row, item in enumerate(items) if (target := target_of(item)) is not None}
    if not targets:
        return Reasoning(notes=("no row has a `rationale`: ranked by right answers alone",))
    requests = {}
    for row, target in targets.items():
        prompt = lettered(items[row].question.text, items[row].question.choices)
        for name in names:
            stream = registry.stream(name, registry.messages(name, prompt))
            sampling = Sampling(template=registry.sampling(name).template)
            request = Request(f"{row}:{name}", (stream,), sampling, target=target, arm=name)
            requests[request.id] = (row, name, request)
    drafts: dict[str, dict[int, Draft]] = {name: {} for name in names}
    async for id, piece in pool.submit([request for _, _, request in requests.values()]):
        if not isinstance(piece, Delta):
            row, name, _ = requests[id]
            drafts[name][row] = piece
    return summed(targets, drafts, len(items))


def summed(targets: Mapping[int, str], drafts: Mapping[str, Mapping[int, Draft]], rows: int) -> Reasoning:
    """The figures of scored drafts [expert, row]; an expert of which no draft came out well has none."""
    well = {
        name: {row: draft for row, draft in own.items() if draft.ok and draft.logprobs} for name, own in drafts.items()
    }
    notes = []
    for name, own in drafts.items():
        if not well[name]:
            why = next((draft.error.message for draft in own.values() if draft.error is not None), "nothing was told")
            notes.append(f"{name} is ranked by right answers alone: {why}")
    scoring = [name for name in drafts if well[name]]
    shared = [row for row in targets if scoring and all(row in well[name] for name in scoring)]
    if not shared:
        return Reasoning(notes=(*notes, "no rationale was scored by all: ranked by right answers alone"))
    characters = sum(len(targets[row]) for row in shared)
    found = {}
    for name in scoring:
        losses = [-token.logprob for row in shared for token in well[name][row].logprobs or ()]
        found[name] = Followed(math.exp(sum(losses) / len(losses)), sum(losses) / math.log(2) / characters)
    told = f"reasoning perplexity over {len(shared)} of {rows} rows"
    if len(targets) < rows:
        told += f"; {rows - len(targets)} have no rationale, and count by right answers alone"
    if len(shared) < len(targets):
        told += f"; {len(targets) - len(shared)} could not be scored by all"
    return Reasoning(found, (told, *notes))
