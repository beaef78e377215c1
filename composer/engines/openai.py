"""An OpenAI-style server that somebody else runs: asked through the strict client, never started nor ended by us."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence

from composer.engines.common import failed, in_slots
from composer.engines.http import ChatClient
from composer.errors import EngineError
from composer.types import AdapterFile, Caps, Delta, Draft, Host, Measured, Request


class OpenAIEngine:
    """The model called `model` there, at `url` (without `/v1`). Nothing is asked before the first request: a server that
    is not there is a failure of each draft, of kind `unreachable`. `reuse` keeps connections open between calls."""

    def __init__(self, *, url: str, model: str, reuse: bool = True) -> None:
        self._url, self._model, self._reuse = url.removesuffix("/").removesuffix("/v1"), model, reuse
        self._caps = Caps(slots=8)
        self._client: ChatClient | None = None

    @property
    def caps(self) -> Caps:
        """Text only; `slots` is what the host declares, for the server does not say how much it takes."""
        return self._caps

    async def open(self, host: Host) -> Measured:
        """Make the client. Raises EngineError where it is open already."""
        if self._client is not None:
            raise EngineError("this engine is open already", where=host.name)
        self._caps = Caps(slots=host.slots)
        self._client = ChatClient(self._url, name=host.name, reuse=self._reuse)
        return Measured(seconds=0.0, memory=0)

    async def attach(self, adapter: AdapterFile) -> None:
        """Raises EngineError: the adapters of this server are its owner's."""
        raise EngineError(f"adapter {adapter.name!r}: {self._url} is not ours to change")

    async def detach(self, name: str) -> None:
        """Raises EngineError, as `attach`."""
        raise EngineError(f"adapter {name!r}: {self._url} is not ours to change")

    async def generate(self, requests: Sequence[Request]) -> AsyncIterator[tuple[str, Delta | Draft]]:
        """One draft per request; failures are of the kinds of `ChatClient`, `unsupported`, or `closed`."""
        async with contextlib.aclosing(in_slots(requests, self._answer, self._caps.slots)) as drafts:
            async for item in drafts:
                yield item

    async def close(self) -> None:
        """Close the connections; the server goes on."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    async def _answer(self, request: Request) -> Draft:
        if self._client is None:
            return failed("closed", "it is not open")
        if len(request.streams) > 1:
            return failed("unsupported", "a server of somebody else cannot decode several streams in lockstep")
        if request.streams[0].adapter is not None:
            return failed("unsupported", "name the adapter as a `model` of that server")
        return await self._client.complete(request, {"model": self._model})
