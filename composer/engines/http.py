"""Our strict client for OpenAI-style servers: deadlines that hold, and only whole replies of the right model count."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, Protocol, TypeVar

import httpx

from composer.engines.common import failed
from composer.engines.limits import Limits, Watch
from composer.engines.reply import Reply, refusal
from composer.engines.retry import Persistence, Unusable
from composer.engines.sse import Corrupt, Events, Gunzip
from composer.types import Delta, Draft, Message, Request

LARGEST_REPLY = 16 * 2**20  # bytes; the longest honest reply with log-probabilities is far smaller
_CONNECT = 10.0  # seconds: an address that nobody has does not answer at all
_IDLE = 2.0  # seconds a connection is kept: less than servers keep theirs, so that none is closed under a request

T = TypeVar("T")


class Check(Protocol):
    """What is made sure of before a request is sent, and of the reply."""

    async def ready(self, request: Request, ends: float) -> Mapping[str, object]:
        """The fields that this server wants (None: one that it does not), where it serves our model and the prompt fits.
        Raises Unusable."""
        ...

    def serves(self, name: str) -> bool:
        """Whether a reply that names its model so is one of ours."""
        ...

    def lost(self) -> None:
        """The connection broke: it may be another server from now on."""
        ...


class ChatClient:
    """Asks one server, through one pool of connections; belongs to the event loop it is first used in.

    Proxies of the environment and redirects are off, so the key goes to `base_url` and nowhere else. `name` is what drafts
    say they were served by; `reuse` False opens a connection per call, for servers that close kept ones without a word.
    Without `persistence` nothing is asked twice: who asks knows better.
    """

    def __init__(
        self,
        base_url: str,
        *,
        api_key: str = "",
        name: str = "",
        limits: Limits | None = None,
        reuse: bool = True,
        persistence: Persistence | None = None,
        check: Check | None = None,
    ) -> None:
        self.url = base_url.removesuffix("/")
        self._urls: dict[str, httpx.URL] = {}
        self._name = name
        self.limits = limits or Limits()
        self._persistence = persistence or Persistence(retries=0)
        self.check = check
        # No compression: it would only cost time on loopback. What a proxy packs all the same is unpacked.
        headers = {"content-type": "application/json", "accept-encoding": "identity"}
        if api_key:
            headers["authorization"] = f"Bearer {api_key}"
        if not reuse:
            headers["connection"] = "close"
        self._extensions = {"timeout": httpx.Timeout(None, connect=_CONNECT).as_dict()}
        self._http = httpx.AsyncClient(
            base_url=base_url,
            headers=headers,
            timeout=None,  # but for connecting: a dripping reply defeats timeouts per read, our own limits do not
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
        the text as it comes, from its beginning again where it is asked again, whatever becomes of the draft. Never raises.

        A failure is a draft with an error of kind `timeout`, `unreachable` (no connection), `disconnected` (broken
        before the reply was whole), `overloaded`, `too_long`, `refused` (the server will not serve this request),
        `wrong_model` or `bad_response`, with the number of attempts. Replies are streamed, because some servers notice
        only then that we have gone: a deadline or a cancellation closes the connection, and the server stops.
        """

        async def attempt(ends: float) -> Draft:
            more = await self.check.ready(request, ends) if self.check is not None else {}
            return await self._attempt(request, {**(extra or {}), **more}, tell, ends)

        return await self.persist(request, attempt)

    async def persist(self, request: Request, attempt: Callable[[float], Awaitable[Draft]]) -> Draft:
        """What `attempt` makes of the request, which is told when it has to end and raises Unusable. Failures are those
        of `complete`; never raises."""
        started = time.monotonic()
        left = self.limits.longest if request.deadline is None else request.deadline - started
        ends = started + min(left, self.limits.longest)
        try:
            if left <= 0:
                raise TimeoutError
            draft = await self._persistence.run(lambda: attempt(ends), ends)
        except TimeoutError:
            draft = failed("timeout", f"no whole reply within {max(ends - started, 0):.1f} s")
        except Unusable as why:
            draft = failed(why.kind, str(why), why.attempts)
        usage = replace(draft.usage, seconds=time.monotonic() - started)
        return replace(draft, usage=usage, served_by=self._name)

    async def ask(self, path: str, body: Mapping[str, object] | None, ends: float) -> Any:
        """What the server says at another path, as JSON; None where it has no such path. Raises Unusable."""
        method, content = ("GET", None) if body is None else ("POST", encoded(body))

        async def asking(watch: Watch) -> tuple[httpx.Response, bytes]:
            async with self._sent(method, path, content) as response:
                raw = bytearray()
                async for piece in _raw(response):
                    watch.heard()
                    raw += piece
                    if len(raw) > LARGEST_REPLY:
                        raise Unusable("bad_response", f"what {path} says is larger than {LARGEST_REPLY} bytes")
                return response, bytes(raw)

        response, raw = await self._watched(asking, ends, path)
        status = response.status_code
        if status in (404, 405, 501):
            return None
        if status != 200:
            raise refusal(status, raw, response.headers)
        try:
            return json.loads(raw)
        except (ValueError, RecursionError) as why:
            raise Unusable("bad_response", f"what {path} says is no JSON: {why}") from why

    async def close(self) -> None:
        """Close all connections."""
        await self._http.aclose()

    async def _attempt(
        self, request: Request, extra: Mapping[str, object], tell: Callable[[Delta], None], ends: float
    ) -> Draft:
        reply = Reply(serves=self.check.serves) if self.check is not None else Reply()
        fields = {**body_of(request), **extra}
        path, body = path_of(request), encoded({name: value for name, value in fields.items() if value is not None})
        await self._watched(lambda watch: self._post(path, body, reply, tell, watch), ends, reply)
        return reply.draft(request)

    async def _watched(self, work: Callable[[Watch], Awaitable[T]], ends: float, of: Reply | str) -> T:
        """Do it within the limits, and say what went wrong as Unusable."""
        watch = Watch(self.limits, ends)
        try:
            async with watch:
                return await work(watch)
        except TimeoutError as why:
            heard = f" ({sum(map(len, of.text))} characters of it came)" if isinstance(of, Reply) else f" of {of}"
            raise Unusable("timeout", f"no whole reply{heard} {watch.reason}", down=watch.late) from why
        except (httpx.ConnectError, httpx.ConnectTimeout) as why:
            self._lost()
            told = str(why) or f"no answer within {_CONNECT:g} s"
            raise Unusable("unreachable", f"no connection to {self.url}: {told}", again=True, down=True) from why
        except httpx.HTTPError as why:
            self._lost()
            heard = f"{sum(map(len, of.text))} characters of the reply" if isinstance(of, Reply) else f"a part of {of}"
            told = f"the connection broke after {heard}: {why!r}"
            raise Unusable("disconnected", told, again=True, down=True) from why
        except Corrupt as why:
            raise Unusable("bad_response", f"the reply does not count: {why}") from why

    @asynccontextmanager
    async def _sent(self, method: str, path: str, content: bytes | None) -> AsyncIterator[httpx.Response]:
        """The request is made by hand: merging URLs, headers and cookies that are always the same took a tenth of a call."""
        url = self._urls.get(path) or self._urls.setdefault(path, httpx.URL(self.url + path))
        request = httpx.Request(
            method, url, headers=self._http.headers, content=content, extensions={**self._extensions}
        )
        response = await self._http.send(request, stream=True)
        try:
            yield response
        finally:
            await response.aclose()

    def _lost(self) -> None:
        if self.check is not None:
            self.check.lost()

    async def _post(self, path: str, body: bytes, reply: Reply, tell: Callable[[Delta], None], watch: Watch) -> None:
        """Send, and hand every event to `reply` as it comes."""
        at = size = 0
        async with self._sent("POST", path, body) as response:
            if response.is_redirect:
                raise Unusable("bad_response", f"HTTP {response.status_code}: redirects are not followed")
            form = response.headers.get("content-type", "").partition(";")[0].strip().lower()
            coding = response.headers.get("content-encoding", "identity")
            packed = Gunzip(LARGEST_REPLY) if coding == "gzip" else None
            known = coding in ("identity", "gzip")
            good = response.status_code == 200 and form == "text/event-stream" and known
            events, other = Events(), bytearray()
            async for piece in _raw(response):
                size += len(piece)
                if size > LARGEST_REPLY:
                    raise Unusable("bad_response", f"the reply is larger than {LARGEST_REPLY} bytes")
                if packed is not None:
                    piece = packed.feed(piece)
                if not good:
                    other += piece
                    continue
                for event in events.feed(piece):
                    known_texts = len(reply.text)
                    reply.take(event)
                    if reply.begun:
                        watch.heard()
                    for text in reply.text[known_texts:]:
                        tell(Delta(text, at))
                        at += len(text)
            if packed is not None:
                packed.end()
        if not good and response.status_code == 200:
            told = refusal(200, bytes(other), response.headers)
            if told.kind == "too_long":
                raise told
            raise Unusable("bad_response", f"expected an event stream, got {form!r} ({coding}); {told}")
        if not good:
            raise refusal(response.status_code, bytes(other), response.headers)


def _raw(response: httpx.Response) -> AsyncIterator[bytes]:
    """The bytes as they come; httpx's own iterator counts and cuts them first."""
    assert isinstance(response.stream, httpx.AsyncByteStream)
    return response.stream.__aiter__()


def path_of(request: Request) -> str:
    """Where a text is continued, or a chat."""
    return "/v1/completions" if isinstance(request.streams[0].prompt, str) else "/v1/chat/completions"


def turns_of(prompt: Sequence[Message]) -> list[dict[str, str]]:
    """A chat in OpenAI's form."""
    return [{"role": turn.role, "content": turn.content} for turn in prompt]


def body_of(request: Request) -> dict[str, object]:
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
        body["messages"] = turns_of(prompt)
        if sampling.template:
            body["chat_template_kwargs"] = dict(sampling.template)
    return body | logprobs if sampling.logprobs is not None else body


def encoded(body: Mapping[str, object]) -> bytes:
    """As JSON. Raises Unusable."""
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
