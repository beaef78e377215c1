"""Our strict client for OpenAI-style servers: a reply counts only if it is whole, well formed, and says why it ended."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

import httpx
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from composer.engines.common import failed
from composer.types import Draft, Request, Stop, TokenLogprob, Usage

LARGEST_REPLY = 16 * 2**20  # bytes; the longest honest reply with log-probabilities is far smaller
LONGEST_CALL = 600.0  # seconds, where the request has no deadline of its own
_IDLE = 2.0  # seconds a connection is kept: less than servers keep theirs, so that none is closed under a request
_OVERLOADED = (429, 503, 529)


class ChatClient:
    """Asks one server, through one pool of connections; belongs to the event loop it is first used in.

    Proxies of the environment and redirects are off, so the key goes to `base_url` and nowhere else. Nothing is retried:
    who asks knows better. `name` is what drafts say they were served by.
    """

    def __init__(self, base_url: str, *, api_key: str = "", name: str = "", longest: float = LONGEST_CALL) -> None:
        self._name = name
        self._longest = longest
        self._http = httpx.AsyncClient(
            base_url=base_url,
            # No compression: it would only cost time on loopback, and a small body could grow past any limit.
            headers={"accept-encoding": "identity"} | ({"authorization": f"Bearer {api_key}"} if api_key else {}),
            timeout=None,  # one deadline over the whole call instead: a dripping reply defeats timeouts per read
            limits=httpx.Limits(max_connections=None, keepalive_expiry=_IDLE),
            verify=base_url.startswith("https:"),  # certificates take long to load, and redirects are not followed
            trust_env=False,
            follow_redirects=False,
        )

    async def complete(self, request: Request, extra: Mapping[str, object] | None = None) -> Draft:
        """Ask for the request's one stream; `extra` are fields of this server's own, which win over ours. Never raises.

        A failure is a draft with an error of kind `timeout`, `unreachable` (no connection), `disconnected` (broken
        before the reply was whole), `overloaded`, `too_long`, `refused` (the server will not serve this request) or
        `bad_response`. Cancelling closes the connection, which tells the server to stop.
        """
        started = time.monotonic()
        left = self._longest if request.deadline is None else min(self._longest, request.deadline - started)
        try:
            if left <= 0:
                raise TimeoutError
            path, body = _path(request), _encoded(_body(request) | dict(extra or {}))
            async with asyncio.timeout(left):
                raw = await self._post(path, body)
            draft = _read(raw, request)
        except TimeoutError:
            draft = failed("timeout", f"no whole reply within {max(left, 0):.1f} s")
        except httpx.ConnectError as why:
            draft = failed("unreachable", f"no connection to {self._http.base_url}: {why}")
        except httpx.HTTPError as why:
            draft = failed("disconnected", f"the connection broke before the reply was whole: {why!r}")
        except _Unusable as why:
            draft = failed(why.kind, str(why))
        usage = replace(draft.usage, seconds=time.monotonic() - started)
        return replace(draft, usage=usage, served_by=self._name)

    async def close(self) -> None:
        """Close all connections."""
        await self._http.aclose()

    async def _post(self, path: str, body: bytes) -> bytes:
        """The body of a good reply."""
        headers = {"content-type": "application/json"}
        async with self._http.stream("POST", path, content=body, headers=headers) as response:
            if response.is_redirect:
                raise _Unusable("bad_response", f"HTTP {response.status_code}: redirects are not followed")
            form = response.headers.get("content-type", "").partition(";")[0].strip().lower()
            coding = response.headers.get("content-encoding", "identity")
            raw = bytearray()
            async for piece in response.aiter_raw():
                raw += piece
                if len(raw) > LARGEST_REPLY:
                    raise _Unusable("bad_response", f"the reply is larger than {LARGEST_REPLY} bytes")
        if response.status_code != 200:
            raise _refusal(response.status_code, bytes(raw))
        if form != "application/json" or coding != "identity":
            raise _Unusable("bad_response", f"expected plain application/json, the reply is {form!r} ({coding})")
        return bytes(raw)


class _Unusable(Exception):
    """There is a reply, or could have been, and it does not count."""

    def __init__(self, kind: str, message: str) -> None:
        self.kind = kind
        super().__init__(message)


def _path(request: Request) -> str:
    return "/v1/completions" if isinstance(request.streams[0].prompt, str) else "/v1/chat/completions"


def _body(request: Request) -> dict[str, object]:
    """What is sent: every field that shapes the text, and no other. The repetition penalty has a name per server."""
    sampling = request.sampling
    prompt = request.streams[0].prompt
    body: dict[str, object] = {
        "max_tokens": sampling.max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "min_p": sampling.min_p,
        "seed": sampling.seed,
        "stream": False,
    }
    if sampling.stop:
        body["stop"] = list(sampling.stop)
    if sampling.schema is not None:
        body["response_format"] = {"type": "json_schema", "json_schema": {"name": "answer", "schema": _schema(request)}}
    if isinstance(prompt, str):
        logprobs: dict[str, object] = {"logprobs": sampling.logprobs}
        body["prompt"] = prompt
    else:
        logprobs = {"logprobs": True, "top_logprobs": sampling.logprobs}
        body["messages"] = [{"role": turn.role, "content": turn.content} for turn in prompt]
        if sampling.template:
            body["chat_template_kwargs"] = dict(sampling.template)
    return body | logprobs if sampling.logprobs is not None else body


def _encoded(body: Mapping[str, object]) -> bytes:
    try:
        # ASCII only: half of a surrogate pair, which some texts hold, has no form in UTF-8.
        return json.dumps(body, allow_nan=False).encode("ascii")
    except ValueError as why:
        raise _Unusable("refused", f"the request cannot be sent: {why}") from why


def _schema(request: Request) -> Any:
    try:
        return json.loads(request.sampling.schema or "")
    except (ValueError, RecursionError) as why:
        raise _Unusable("refused", f"the schema of the answer is not JSON: {why}") from why


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")  # servers add fields of their own


class _Top(_Part):
    token: str
    logprob: float


class _Token(_Top):
    id: int | None = None
    top_logprobs: list[_Top] = []


class _Logprobs(_Part):
    content: list[_Token]


class _Message(_Part):
    content: str


class _Choice(_Part):
    finish_reason: Literal["stop", "length"]
    message: _Message | None = None
    text: str | None = None
    logprobs: _Logprobs | None = None
    stop_reason: str | int | None = None


class _Details(_Part):
    cached_tokens: int | None = None


class _Usage(_Part):
    prompt_tokens: int = Field(ge=0)
    completion_tokens: int = Field(ge=0)
    prompt_tokens_details: _Details | None = None


class _Reply(_Part):
    error: None = None
    choices: list[_Choice] = Field(min_length=1, max_length=1)
    usage: _Usage


class _Error(_Part):
    message: str = ""
    type: str | None = None
    n_prompt_tokens: int | None = None
    n_ctx: int | None = None


class _ErrorReply(_Part):
    error: _Error


def _read(raw: bytes, request: Request) -> Draft:
    """The draft in a reply with status 200; raises _Unusable for anything that is not wholly as it should be."""
    try:
        reply = _Reply.model_validate_json(raw)
    except ValidationError as why:
        told = _told(raw)
        first = why.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(step) for step in first["loc"]) or "the reply"
        problem = f"the server says {told.message!r}" if told else f"{place}: {first['msg']}"
        raise _Unusable("bad_response", f"the reply does not count: {problem[:300]}") from why
    [choice] = reply.choices
    text = choice.message.content if choice.message else choice.text
    if text is None:
        raise _Unusable("bad_response", "the reply does not count: it has no text")
    wanted = request.sampling.logprobs
    if wanted is not None and choice.logprobs is None:
        raise _Unusable("bad_response", "the reply does not count: log-probabilities were asked for, it has none")
    stop: Stop = choice.finish_reason
    detail = "" if choice.stop_reason is None else str(choice.stop_reason)
    if stop == "length" and reply.usage.completion_tokens < request.sampling.max_tokens:
        detail = detail or "the context was full"
    details = reply.usage.prompt_tokens_details
    return Draft(
        key="",
        text=text,
        stop=stop,
        usage=Usage(
            tokens_in=reply.usage.prompt_tokens,
            tokens_out=reply.usage.completion_tokens,
            cached_in=(details and details.cached_tokens) or 0,
            passes=reply.usage.completion_tokens,
        ),
        logprobs=None if wanted is None or choice.logprobs is None else _logprobs(choice.logprobs, wanted),
        stop_detail=detail,
    )


def _logprobs(found: _Logprobs, most: int) -> tuple[TokenLogprob, ...]:
    return tuple(
        TokenLogprob(
            step.token, step.logprob, tuple((top.token, top.logprob) for top in step.top_logprobs[:most]), step.id
        )
        for step in found.content
    )


def _told(raw: bytes) -> _Error | None:
    """What the server says went wrong, where it says so in the usual form."""
    try:
        return _ErrorReply.model_validate_json(raw).error
    except ValidationError:
        return None


def _refusal(status: int, raw: bytes) -> _Unusable:
    """Why a reply with a status other than 200 does not count."""
    told = _told(raw) or _Error(message=raw[:200].decode("utf-8", "replace"))
    if told.type == "exceed_context_size_error":
        return _Unusable(
            "too_long", f"the prompt has {told.n_prompt_tokens} tokens, the context holds {told.n_ctx}; raise `context`"
        )
    message = f"HTTP {status}: {told.message[:300]}"
    if status in _OVERLOADED:
        return _Unusable("overloaded", message)
    return _Unusable("refused" if 400 <= status < 500 else "bad_response", message)
