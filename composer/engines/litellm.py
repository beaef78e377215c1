"""Providers that speak no OpenAI, through LiteLLM: imported when the first model opens, and trusted only where it is told."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from composer.engines.common import answered, failed
from composer.engines.limits import FIRST, IDLE, LONGEST_CALL, Limits, Watch
from composer.engines.naming import is_another
from composer.engines.openai import key_of
from composer.engines.retry import RETRIES, Persistence, Unusable, wish_of
from composer.engines.servers import STOPS, says_too_long
from composer.errors import EngineError
from composer.types import AdapterFile, Caps, Delta, Draft, Host, Measured, Message, Request, Usage

_OLDEST, _BAD = (1, 83, 7), ("1.82.7", "1.82.8")  # the two were uploaded by a thief of credentials
_NO_KEY = "none"  # without one it would take whatever key the environment holds, and send it to `url`


class LiteLLMEngine:
    """The model called `model` there, as `provider/name`. `url` is the server's address, where it is not the provider's
    own; `key_env` names the environment variable that holds the key: no other is used. Limits and retries are those of
    `engine: openai`; LiteLLM's own are off. Where the provider says which model answers, that is compared with the
    one asked, or with `serves_as`: clearly another one is a failure, a dated or tuned one is told in `served_by`.
    """

    plumbing = frozenset({"key_env", "first", "idle", "longest", "retries"})

    def __init__(
        self,
        *,
        model: str,
        serves_as: str = "",
        url: str | None = None,
        key_env: str | None = None,
        first: int | float = FIRST,
        idle: int | float = IDLE,
        longest: int | float = LONGEST_CALL,
        retries: int = RETRIES,
    ) -> None:
        self._model, self._serves_as, self._url, self._key_env = model, serves_as, url, key_env
        self._limits = Limits(float(first), float(idle), float(longest))
        self._retries = retries
        self._caps = Caps(slots=8)
        self._name = self._key = ""
        self._litellm: Any = None
        self._prices: tuple[float, float] | None = None
        self._persistence = Persistence()

    @staticmethod
    def release(options: Mapping[str, Any]) -> str:
        """LiteLLM's version here."""
        try:
            return f"litellm {version('litellm')}"
        except PackageNotFoundError:
            return "litellm, not installed"

    @property
    def caps(self) -> Caps:
        """Text only; `slots` is what the host declares."""
        return self._caps

    async def open(self, host: Host) -> Measured:
        """Import LiteLLM, which takes seconds. Raises EngineError where it is open already, not installed or too old, or
        the key is not there."""
        if self._litellm is not None:
            raise EngineError("this engine is open already", where=host.name)
        began = time.monotonic()
        self._key = key_of(self._key_env, host.name) or _NO_KEY
        check_version(host.name)
        self._litellm = await asyncio.to_thread(_imported)
        self._name, self._caps = host.name, Caps(slots=host.slots)
        self._persistence = Persistence(retries=self._retries)
        self._prices = _prices(self._litellm, self._model)
        return Measured(seconds=time.monotonic() - began, memory=0)

    async def attach(self, adapter: AdapterFile) -> None:
        """Raises EngineError: a provider's models are its own."""
        raise EngineError(f"adapter {adapter.name!r}: the models of {self._model!r}'s provider are not ours to change")

    async def detach(self, name: str) -> None:
        """Raises EngineError, as `attach`."""
        raise EngineError(f"adapter {name!r}: the models of {self._model!r}'s provider are not ours to change")

    async def generate(self, requests: Sequence[Request]) -> AsyncIterator[tuple[str, Delta | Draft]]:
        """One draft per request; failures are of the kinds of `engine: openai`."""
        async with contextlib.aclosing(answered(requests, self._answer, self._caps.slots)) as pieces:
            async for item in pieces:
                yield item

    async def close(self) -> None:
        """Let go; connections are LiteLLM's, for the whole process."""
        self._litellm = None

    async def _answer(self, request: Request, tell: Callable[[Delta], None]) -> Draft:
        if self._litellm is None:
            return failed("closed", "it is not open")
        if request.target is not None:
            return failed("unsupported", "a provider scores no given text")
        if len(request.streams) > 1 or request.streams[0].adapter is not None:
            return failed("unsupported", "a provider decodes one stream of one of its own models")
        if request.sampling.logprobs is not None or request.sampling.template:
            return failed("unsupported", "log-probabilities and options of templates are not asked of providers")
        started = time.monotonic()
        ends = started + self._limits.longest
        ends = ends if request.deadline is None else min(ends, request.deadline)
        try:
            if ends <= started:
                raise TimeoutError
            draft = await self._persistence.run(lambda: self._attempt(request, tell, ends), ends)
        except TimeoutError:
            draft = failed("timeout", f"no whole reply within {max(ends - started, 0):.1f} s")
        except Unusable as why:
            draft = failed(why.kind, str(why), why.attempts)
        usage = replace(draft.usage, seconds=time.monotonic() - started)
        return replace(draft, usage=usage, served_by=draft.served_by or self._name)

    async def _attempt(self, request: Request, tell: Callable[[Delta], None], ends: float) -> Draft:
        watch = Watch(self._limits, ends)
        texts: list[str] = []
        stream: Any = None
        served = ""
        try:
            async with watch:
                stream = await self._litellm.acompletion(**self._asked(request))
                usage, at = None, 0
                async for chunk in stream:
                    usage = getattr(chunk, "usage", None) or usage
                    served = self._served(chunk) or served
                    text = (chunk.choices[0].delta.content or "") if chunk.choices else ""
                    if text or chunk.choices:
                        watch.heard()
                    if text:
                        tell(Delta(text, at))
                        at += len(text)
                        texts.append(text)
        except TimeoutError as why:
            raise Unusable("timeout", f"no whole reply {watch.reason}", down=watch.late) from why
        except Unusable:
            raise
        except Exception as why:  # it raises its own, openai's, httpx's and plain ones: here they end
            raise _translated(self._litellm, why) from why
        finally:
            if stream is not None:  # whoever leaves early leaves no connection: the server stops writing
                await stream.aclose()
        # The reason of its last chunk is made up where the provider gave none: this one is not.
        reason = getattr(stream, "received_finish_reason", None)
        if not isinstance(reason, str) or reason not in STOPS:
            told = "no reason for its end was told" if reason is None else f"it ended for the reason {reason!r}"
            raise Unusable(
                "bad_response", f"the reply does not count, after {at} characters: {told}", again=reason is None
            )
        own = served in ("", self._model, self._model.partition("/")[2])
        by = self._name if own else f"{self._name} ({served})"
        return Draft("", "".join(texts), STOPS[reason], usage=self._used(usage), served_by=by)

    def _served(self, chunk: Any) -> str:
        """What the provider itself calls the model that answers; "" where it does not say: the name in a chunk is
        LiteLLM's own. Raises Unusable for another model."""
        told = (getattr(chunk, "_hidden_params", None) or {}).get("provider_response_model")
        if not isinstance(told, str) or not told:
            return ""
        if is_another(told, self._serves_as or self._model):
            raise Unusable(
                "wrong_model",
                f"another model answers: it calls itself {told[:200]!r}, asked was {self._model!r}; if that is its name"
                " there, set option `serves_as`",
            )
        return told[:200]

    def _asked(self, request: Request) -> dict[str, Any]:
        """What it is called with: of the sampling only what changes something, for providers refuse what they do not know."""
        prompt, sampling = request.streams[0].prompt, request.sampling
        turns = [Message("user", prompt)] if isinstance(prompt, str) else prompt
        asked: dict[str, Any] = {
            "model": self._model,
            "messages": [{"role": turn.role, "content": turn.content} for turn in turns],
            "max_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
            "api_base": self._url,
            "api_key": self._key,
            "stream": True,
            "stream_options": {"include_usage": True},
            "num_retries": 0,
            "max_retries": 0,
            "timeout": self._limits.longest,
            "drop_params": False,
        }
        optional = {
            "top_p": (sampling.top_p, 1.0),
            "top_k": (sampling.top_k, 0),
            "stop": (list(sampling.stop), []),
            "seed": (sampling.seed if sampling.temperature else 0, 0),
        }
        asked |= {name: value for name, (value, neutral) in optional.items() if value != neutral}
        if sampling.schema is not None:
            form = {"name": "answer", "schema": json.loads(sampling.schema)}
            asked["response_format"] = {"type": "json_schema", "json_schema": form}
        return asked

    def _used(self, told: Any) -> Usage:
        tokens_in, tokens_out = (int(getattr(told, name, 0) or 0) for name in ("prompt_tokens", "completion_tokens"))
        cost = None if self._prices is None else tokens_in * self._prices[0] + tokens_out * self._prices[1]
        return Usage(tokens_in=tokens_in, tokens_out=tokens_out, passes=tokens_out, cost=cost)


