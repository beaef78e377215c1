"""A chat request in OpenAI's form, as the door and batch files take it: checked once, here; what we cannot honour is
refused by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from composer.asker import Wishes
from composer.errors import suggest
from composer.types import Message

STOPS = 4  # texts that may end an answer

# Labels for the caller's own books: they do not shape a text, so they are taken and left alone.
_LABELS = {
    "metadata",
    "parallel_tool_calls",
    "prompt_cache_key",
    "prompt_cache_retention",
    "safety_identifier",
    "service_tier",
    "store",
    "user",
}
# What would shape the text in a way that we do not: only the value that changes nothing is taken.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "audio": (),
    "best_of": (1,),
    "frequency_penalty": (0,),
    "function_call": ("none",),
    "functions": ([],),
    "logit_bias": ({},),
    "logprobs": (False,),
    "modalities": (["text"],),
    "moderation": (),
    "prediction": (),
    "presence_penalty": (0,),
    "reasoning_effort": (),
    "response_format": ({"type": "text"},),
    "tool_choice": ("none",),
    "tools": ([],),
    "top_logprobs": (0,),
    "verbosity": (),
    "web_search_options": (),
}


class ChatError(ValueError):
    """A request that cannot be answered as it is asked: `param` is the field that is wrong, `code` stable and for programs."""

    def __init__(self, message: str, *, code: str, param: str | None = None) -> None:
        self.message, self.code, self.param = message, code, param
        super().__init__(message)


@dataclass(frozen=True, slots=True)
class Chat:
    """What is asked of whom, and how it is to be answered. `turns` is what was said before `question`."""

    model: str
    question: str
    turns: tuple[Message, ...]
    wishes: Wishes
    n: int
    stream: bool
    include_usage: bool


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


class _Turn(_Part):
    model_config = ConfigDict(strict=True, extra="allow")
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[dict[str, Any]] | None = None
    refusal: str | None = None
    name: str | None = None


class _StreamOptions(_Part):
    include_usage: bool = False
    include_obfuscation: bool = False  # padding against eavesdroppers: a hint, and we send none


class _Body(_Part):
    model: str = Field(min_length=1, max_length=200)
    messages: list[_Turn] = Field(min_length=1)
    stream: bool = False
    stream_options: _StreamOptions = _StreamOptions()
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    stop: str | list[str] | None = None
    n: int = Field(default=1, ge=1)


def read_chat(
    data: Mapping[str, Any], *, messages: int | None = None, stops: int = STOPS, max_tokens: int | None = None
) -> Chat:
    """The request in `data`, with at most so many messages, stop texts, and tokens of an answer. Raises ChatError."""
    known = _known(data)
    said = known.get("messages")
    if messages is not None and isinstance(said, list) and len(said) > messages:  # before each of them is looked at
        raise wrong("messages", f"{len(said)} messages, at most {messages} are taken")
    body = _validated(known)
    if body.stream_options.include_usage and not body.stream:
        raise wrong("stream_options", "there is no stream: send `stream: true`, or leave it out")
    *turns, last = [_turn(turn, f"messages[{i}]") for i, turn in enumerate(body.messages)]
    if last.role != "user":
        raise wrong("messages", f"the last message is the {last.role}'s: it must be the user's, which is answered")
    if not last.content.strip():
        raise wrong("messages", "the last message is empty")
    wishes = Wishes(
        max_tokens=_most(body, max_tokens),
        temperature=body.temperature,
        top_p=body.top_p,
        seed=body.seed,
        stop=_stops(body.stop, stops),
    )
    return Chat(body.model, last.content, tuple(turns), wishes, body.n, body.stream, body.stream_options.include_usage)


def _known(data: Mapping[str, Any]) -> dict[str, Any]:
    """What `_Body` reads; null is the same as left out. Raises ChatError for a field that we cannot honour."""
    kept: dict[str, Any] = {}
    for name, value in data.items():
        if value is None or name in _LABELS:
            continue
        if name in _Body.model_fields:
            kept[name] = value
        elif name in _NEUTRAL:
            if not any((type(value) is not bool and value == same) or value is same for same in _NEUTRAL[name]):
                raise ChatError(f"`{name}` is not supported here", code="unsupported_parameter", param=name)
        else:
            told = suggest(name[:64], _Body.model_fields)
            raise ChatError(f"no field is called {name[:64]!r}; {told}", code="unknown_parameter", param=name[:64])
    return kept


def _validated(data: Mapping[str, Any]) -> _Body:
    try:
        return _Body.model_validate(data)
    except ValidationError as why:
        first = why.errors(include_url=False, include_input=False)[0]
        steps = [step for step in first["loc"] if step not in ("str", "list[dict[str,any]]", "list[str]")]
        param = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps).lstrip(".")
        raise wrong(param, first["msg"][:200]) from why


def _turn(turn: _Turn, at: str) -> Message:
    for name, value in (turn.model_extra or {}).items():
        if value not in (None, [], {}):  # clients send the nulls of earlier answers back
            raise ChatError(f"`{at}.{name[:64]}` is not supported here", code="unsupported_parameter", param=at)
    content = turn.content
    if isinstance(content, list):
        content = "\n".join(_text(part, f"{at}.content[{i}]") for i, part in enumerate(content))
    if content is None and turn.role == "assistant":
        content = turn.refusal
    if content is None:
        raise wrong(f"{at}.content", "a message without a text")
    return Message("system" if turn.role == "developer" else turn.role, content)


def _text(part: Mapping[str, Any], at: str) -> str:
    kind, text = part.get("type"), part.get("text")
    if kind != "text" or part.keys() - {"type", "text"}:
        raise ChatError(f"`{at}`: only parts of type text are read here", code="unsupported_parameter", param=at)
    if not isinstance(text, str):
        raise wrong(f"{at}.text", "expected a text")
    return text


def _most(body: _Body, largest: int | None) -> int | None:
    """`max_completion_tokens`, or `max_tokens`, its older name."""
    new, old = body.max_completion_tokens, body.max_tokens
    if new is not None and old is not None and new != old:
        raise wrong("max_tokens", f"{old}, and `max_completion_tokens` says {new}: send one of them")
    most, name = (old, "max_tokens") if new is None else (new, "max_completion_tokens")
    if most is not None and largest is not None and most > largest:
        raise wrong(name, f"{most} tokens, at most {largest} fit into any model here")
    return most


def _stops(stop: str | list[str] | None, most: int) -> tuple[str, ...] | None:
    if stop is None:
        return None
    stops = (stop,) if isinstance(stop, str) else tuple(stop)
    if len(stops) > most or not all(0 < len(text) <= 256 for text in stops):
        raise wrong("stop", f"at most {most} texts of 1 to 256 characters are taken")
    return stops


def wrong(param: str, problem: str) -> ChatError:
    """A field with a value that is not taken."""
    return ChatError(f"{param}: {problem}", code="invalid_value", param=param or None)
