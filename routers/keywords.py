"""Skills as keywords that a language model names, mapped to the keywords a profile knows (Symbolic-MoE; METHODS A.1-3)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Self

import numpy as np

from routers.errors import NotFittedError, RouterError
from routers.perarm import Table
from routers.types import Array, Questions

Annotate = Callable[[Sequence[str]], Sequence[Sequence[str]]]
"""Texts to the keywords of each; who calls a model for it is not the router's to know."""
Embed = Callable[[Sequence[str]], Array]
"""Texts to unit vectors."""

PROMPT = (
    "Which knowledge, subjects or skills does it take to answer the question below? Name 2 to 5 of them, separated by "
    "commas, and nothing else, in the form\nKeywords: a, b\n\nQuestion: {question}"
)
REPEATS, TEMPERATURE = 5, 0.7
_LONGEST = 20
_LEAST = 2


def keywords_of(replies: Sequence[str]) -> tuple[str, ...]:
    """The keywords of a question from several replies to `PROMPT`: what follows "Keywords:", split at commas, stripped,
    lower-cased, without full stops; those of up to 20 characters that occur more than once, most frequent first.

    >>> keywords_of(["Keywords: Algebra, units.", "keywords: algebra, a very long description of it", "Units"])
    ('algebra', 'units')
    """
    counts: Counter[str] = Counter()
    for reply in replies:
        _, mark, rest = reply.lower().rpartition("keywords:")
        named = {word.strip().replace(".", "") for word in (rest if mark else reply.lower()).split(",")}
        counts.update(word for word in named if 0 < len(word) <= _LONGEST)
    return tuple(sorted((word for word, n in counts.items() if n >= _LEAST), key=lambda word: (-counts[word], word)))


@dataclass(slots=True)
class KeywordFinder:
    """Each keyword of a text stands for the known keyword with the highest cosine; repeats count again (A.3).

    `floor`: a keyword whose nearest known one has a smaller cosine is unknown (as released there is no floor, and it
    would be mapped to whatever is nearest). `annotate` names the keywords of texts that come without.
    """

    annotate: Annotate
    embed: Embed
    floor: float = 0.3
    skills_: tuple[str, ...] = field(default=(), init=False, repr=False, compare=False)
    vectors_: Table = field(default_factory=lambda: np.zeros((0, 0)), init=False, repr=False, compare=False)

    def fit(self, skills: Sequence[str]) -> Self:
        """Know these keywords. Raises RouterError when there are none."""
        self.skills_ = tuple(skills)
        if not self.skills_:
            raise RouterError("no profile question has a keyword\n  next: annotate the profile, or label it")
        self.vectors_ = self.embed(self.skills_).astype(np.float64)
        return self

    def labelled(self, questions: Questions) -> tuple[tuple[str, ...], ...]:
        """The questions' own labels, or, where a question has none, its keywords."""
        bare = [row for row in range(len(questions)) if not (questions.skills and questions.skills[row])]
        named = dict(zip(bare, self.annotate([questions.text[row] for row in bare]), strict=True)) if bare else {}
        return tuple(tuple(named[row]) if row in named else questions.skills[row] for row in range(len(questions)))

    def weights(self, texts: Sequence[str]) -> Table:
        """The share of each known keyword among a text's keywords, [n, keyword]; a row of zeros where none is known."""
        if not self.skills_:
            raise NotFittedError("the keyword finder has not been fitted\n  next: call fit(skills)")
        found = np.zeros((len(texts), len(self.skills_)))
        named = [tuple(words) for words in self.annotate(list(texts))]
        distinct = sorted({word for words in named for word in words})
        if not distinct:
            return found
        cosine = self.embed(distinct).astype(np.float64) @ self.vectors_.T
        place = {word: int(row.argmax()) for word, row in zip(distinct, cosine, strict=True) if row.max() >= self.floor}
        for row, words in enumerate(named):
            for word in words:
                if word in place:
                    found[row, place[word]] += 1 / len(words)
        return found
