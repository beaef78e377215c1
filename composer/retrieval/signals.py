"""What a gate looks at: signals of questions, from their text, an index, and short drafts by whoever is to answer."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np

from composer.answers.extract import codes, extract
from composer.retrieval.gate import Signals, Table
from composer.retrieval.index import Closeness
from composer.types import Draft, Kind, Request, Sampling, Stream
from routers.types import Array

SAMPLES = 3  # whose answers are compared
WARM = 0.7  # their temperature, where the expert's own is 0
_BEST = 2  # alternatives of the first token: the margin is between them
_ALONE = (
    "entropy",
)  # of the signals from drafts, what needs samples; the others need one draft with log-probabilities


class Near(Protocol):
    """An index that says how close questions are to its passages."""

    def closeness(self, questions: Sequence[str], vectors: Array, /) -> Closeness:
        """See `PassageIndex.closeness`."""
        ...


def asked(questions: Sequence[str], vectors: Array, index: Near | None) -> Signals:
    """What is known before anybody is asked: `questions` as experts are given them, `vectors` [n, dim]. Without an index
    (passages that experts write) nobody knows how close they will be."""
    length = np.array([len(text) for text in questions], dtype=np.float64)
    wide = np.asarray(vectors, dtype=np.float64)
    if index is None:
        return Signals(length, vectors=wide)
    close = index.closeness(questions, vectors)
    top, gap, near = (np.asarray(one, dtype=np.float64) for one in (close.top, close.gap, close.near))
    overlap = None if close.overlap is None else np.asarray(close.overlap, dtype=np.float64)
    return Signals(length, top=top, gap=gap, near=near, overlap=overlap, vectors=wide)


def probes(
    name: str, arm: str, stream: Stream, sampling: Sampling, needs: frozenset[str], parent: str | None = None
) -> Iterator[Request]:
    """The requests whose drafts have these signals of a question; `name` begins their ids, and a number ends them. One greedy draft with
    log-probabilities serves the margin and the confidence."""
    if needs & {"margin", "confidence"}:
        told = replace(sampling, temperature=0.0, logprobs=_BEST)
        yield Request(f"{name}:0", (stream,), told, role="probe", arm=arm, parent=parent, bounded=True)
    if needs & set(_ALONE):
        warm = sampling.temperature or WARM
        for sample in range(SAMPLES):
            own = replace(sampling, temperature=warm, seed=sampling.seed + sample + 1)
            yield Request(
                f"{name}:{sample + 1}",
                (stream,),
                own,
                sample=sample + 1,
                role="probe",
                arm=arm,
                parent=parent,
                bounded=True,
            )


def drafted(known: Signals, names: Sequence[str], drafts: Mapping[str, Draft], kind: Kind) -> Signals:
    """The signals with those that `probes` asked for, `names` as given to it. A question whose draft does not tell one has what
    the others have on average; where none does, because calls failed or the engine tells no log-probabilities, nobody
    has looked."""
    samples = [[drafts.get(f"{name}:{sample + 1}") for sample in range(SAMPLES)] for name in names]
    single = [drafts.get(f"{name}:0") for name in names]
    return replace(
        known,
        entropy=_filled([_entropy(own, kind) for own in samples]),
        margin=_filled([_margin(own) for own in single]),
        confidence=_filled([_confidence(own) for own in single]),
    )


def _filled(column: Sequence[float | None]) -> Table | None:
    there = [value for value in column if value is not None]
    if not there:
        return None
    mean = sum(there) / len(there)
    return np.array([mean if value is None else value for value in column], dtype=np.float64)


def _entropy(drafts: Sequence[Draft | None], kind: Kind) -> float | None:
    """Of the shares of equal answers, in nats; an answer that cannot be read is like no other."""
    texts = [draft.text for draft in drafts if draft is not None and draft.stop not in ("error", "cancelled")]
    if not texts:
        return None
    found = codes([extract(text, kind) for text in texts], kind)
    counts = Counter(code if code >= 0 else -1 - place for place, code in enumerate(found))
    return -sum(many / len(texts) * math.log(many / len(texts)) for many in counts.values())


def _margin(draft: Draft | None) -> float | None:
    if draft is None or not draft.logprobs or len(draft.logprobs[0].top) < _BEST:
        return None
    best, second = sorted((math.exp(logprob) for _, logprob in draft.logprobs[0].top), reverse=True)[:_BEST]
    return best - second


def _confidence(draft: Draft | None) -> float | None:
    if draft is None or not draft.logprobs:
        return None
    return sum(token.logprob for token in draft.logprobs) / len(draft.logprobs)