def check_version(where: str) -> None:
    """Raise EngineError unless LiteLLM is there, new enough, and none of the releases that must not be imported."""
    remedy = "pip install 'composition-of-experts[litellm]'"
    try:
        found = version("litellm")
    except PackageNotFoundError as why:
        raise EngineError("LiteLLM is not installed", where=where, remedy=remedy) from why
    parts = tuple(int(part) for part in found.split(".")[:3] if part.isdigit())
    if found in _BAD or parts < _OLDEST:
        raise EngineError(
            f"LiteLLM {found} is not imported: {'.'.join(map(str, _OLDEST))} or newer is needed"
            + (", and this release stole credentials: change those of this machine" if found in _BAD else ""),
            where=where,
            remedy=remedy,
        )


def _imported() -> Any:
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # or importing it fetches a list from the network
    import litellm  # noqa: PLC0415 - seconds to import, so not before a model needs it

    litellm.suppress_debug_info = True
    litellm.telemetry = False
    return litellm


def _prices(litellm: Any, model: str) -> tuple[float, float] | None:
    """Money per token read and written; None where it knows none: an entry of 0 is one that nobody filled in."""
    entry = litellm.model_cost.get(model) or litellm.model_cost.get(model.partition("/")[2]) or {}
    told = [entry.get(name) for name in ("input_cost_per_token", "output_cost_per_token")]
    read, written = (float(price) if isinstance(price, int | float) else 0.0 for price in told)
    return (read, written) if 0 < read < math.inf and 0 < written < math.inf else None


