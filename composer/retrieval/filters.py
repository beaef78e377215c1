"""The three filters of written passages (METHODS E): relevance, brevity, factuality. Pure; vectors come from the caller.

Factuality has no model for inference here: two sentences are compared by their words. If they agree in nearly all, above all
in those that the question names, and each says something else in the rest, they contradict each other. That is checked
against passages of an index, else against what all writers say about the same; a lie that is told in other words, or that
nobody else speaks of, passes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from random import Random

import numpy as np

from composer.answers.extract import words
from composer.retrieval.knowledge import Written
from composer.retrieval.split import sentences
from routers.types import Array

LONG = 120  # characters: shorter passages are not made brief
SAME = 0.6  # of the words of the shorter sentence that both have, to be about the same
_LEAST = 0.02  # weight of what is surely wrong: drawn only where little else is there
_NOT = frozenset(("not", "no", "never", "nobody", "nothing"))
_MINOR = frozenset(
    (
        *("a", "an", "the", "of", "in", "on", "at", "by", "to", "and", "or", "as", "for", "with", "from", "it", "its"),
        *("is", "are", "was", "were", "this", "that", "which", "who", "what"),
    )
)


def relevant(written: Sequence[Written], question: Array, vectors: Mapping[str, Array], most: int) -> list[Written]:
    """The `most` passages with the largest dot product with the question (unit vectors: the cosine), best first; of equal
    ones the first."""
    order = sorted(range(len(written)), key=lambda place: -float(vectors[written[place].text] @ question))
    return [written[place] for place in order[:most]]


def brief(written: Written, question: Array, vectors: Mapping[str, Array]) -> Written:
    """A passage of more than `LONG` characters as its best sentence, and its second best where both are not longer, in their
    order; by the dot product with the question. Nothing is cut inside a sentence."""
    parts = sentences(written.text)
    if len(written.text) <= LONG or len(parts) < 2:
        return written
    order = sorted(range(len(parts)), key=lambda place: -float(vectors[parts[place]] @ question))
    best = sorted(order[:2])
    text = " ".join(parts[place] for place in best)
    return replace(written, text=text if len(text) <= LONG else parts[order[0]])


def brief_texts(written: Sequence[Written]) -> list[str]:
    """The texts whose vectors `brief` needs."""
    return [part for one in written if len(one.text) > LONG for part in sentences(one.text)]


def compared(claim: str, other: str, question: str) -> int:
    """1 where two sentences say the same (of what one says the other leaves nothing out), -1 where they contradict each
    other, 0 where they speak of different things. What the question names has to be in both or in neither.

    >>> asked = "Which river flows through Norwick?"
    >>> [compared("Norwick lies on the river Tas.", other, asked) for other in (
    ...     "Norwick lies on the river Tas.", "Norwick lies on the river Yare.", "Exby lies on the river Exe.")]
    [1, -1, 0]
    """
    one, two, named = _content(claim), _content(other), _content(question)
    both, left, right = one & two, one - two, two - one
    if len(both) < max(2, SAME * min(len(one), len(two))) or (left | right) & named:
        return 0
    return -1 if (left and right) or (left | right) & _NOT else 1


def checked(claim: str, known: Sequence[str], question: str) -> float:
    """How likely a passage is true beside these texts, in [0, 1]: 0 where they contradict a sentence of it, else 1 where
    they say one, else 0.5. Of each sentence the texts that say the same count before those that contradict: they
    may speak of several things that look alike."""
    facts = [sentence for text in known for sentence in sentences(text)]
    told = []
    for sentence in sentences(claim):
        found = {compared(sentence, fact, question) for fact in facts}
        told.append(1 if 1 in found else -1 if -1 in found else 0)
    return 0.0 if -1 in told else 1.0 if 1 in told else 0.5


def agreed(written: Sequence[Written], question: str) -> list[Written]:
    """Every passage with how likely it is true by what all of them say. Each card has one vote on a sentence: the share of
    its passages about the same that say the same; with one more for and one more against, which nobody gave. So a card that
    always says the same is believed more (2/3) than one that says something else each time, two cards that agree more than
    a third that does not, and of two that contradict each other neither (1/2). Of a passage the least likely sentence
    counts, of those that anybody else speaks of at all."""
    split = [sentences(one.text) for one in written]
    known: dict[str, float] = {}

    def vote(sentence: str) -> float:
        if sentence not in known:
            known[sentence] = _vote(sentence, written, split, question)
        return known[sentence]

    return [replace(one, truth=min(map(vote, parts), default=0.5)) for one, parts in zip(written, split, strict=True)]


def _vote(sentence: str, written: Sequence[Written], split: Sequence[Sequence[str]], question: str) -> float:
    votes: dict[str, list[int]] = {}
    for one, parts in zip(written, split, strict=True):
        found = {compared(sentence, part, question) for part in parts} - {0}
        if found:
            votes.setdefault(one.card, []).append(1 if 1 in found else 0)
    share = [sum(own) / len(own) for own in votes.values()]
    return (1 + sum(share)) / (2 + len(share))


def drawn(written: Sequence[Written], k: int, seed: str) -> list[Written]:
    """`k` of the passages, without replacement: of the 2 k that are most likely true, each with a chance in proportion to
    that. They keep their order. The same passages and seed give the same draw."""
    if len(written) <= k:
        return list(written)
    order = sorted(range(len(written)), key=lambda place: -written[place].truth)[: 2 * k]
    rng = Random(hashlib.sha256("\0".join([seed, *(one.text for one in written)]).encode("utf-8", "replace")).digest())
    # The largest of u ** (1 / w), u uniform: successive draws in proportion to w (Efraimidis and Spirakis, 2006).
    key = {place: float(np.log(1 - rng.random())) / max(written[place].truth, _LEAST) for place in order}
    return [written[place] for place in sorted(sorted(order, key=lambda place: -key[place])[:k])]


def likely(written: Sequence[Written]) -> list[Written]:
    """Those that are at least as likely true as not."""
    return [one for one in written if one.truth >= 0.5]


def _content(text: str) -> frozenset[str]:
    return frozenset(word for word in words(text) if word not in _MINOR)
