"""A request under way in the transformers engine: scores come in, a token is drawn, text goes out. Knows no torch.

Loaded by `transformers_child.py` in another interpreter: it imports the standard library, numpy, `composer.decoding` and
`composer.types` alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from composer.decoding.combine import combine, log_softmax
from composer.decoding.draw import Draws
from composer.types import Mix, Sampling

if TYPE_CHECKING:
    from routers.types import Array

_BEFORE = 6  # tokens of the prompt that the first word is read with: some tokenizers drop a space at the very beginning
_HALF = "\ufffd"  # how a part of a character shows


class Source(Protocol):
    """One stream's scores, with a cache of its own."""

    @property
    def place(self) -> tuple[str, str]:
        """Its base and its adapter: what computes next to each other needs no change of adapters."""
        ...

    @property
    def prompt(self) -> Sequence[int]:
        """The tokens that it began with."""
        ...

    def next(self, tokens: Sequence[int]) -> Array:
        """The scores [tokens of the vocabulary] after these, which follow all that it was given before."""
        ...


class Words:
    """Text out of tokens: never half of a character, and nothing that may turn out to be a stop text.

    `decode` leaves special tokens out; `before` are tokens that stand before the text.
    """

    def __init__(
        self, decode: Callable[[Sequence[int]], str], before: Sequence[int] = (), stops: Sequence[str] = ()
    ) -> None:
        self.text = ""
        self._decode, self._stops = decode, tuple(filter(None, stops))
        self._ids = list(before[-_BEFORE:])
        self._from, self._read, self._told = 0, len(self._ids), 0

    def add(self, token: int) -> str | None:
        """Take a token. The stop text that its text completes, if any; `text` then ends before it."""
        self._ids.append(token)
        known, now = self._decode(self._ids[self._from : self._read]), self._decode(self._ids[self._from :])
        if len(now) <= len(known) or now.endswith(_HALF):
            return None
        self._from, self._read = self._read, len(self._ids)
        first = len(self.text) - self._longest
        self.text += now[len(known) :]
        found = [(at, stop) for stop in self._stops if (at := self.text.find(stop, max(0, first))) >= 0]
        if not found:
            return None
        at, stop = min(found, key=lambda pair: pair[0])
        self.text = self.text[:at]
        return stop

    def new(self, *, last: bool) -> str:
        """What has not been told, but for what may be the beginning of a stop text where it is not the last."""
        upto = len(self.text) if last else max(self._told, len(self.text) - self._longest)
        new, self._told = self.text[self._told : upto], upto
        return new

    @property
    def _longest(self) -> int:
        """Characters that may be the beginning of a stop text."""
        return max(map(len, self._stops), default=1) - 1


@dataclass(slots=True)
class Row:
    """One sample. `room` is how many tokens may follow the prompts, `width` how many tokens the streams have in common
    (None: all), `ends` the tokens that end a text; with `piecewise` its text is told as it grows. `spell` writes one token."""

    name: str
    sources: Sequence[Source]
    weights: Sequence[float]
    mix: Mix | None
    sampling: Sampling
    words: Words
    spell: Callable[[int], str]
    ends: Collection[int]
    room: int
    width: int | None
    piecewise: bool = False
    out: list[int] = field(default_factory=list)
    _draws: Draws = field(init=False)
    _steps: list[dict[str, Any]] = field(default_factory=list)
    _said: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._draws = Draws(self.sampling)
        if (
            self.sampling.repetition_penalty != 1
        ):  # what was asked counts as said, as in vLLM; of several prompts the one
            lead = self.mix.mask_from if self.mix else 0  # of the stream that says what is plausible
            self._said = set(self.sources[lead].prompt)

    @property
    def ahead(self) -> Sequence[Sequence[int]]:
        """Per stream the tokens whose scores are wanted next."""
        return [self.out[-1:] or source.prompt for source in self.sources]

    def take(self, scores: Sequence[Array]) -> dict[str, Any] | None:
        """Draw a token from the streams' scores, each [tokens]; what there is to tell in the form of OpenAI's
        streams, None where that is nothing. Raises ValueError where no token is possible."""
        cut = [one[: self.width] for one in scores]
        mixed = cut[0] if self.mix is None else combine(cut, self.weights, self.mix)
        token = self._draws.next(mixed, self._said)
        self.out.append(token)
        if self.sampling.repetition_penalty != 1:
            self._said.add(token)
        if self.sampling.logprobs is not None:
            self._steps.append(step(mixed, token, self.sampling.logprobs, self.spell))
        stopped = None if token in self.ends else self.words.add(token)
        why = None
        if token in self.ends or stopped is not None:
            why = "stop"
        elif len(self.out) >= self.room:
            why = "length"
        return self._told(why, stopped)

    def _told(self, why: str | None, stopped: str | None) -> dict[str, Any] | None:
        text = self.words.new(last=why is not None) if self.piecewise or why is not None else ""
        if why is None and not text:
            return None
        choice: dict[str, Any] = {"index": 0, "text": text, "finish_reason": why}
        if stopped is not None:
            choice["stop_reason"] = stopped
        if self.sampling.logprobs is not None:
            choice["logprobs"] = {"content": self._steps}
            self._steps = []
        chunk: dict[str, Any] = {"id": self.name, "choices": [choice]}
        if why is not None:
            read = sum(len(source.prompt) for source in self.sources)
            chunk["usage"] = {"prompt_tokens": read, "completion_tokens": len(self.out)}
            chunk |= {
                "passes": len(self.out) * len(self.sources),
                "restarts": 0,
            }  # as vLLM tells it, which can lose step
        return chunk


def step(scores: Array, token: int, most: int, spell: Callable[[int], str]) -> dict[str, Any]:
    """A token, its log-probability in the distribution of the scores [tokens], and the `most` likeliest that have any."""
    logprobs = log_softmax(scores.astype(np.float64))
    best = np.argsort(-logprobs, kind="stable")[:most]
    tops = [_named(int(one), logprobs, spell) for one in best if logprobs[one] > -math.inf]
    return {**_named(token, logprobs, spell), "top_logprobs": tops}


def _named(token: int, logprobs: Array, spell: Callable[[int], str]) -> dict[str, Any]:
    return {"token": spell(token), "logprob": float(logprobs[token]), "id": token}