def _translated(litellm: Any, why: Exception) -> Unusable:
    """A failure of ours. What it says of a stream that broke is another error around the first one."""
    known = litellm.exceptions
    inner = getattr(why, "original_exception", None)
    status = getattr(why, "status_code", None)
    headers = getattr(getattr(why, "response", None), "headers", None) or {}
    told = str(why).partition("\nTraceback")[0][:300]
    if isinstance(why, known.ContextWindowExceededError) or says_too_long(told):
        return Unusable("too_long", f"the prompt does not fit into the context: {told}")
    if isinstance(why, known.MidStreamFallbackError):
        broke = isinstance(inner, known.APIConnectionError) or "finish_reason" in told
        return Unusable("bad_response", f"the reply does not count: {told}", again=broke, down=broke)
    if isinstance(why, known.RateLimitError):
        return Unusable("overloaded", told, again=True, wish=wish_of(headers))
    if isinstance(why, known.Timeout):
        return Unusable("timeout", told, down=True)
    if isinstance(why, known.APIConnectionError):
        return Unusable("unreachable", told, again=True, down=True)
    if isinstance(status, int) and 400 <= status < 500:
        return Unusable("refused", told)
    if isinstance(status, int) and status >= 500:
        kind = "overloaded" if status in (503, 529) else "bad_response"
        return Unusable(kind, told, again=True, down=True, wish=wish_of(headers))
    return Unusable("bad_response", f"{type(why).__name__}: {told}")
