"""Drafts of several streams through llama.cpp, which decodes one: a step asks each stream for its next token's
log-probabilities, and what is drawn of their combination is appended to all.

llama.cpp gives no logits, but `n_probs` tells the likeliest tokens of the whole distribution, before any sampler, and the
log-probability of a token that a bias has it write, whatever its rank. That loses nothing: only tokens that one stream finds
plausible can be drawn (`Mix`), these are among its likeliest, and of the other streams nothing but these tokens' and what is
left for the rest counts. A step where one token alone is plausible needs no other stream; those catch up, several tokens in
one pass, when they are needed again.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from composer.decoding.combine import combine, log_softmax, plausible
from composer.decoding.draw import Draws
from composer.engines.http import turns_of
from composer.engines.llamacpp_process import LlamaProcess, adapter_fields
from composer.engines.retry import Unusable
from composer.engines.written import Written
from composer.types import Delta, Draft, Request, Stop, Stream, TokenLogprob, Usage

WIDTHS = (64, 256, 2048, 16_384)  # tokens asked for: the next where the last leaves out what may be plausible
_FEW = (0, 2, 16, math.inf)  # of other streams: so many that are missing cost less one by one than with the next width
_FORCE = 1e4  # more than any two logits are apart
_CELLS, _MOST_CELLS = 256, 2**20  # in how many parts the rest of a distribution is counted, at first and at most
_NOTHING = 1e-30  # the probability of a rest that rounding has made 0 or less
_FIELDS = ["completion_probabilities", "stop_type", "timings/cache_n"]

T = TypeVar("T")
Scores = NDArray[Any]


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")


class _Token(_Part):
    id: int
    bytes: list[int]
    logprob: float


class _Wrote(_Token):
    top_logprobs: list[_Token]


class _Step(_Part):
    completion_probabilities: list[_Wrote] = []  # none where it wrote a part of a character
    stop_type: str = ""


def unsupported(request: Request) -> str | None:
    """Why no such draft is written here, with the remedy; None if one is."""
    mix, sampling = request.mix, request.sampling
    if mix is None:
        return None
    if mix.alpha == 0 and mix.top_p == 1:
        return (
            "llama.cpp tells the likeliest tokens and not all, so a mix over the whole vocabulary cannot be had; set its "
            "alpha above 0 (0.1 is usual), or its top_p below 1"
        )
    if request.target is not None:
        return "a text is scored by one stream, not by several"
    if sampling.schema is not None:
        return "llama.cpp keeps to a schema where it draws the tokens itself; leave out the schema, or the contrast"
    if sampling.repetition_penalty != 1:
        return "a repetition penalty shifts logits, which llama.cpp does not tell; set repetition_penalty to 1"
    return None


@dataclass
class Source:
    """A stream with its slot. `ids` are the tokens of its prompt and of what was written, `passes` the calls that it took."""

    process: LlamaProcess
    stream: Stream
    slot: int
    ends: float = 0.0
    ids: list[int] = field(default_factory=list)
    prompt: int = 0
    passes: int = 0
    cached: int = 0
    _harmless: int = 0

    async def begin(self, request: Request, ends: float) -> None:
        """Its prompt as tokens, as the server would read it. Raises Unusable."""
        self.ends = ends
        prompt: Any = self.stream.prompt
        if not isinstance(prompt, str):
            options = dict(request.sampling.template)
            more: dict[str, object] = {"chat_template_kwargs": options} if options else {}
            told = await self._ask("/apply-template", {"messages": turns_of(prompt), **more})
            prompt = told.get("prompt") if isinstance(told, dict) else None
        self.ids = await self._tokens({"content": prompt, "add_special": True, "parse_special": True})
        self.prompt, context = len(self.ids), self.process.context
        if self.prompt >= context:
            raise Unusable("too_long", f"a prompt has {self.prompt} tokens, the context holds {context}")
        [self._harmless, *_] = await self._tokens({"content": "a"})

    async def top(self, width: int) -> list[_Token]:
        """The `width` likeliest next tokens, best first. Something harmless is written meanwhile: of a token that is a part
        of a character nothing at all would be told."""
        step = await self._step(self._harmless, width)
        if not step.completion_probabilities:
            raise _bad("it tells no probabilities")
        return step.completion_probabilities[0].top_logprobs

    async def of(self, ids: Sequence[int]) -> list[float]:
        """The log-probabilities of these next tokens, whatever their rank."""
        known: dict[int, float] = {}
        missing = list(ids)
        for width, few in list(zip(WIDTHS, _FEW, strict=True))[1:]:  # a wider reply costs less than another pass
            if width >= 8 * len(ids) or width == WIDTHS[-1]:
                known = {token.id: token.logprob for token in await self.top(width)}
                missing = [id for id in ids if id not in known]
                if len(missing) <= few:
                    break
        for id in missing:
            known[id] = await self._exactly(id)
        return [_sound(known[id]) for id in ids]

    async def ends_text(self, token: _Token) -> bool:
        """Whether the token ends a text, as the server has it: all that do have no text of their own."""
        if token.bytes:
            return False
        if token.id not in self.process.ends:
            self.process.ends[token.id] = (await self._step(token.id, 1)).stop_type == "eos"
        return self.process.ends[token.id]

    async def _exactly(self, id: int) -> float:
        """By a bias that has it written; of a part of a character it says nothing then, so that is looked for."""
        told = (await self._step(id, 1)).completion_probabilities
        found = [token.logprob for wrote in told for token in (wrote, *wrote.top_logprobs) if token.id == id]
        for width in (*WIDTHS[1:], 10**6) if not found else ():
            found = [token.logprob for token in await self.top(width) if token.id == id]
            if found:
                break
        if not found:
            raise _bad(f"it does not tell how probable token {id} is")
        return found[0]

    async def _step(self, write: int, width: int) -> _Step:
        first = self.passes == 0
        asked = {
            "prompt": self.ids,
            "id_slot": self.slot,
            "cache_prompt": True,
            "logit_bias": [[write, _FORCE]],
            "n_predict": 1,
            "n_probs": width,
            "samplers": [],
            "temperature": 0.0,
            "response_fields": _FIELDS,
            **adapter_fields(self.process.host, self.stream.adapter),
        }
        told = await self._ask("/completion", asked)
        self.passes += 1
        try:
            step = _Step.model_validate(told)
        except ValidationError as why:
            problem = why.errors(include_url=False, include_input=False)[0]
            raise _bad(f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}") from why
        if first and isinstance(found := told.get("timings/cache_n"), int):
            self.cached = min(found, self.prompt)
        return step

    async def _tokens(self, asked: dict[str, object]) -> list[int]:
        told = await self._ask("/tokenize", asked)
        tokens = told.get("tokens") if isinstance(told, dict) else None
        if not isinstance(tokens, list) or not tokens or not all(type(token) is int for token in tokens):
            raise _bad("its /tokenize tells no tokens")
        return tokens

    async def _ask(self, path: str, body: dict[str, object]) -> Any:
        if self.process.steps is None:
            raise Unusable("closed", "it was closed meanwhile")
        return await self.process.steps.ask(path, body, self.ends)


class Contrast:
    """Writes one draft. Of ids that not all models have (`vocabulary` and up, rows of padding) none is drawn."""

    def __init__(
        self, request: Request, sources: Sequence[Source], vocabulary: int | None, tell: Callable[[Delta], None]
    ) -> None:
        assert request.mix is not None
        self._request, self._sources, self._mix = request, sources, request.mix
        self._vocabulary = vocabulary
        self._mask = sources[self._mix.mask_from]
        self._draws = Draws(request.sampling)
        self._written = Written(request.sampling.stop, tell)
        weights = [stream.weight for stream in request.streams]
        # In the space of probabilities a weight below 0 can leave nothing of a token, even of the only plausible one.
        self._sure = request.mix.space != "prob" or min(weights) >= 0

    async def write(self, ends: float) -> Draft:
        """The whole draft, by the loop's time `ends`. Raises Unusable."""
        await _together([source.begin(self._request, ends) for source in self._sources])
        sampling = self._request.sampling
        told: list[TokenLogprob] = []
        stop: Stop = "length"
        detail = ""
        count = 0
        while count < sampling.max_tokens:
            if any(len(source.ids) >= source.process.context for source in self._sources):
                detail = "the context was full"
                break
            token, logprobs = await self._next()
            count += 1
            if await self._mask.ends_text(token):
                stop = "stop"
                break
            told.append(logprobs)
            for source in self._sources:
                source.ids.append(token.id)
            if self._written.add(bytes(token.bytes)):
                stop, detail = "stop", self._written.met
                break
        usage = Usage(
            tokens_in=sum(source.prompt for source in self._sources),
            tokens_out=count,
            cached_in=sum(source.cached for source in self._sources),
            passes=sum(source.passes for source in self._sources),
        )
        text = self._written.end()
        logprobs_told = tuple(told) if sampling.logprobs is not None else None
        return Draft("", text, stop, usage, logprobs=logprobs_told, stop_detail=detail)

    async def _next(self) -> tuple[_Token, TokenLogprob]:
        """The next token, and what is told of it."""
        tokens, row, places = await self._plausible()
        if len(tokens) == 1 and self._sure:
            scores: Scores = np.zeros(1)
        else:
            scores = await self._scores([token.id for token in tokens], row, places)
        try:
            drawn = self._draws.next(scores)
        except ValueError as why:
            raise Unusable("refused", f"of this mix nothing is left: {why}") from why
        logprobs = log_softmax(scores)
        most = self._request.sampling.logprobs or 0
        best = [place for place in np.argsort(-logprobs, kind="stable")[:most] if logprobs[place] > -math.inf]
        top = tuple((_text(tokens[place]), float(logprobs[place])) for place in best)
        token = tokens[drawn]
        return token, TokenLogprob(_text(token), float(logprobs[drawn]), top, token.id)

    async def _plausible(self) -> tuple[list[_Token], Scores, Scores]:
        """The tokens that the mask lets pass, by id; the mask stream's log-probabilities of all that it was asked for, by id,
        and of the rest, in as many equal parts as it takes for none of these to pass; and where the tokens stand there."""
        for width in WIDTHS:
            shown = sorted(await self._mask.top(width), key=lambda token: token.id)
            told = np.array([_sound(token.logprob) for token in shown])
            if len(shown) < width or self._complete(told):
                break
        else:
            raise Unusable(
                "unsupported",
                f"more than {WIDTHS[-1]} tokens may be plausible, and no more are looked at; set a larger alpha",
            )
        cells = _CELLS
        while cells <= _MOST_CELLS:
            row = np.concatenate([told, _spread(told, cells)])
            kept = plausible(row, self._mix.alpha, self._mix.top_p)
            if not kept[len(told) :].any():
                places = np.array([at for at in np.flatnonzero(kept) if self._known(shown[at].id)], dtype=np.int64)
                if not len(places):
                    raise Unusable("refused", "what is plausible are tokens that not all of the models have")
                return [shown[at] for at in places], row, places
            cells *= 4
        raise _bad("the probabilities that it tells do not add up")

    def _complete(self, told: Scores) -> bool:
        """Whether no token that is less probable than these is plausible."""
        if self._mix.top_p < 1 and np.exp(told).sum() >= self._mix.top_p:
            return True
        return self._mix.alpha > 0 and told.min() < told.max() + math.log(self._mix.alpha)

    def _known(self, id: int) -> bool:
        return self._vocabulary is None or id < self._vocabulary

    async def _scores(self, ids: Sequence[int], row: Scores, places: Scores) -> Scores:
        """The combined scores of these tokens. Of the other streams what is not theirs is spread evenly: none of it passes."""
        asked = [
            at for at, source in enumerate(self._sources) if source is not self._mask and source.stream.weight != 0
        ]
        rows = [row] * len(self._sources)  # also of weight 0, which changes nothing
        for at, told in zip(asked, await _together([self._sources[at].of(ids) for at in asked]), strict=True):
            logprobs = np.array(told)
            rows[at] = np.empty_like(row)
            rows[at][:] = _spread(logprobs, len(row) - len(ids))[0]
            rows[at][places] = logprobs
        combined: Scores = combine(rows, [source.stream.weight for source in self._sources], self._mix)
        return combined[places]


def _spread(logprobs: Scores, cells: int) -> Scores:
    """What is left of a distribution, in equal parts [cells]."""
    rest = max(1.0 - float(np.exp(logprobs).sum()), _NOTHING)
    return np.full(cells, math.log(rest / cells))


def _sound(logprob: float) -> float:
    """The server says the least number there is where a probability has become 0."""
    return logprob if logprob > -1e30 else -math.inf


def _text(token: _Token) -> str:
    return bytes(token.bytes).decode("utf-8", "replace")


async def _together(work: Sequence[Awaitable[T]]) -> list[T]:
    """All at once; the first that fails ends the others."""
    if len(work) <= 1:
        return [await one for one in work]
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _bad(problem: str) -> Unusable:
    return Unusable("bad_response", f"the step of a contrasted draft does not count: {problem}")
