"""Reads a streamed reply of an OpenAI-style server: it counts only if it is whole, well formed, and says why it ended."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from composer.engines.retry import Unusable, wish_of
from composer.engines.servers import STOPS, says_too_long
from composer.types import Draft, Request, Stop, TokenLogprob, Usage

_END = b"[DONE]"
_OVERLOADED = (429, 503, 529)
_PASSING = (408, 500, 502, 503, 504, 520, 522, 524, 529)  # another attempt may fare better


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")  # servers add fields of their own


class _Top(_Part):
    token: str
    logprob: float


class _Token(_Top):
    id: int | None = None
    top_logprobs: list[_Top] = []


class _Logprobs(_Part):
    content: list[_Token] | None = None
    tokens: list[str] | None = None  # these three are how vLLM tells them of text that it continues
    token_logprobs: list[float | None] | None = None
    top_logprobs: list[dict[str, float] | None] | None = None

    def steps(self) -> list[_Token]:
        """What is told of each token, in whichever form."""
        if self.content is not None or not self.tokens or not self.token_logprobs:
            return self.content or []
        tops = self.top_logprobs or [None] * len(self.tokens)
        return [
            _Token(
                token=token,
                logprob=-math.inf if logprob is None else logprob,
                top_logprobs=[_Top(token=other, logprob=value) for other, value in (top or {}).items()],
            )
            for token, logprob, top in zip(self.tokens, self.token_logprobs, tops, strict=False)
        ]


class _Delta(_Part):
    content: str | None = None
    reasoning: str | None = None  # thoughts are no answer, but a sign of life
    reasoning_content: str | None = None


class _Choice(_Part):
    index: int = Field(default=0, ge=0, le=0)
    finish_reason: str | None = None
    delta: _Delta = _Delta()
    text: str | None = None
    logprobs: _Logprobs | None = None
    stop_reason: str | int | None = None


class _Details(_Part):
    cached_tokens: int | None = None


class _Usage(_Part):
    prompt_tokens: int = Field(ge=0)
    completion_tokens: int = Field(ge=0)
    prompt_tokens_details: _Details | None = None


class _Chunk(_Part):
    error: None = None
    model: str | None = None
    choices: list[_Choice] = Field(max_length=1)
    usage: _Usage | None = None


class _Error(_Part):
    message: str = ""
    type: str | None = None
    code: int | str | None = None
    n_prompt_tokens: int | None = None
    n_ctx: int | None = None


@dataclass(slots=True)
class Reply:
    """What has come of a reply so far. `take` and `draft` raise Unusable for anything that is not as it should be.

    `serves` says whether a name in the reply is that of the model that was asked. `begun`: the first token has come.
    """

    serves: Callable[[str], bool] = lambda _: True
    begun: bool = False
    text: list[str] = field(default_factory=list)
    _tokens: list[_Token] = field(default_factory=list)
    _stop: Stop | None = None
    _detail: str = ""
    _usage: _Usage | None = None
    _ended: bool = False
    _model: str | None = None

    def take(self, event: bytes) -> None:
        """Add one event."""
        if self._ended:
            raise self._bad("something follows its end")
        if event == _END:
            self._ended = True
            return
        try:
            chunk = _Chunk.model_validate_json(event)
        except ValidationError as why:
            told = _told(event)
            raise self._said(told) if told else self._bad(_first_problem(why)) from why
        if chunk.model and chunk.model != self._model:
            if not self.serves(chunk.model):
                raise Unusable("wrong_model", f"another model answers: it calls itself {chunk.model[:200]!r}")
            self._model = chunk.model
        self._usage = chunk.usage or self._usage
        for choice in chunk.choices:
            self._add(choice)

    def draft(self, request: Request) -> Draft:
        """The whole of it, once the server has said all."""
        if self._stop is None:
            raise self._bad("it says no reason for its end", again=not self._ended)
        if not self._ended:
            raise self._bad("it breaks off", again=True)
        if self._usage is None:
            raise self._bad("it counts no tokens")
        sampling, usage = request.sampling, self._usage
        text = "".join(self.text)
        if not text and usage.completion_tokens > 1:
            raise self._bad(f"it has no text for {usage.completion_tokens} tokens")
        if sampling.schema is not None and self._stop == "stop":
            _loads(text, self._bad("a schema was asked for, and its text is not JSON"))
        if sampling.logprobs is not None and text and not self._tokens:
            raise self._bad("log-probabilities were asked for, it has none")
        if self._stop == "length" and usage.completion_tokens < sampling.max_tokens:
            self._detail = self._detail or "the context was full"
        details = usage.prompt_tokens_details
        return Draft(
            key="",
            text=text,
            stop=self._stop,
            usage=Usage(
                tokens_in=usage.prompt_tokens,
                tokens_out=usage.completion_tokens,
                cached_in=(details and details.cached_tokens) or 0,
                passes=usage.completion_tokens,
            ),
            logprobs=None if sampling.logprobs is None else _logprobs(self._tokens, sampling.logprobs),
            stop_detail=self._detail,
        )

    def _add(self, choice: _Choice) -> None:
        text = choice.delta.content or choice.text or ""
        if self._stop is not None and (text or choice.finish_reason is not None):
            raise self._bad("it goes on after its end")
        if text:
            self.text.append(text)
        if text or choice.finish_reason is not None or choice.delta.reasoning_content or choice.delta.reasoning:
            self.begun = True
        if choice.logprobs is not None:
            self._tokens += choice.logprobs.steps()
        if choice.finish_reason is not None:
            if choice.finish_reason not in STOPS:
                raise self._bad(f"it ended for the reason {choice.finish_reason[:40]!r}")
            self._stop = STOPS[choice.finish_reason]
            self._detail = "" if choice.stop_reason is None else str(choice.stop_reason)

    def _bad(self, problem: str, *, again: bool = False) -> Unusable:
        heard = sum(map(len, self.text))
        problem = f"the reply does not count, after {heard} characters: {problem[:300]}"
        return Unusable("bad_response", problem, again=again, down=again)

    def _said(self, told: _Error) -> Unusable:
        """What an error within a reply means: some servers have sent status 200 before they know."""
        if _too_long(told):
            return Unusable("too_long", _how_long(told))
        passing = told.code in (*_PASSING, *_OVERLOADED)
        return self._bad(f"the server says {told.message!r}", again=passing)


def refusal(status: int, raw: bytes, headers: Mapping[str, str]) -> Unusable:
    """Why a reply with such a status, body and headers does not count."""
    told = _told(raw) or _Error(message=raw[:200].decode("utf-8", "replace"))
    if _too_long(told) and (status < 500 or status == 500):
        return Unusable("too_long", _how_long(told))
    message = f"HTTP {status}: {told.message[:300]}"
    wish = wish_of(headers)
    if status in _OVERLOADED:
        return Unusable("overloaded", message, again=True, down=status != 429, wish=wish)
    passing = status in _PASSING
    return Unusable(
        "refused" if 400 <= status < 500 else "bad_response", message, again=passing, down=status >= 500, wish=wish
    )


def _too_long(told: _Error) -> bool:
    return told.type == "exceed_context_size_error" or says_too_long(f"{told.code} {told.type} {told.message}")


def _how_long(told: _Error) -> str:
    if told.n_prompt_tokens is not None:
        return f"the prompt has {told.n_prompt_tokens} tokens, the context holds {told.n_ctx}"
    return f"the prompt does not fit into the context: {told.message[:300]}"


def _told(raw: bytes) -> _Error | None:
    """What the server says went wrong, in any of the forms they have: an object or a text under `error`, `message` or
    `detail` at the top."""
    try:
        said = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    if not isinstance(said, dict):
        return None
    found = said.get("error") or (said if said.get("object") == "error" else said.get("detail"))
    if isinstance(found, str):
        found = {"message": found, "type": said.get("error_type")}
    if not isinstance(found, dict):
        return None if found is None else _Error(message=json.dumps(found))
    try:
        return _Error.model_validate(found)
    except ValidationError:
        return _Error(message=json.dumps(found))


def _first_problem(why: ValidationError) -> str:
    first = why.errors(include_url=False, include_input=False)[0]
    return f"{'.'.join(str(step) for step in first['loc']) or 'an event'}: {first['msg']}"


def _loads(text: str, otherwise: Unusable) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as why:
        raise otherwise from why


def _logprobs(tokens: list[_Token], most: int) -> tuple[TokenLogprob, ...]:
    return tuple(
        TokenLogprob(
            step.token, step.logprob, tuple((top.token, top.logprob) for top in step.top_logprobs[:most]), step.id
        )
        for step in tokens
    )
