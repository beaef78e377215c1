"""Our strict client for OpenAI-style servers: one deadline over the whole call, and only whole replies count."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import httpx

from composer.engines.common import failed
from composer.engines.reply import Events, Reply, Unusable, refusal
from composer.types import Delta, Draft, Request

LARGEST_REPLY = 16 * 2**20  # bytes; the longest honest reply with log-probabilities is far smaller
LONGEST_CALL = 600.0  # seconds, where the request has no deadline of its own
_IDLE = 2.0  # seconds a connection is kept: less than servers keep theirs, so that none is closed under a request


class ChatClient:
    """Asks one server, through one pool of connections; belongs to the event loop it is first used in.

    Proxies of the environment and redirects are off, so the key goes to `base_url` and nowhere else. Nothing is retried:
    who asks knows better. `name` is what drafts say they were served by; `reuse` False opens a connection per call, for
    servers that close kept ones without a word.
    """

    def __init__(
        self, base_url: str, *, api_key: str = "", name: str = "", longest: float = LONGEST_CALL, reuse: bool = True
    ) -> None:
        self._name = name
        self._longest = longest
        # No compression: it would only cost time on loopback, and a small body could grow past any limit.
        headers = {"content-type": "application/json", "accept-encoding": "identity"}
        if api_key:
            headers["authorization"] = f"Bearer {api_key}"
        if not reuse:
            headers["connection"] = "close"
        self._http = httpx.AsyncClient(
            base_url=base_url,
            headers=headers,
            timeout=None,  # one deadline over the whole call instead: a dripping reply defeats timeouts per read
            limits=httpx.Limits(max_keepalive_connections=None if reuse else 0, keepalive_expiry=_IDLE),
            verify=base_url.startswith("https:"),  # certificates take long to load, and redirects are not followed
            trust_env=False,
            follow_redirects=False,
        )

    async def complete(
        self,
        request: Request,
        extra: Mapping[str, object] | None = None,
        tell: Callable[[Delta], None] = lambda _: None,
    ) -> Draft:
        """Ask for the request's one stream; `extra` are fields of this server's own, which win over ours. `tell` hears
        the text as it comes, whatever becomes of the draft. Never raises.

        A failure is a draft with an error of kind `timeout`, `unreachable` (no connection), `disconnected` (broken
        before the reply was whole), `overloaded`, `too_long`, `refused` (the server will not serve this request) or
        `bad_response`. Replies are streamed, because some servers notice only then that we have gone: a deadline or a
        cancellation closes the connection, and the server stops.
        """
        started = time.monotonic()
        left = self._longest if request.deadline is None else min(self._longest, request.deadline - started)
        reply = Reply()
        try:
            if left <= 0:
                raise TimeoutError
            path, body = _path(request), _encoded(_body(request) | dict(extra or {}))
            async with asyncio.timeout(left):
                await self._post(path, body, reply, tell)
            draft = reply.draft(request)
        except TimeoutError:
            draft = failed("timeout", f"no whole reply within {max(left, 0):.1f} s")
        except httpx.ConnectError as why:
            draft = failed("unreachable", f"no connection to {self._http.base_url}: {why}")
        except httpx.HTTPError as why:
            heard = sum(map(len, reply.text))
            draft = failed("disconnected", f"the connection broke after {heard} characters of the reply: {why!r}")
        except Unusable as why:
            draft = failed(why.kind, str(why))
        usage = replace(draft.usage, seconds=time.monotonic() - started)
        return replace(draft, usage=usage, served_by=self._name)

    async def close(self) -> None:
        """Close all connections."""
        await self._http.aclose()

    async def _post(self, path: str, body: bytes, reply: Reply, tell: Callable[[Delta], None]) -> None:
        """Send, and hand every event to `reply` as it comes."""
        at = 0
        async with self._http.stream("POST", path, content=body) as response:
            if response.is_redirect:
                raise Unusable("bad_response", f"HTTP {response.status_code}: redirects are not followed")
            form = response.headers.get("content-type", "").partition(";")[0].strip().lower()
            coding = response.headers.get("content-encoding", "identity")
            good = response.status_code == 200 and form == "text/event-stream" and coding == "identity"
            size, events, other = 0, Events(), bytearray()
            async for piece in response.aiter_raw():
                size += len(piece)
                if size > LARGEST_REPLY:
                    raise Unusable("bad_response", f"the reply is larger than {LARGEST_REPLY} bytes")
                if good:
                    for event in events.feed(piece):
                        known = len(reply.text)
                        reply.take(event)
                        for text in reply.text[known:]:
                            tell(Delta(text, at))
                            at += len(text)
                else:
                    other += piece
        if not good and response.status_code == 200:
            told = refusal(200, bytes(other))
            raise Unusable("bad_response", f"expected a plain event stream, got {form!r} ({coding}); {told}")
        if not good:
            raise refusal(response.status_code, bytes(other))


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
        "stream": True,
        "stream_options": {"include_usage": True},
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
    except (ValueError, RecursionError) as why:
        raise Unusable("refused", f"the request cannot be sent: {why}") from why


def _schema(request: Request) -> Any:
    try:
        return json.loads(request.sampling.schema or "")
    except (ValueError, RecursionError) as why:
        raise Unusable("refused", f"the schema of the answer is not JSON: {why}") from why
