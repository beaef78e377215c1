"""An OpenAI-style server that somebody else runs: asked through the strict client, never started nor ended by us."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

from composer import __version__
from composer.engines.common import answered, failed
from composer.engines.http import ChatClient
from composer.engines.limits import FIRST, IDLE, LONGEST_CALL, Limits
from composer.engines.preflight import Preflight
from composer.engines.retry import RETRIES, Persistence
from composer.engines.servers import Name
from composer.errors import EngineError
from composer.types import AdapterFile, Caps, Delta, Draft, Host, Measured, Request


class OpenAIEngine:
    """The model called `model` there, at `url` (without `/v1`). Nothing is asked before the first request: a server that
    is not there is a failure of each draft, of kind `unreachable`.

    `serves_as` is the name by which the server lists the model and replies, where that is another one. `server` is its
    kind, found out where it is not said. `key_env` names the environment variable that holds the key. `first`, `idle` and
    `longest` are the limits in seconds, `retries` the attempts after the first one. `uncounted` lets prompts through that
    might be cut and that nobody can count; `preflight` False asks nothing but the question. `reuse` keeps connections
    open between calls.
    """

    plumbing = frozenset({"key_env", "first", "idle", "longest", "retries", "preflight", "reuse"})

    def __init__(
        self,
        *,
        url: str,
        model: str,
        serves_as: str = "",
        server: Name | None = None,
        key_env: str | None = None,
        first: int | float = FIRST,
        idle: int | float = IDLE,
        longest: int | float = LONGEST_CALL,
        retries: int = RETRIES,
        uncounted: bool = False,
        preflight: bool = True,
        reuse: bool = True,
    ) -> None:
        self._url, self._model, self._reuse = url.removesuffix("/").removesuffix("/v1"), model, reuse
        self._serves_as, self._server, self._key_env = serves_as, server, key_env
        self._limits = Limits(float(first), float(idle), float(longest))
        self._retries, self._uncounted, self._look = retries, uncounted, preflight
        self._caps = Caps(slots=8)
        self._client: ChatClient | None = None
        self._check: Preflight | None = None

    @staticmethod
    def release(options: Mapping[str, Any]) -> str:
        """This client's version: the server is somebody else's."""
        return f"coe {__version__}"

    @property
    def caps(self) -> Caps:
        """Text only; `slots` is what the host declares, for the server does not say how much it takes."""
        return self._caps

    async def open(self, host: Host) -> Measured:
        """Make the client. Raises EngineError where it is open already, or the key is not there."""
        if self._client is not None:
            raise EngineError("this engine is open already", where=host.name)
        key = key_of(self._key_env, host.name)
        self._caps = Caps(slots=host.slots)
        persistence = Persistence(retries=self._retries)
        client = ChatClient(
            self._url, api_key=key, name=host.name, limits=self._limits, reuse=self._reuse, persistence=persistence
        )
        client.check = self._check = Preflight(
            client.ask,
            self._url,
            self._model,
            serves_as=self._serves_as,
            wanted=self._server,
            context=host.context,
            uncounted=self._uncounted,
            look=self._look,
        )
        self._client = client
        return Measured(seconds=0.0, memory=0)

    async def attach(self, adapter: AdapterFile) -> None:
        """Raises EngineError: the adapters of this server are its owner's."""
        raise EngineError(f"adapter {adapter.name!r}: {self._url} is not ours to change")

    async def detach(self, name: str) -> None:
        """Raises EngineError, as `attach`."""
        raise EngineError(f"adapter {name!r}: {self._url} is not ours to change")

    async def generate(self, requests: Sequence[Request]) -> AsyncIterator[tuple[str, Delta | Draft]]:
        """One draft per request; failures are of the kinds of `ChatClient`, `unsupported`, or `closed`. Deltas come for
        requests that want them."""
        async with contextlib.aclosing(answered(requests, self._answer, self._caps.slots)) as pieces:
            async for item in pieces:
                yield item

    async def close(self) -> None:
        """Close the connections; the server goes on."""
        client, self._client = self._client, None
        check, self._check = self._check, None
        if check is not None:
            await check.close()
        if client is not None:
            await client.close()

    async def _answer(self, request: Request, tell: Callable[[Delta], None]) -> Draft:
        if self._client is None:
            return failed("closed", "it is not open")
        if request.target is not None:
            return failed("unsupported", "a server of somebody else scores no given text")
        if len(request.streams) > 1:
            return failed("unsupported", "a server of somebody else cannot decode several streams in lockstep")
        if request.streams[0].adapter is not None:
            return failed("unsupported", "name the adapter as a `model` of that server")
        return await self._client.complete(request, tell=tell)


def key_of(variable: str | None, where: str) -> str:
    """The key in an environment variable; none where none is named. Raises EngineError; never shows a key."""
    if variable is None:
        return ""
    if not re.fullmatch(r"[A-Z_][A-Z0-9_]*", variable):
        raise EngineError(
            "`key_env` is not the name of an environment variable, such as MY_SERVER_KEY",
            where=where,
            remedy="put the key into the environment, and its variable's name here: a registry is no place for keys",
        )
    key = os.environ.get(variable, "")
    if not key:
        raise EngineError(f"the environment variable {variable} is not set", where=where, remedy=f"export {variable}=…")
    return key
