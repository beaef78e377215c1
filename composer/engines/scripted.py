"""Answers from a function, and remembers what it was asked: for tests of logic, where a model would only be slow."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Callable, Sequence

from composer.engines.common import failed, in_slots, prompt_text
from composer.errors import EngineError
from composer.types import AdapterFile, Caps, Delta, Draft, Failure, Host, Measured, Request, Usage


class ScriptedEngine:
    """`answer` gives each request its text, its draft or its failure, after `delay` seconds.

    `batches` are the prompts of each call of `generate` as it was made, `opens` the hosts, `closes` a count, `adapters`
    the names attached just now. With `stream` every word of a text comes as a Delta before its draft.
    """

    def __init__(
        self,
        answer: Callable[[Request], str | Draft | Failure],
        *,
        caps: Caps | None = None,
        delay: float = 0.0,
        stream: bool = False,
    ) -> None:
        self.batches: list[tuple[str, ...]] = []
        self.opens: list[Host] = []
        self.closes = 0
        self.adapters: list[str] = []
        self._answer_of = answer
        self._caps = caps or Caps(slots=8)
        self._delay = delay
        self._stream = stream
        self._host: Host | None = None

    @property
    def caps(self) -> Caps:
        """As given."""
        return self._caps

    async def open(self, host: Host) -> Measured:
        """Remember the host."""
        self.opens.append(host)
        self._host = host
        return Measured(seconds=0.0, memory=host.memory)

    async def attach(self, adapter: AdapterFile) -> None:
        """Remember the adapter. Raises EngineError where the caps say `fixed`."""
        self._refuse_if_fixed(adapter.name)
        self.adapters.append(adapter.name)

    async def detach(self, name: str) -> None:
        """Forget the adapter. Raises EngineError where the caps say `fixed`."""
        self._refuse_if_fixed(name)
        self.adapters.remove(name)

    async def generate(self, requests: Sequence[Request]) -> AsyncIterator[tuple[str, Delta | Draft]]:
        """What the function says, at most `caps.slots` at a time."""
        self.batches.append(tuple(prompt_text(request.streams[0].prompt) for request in requests))
        async with contextlib.aclosing(in_slots(requests, self._answer, self._caps.slots)) as drafts:
            async for name, draft in drafts:
                at = 0
                for word in re.split(r"(?<= )", draft.text) if self._stream and draft.error is None else ():
                    yield name, Delta(word, at)
                    at += len(word)
                yield name, draft

    async def close(self) -> None:
        """Count it."""
        self.closes += 1
        self._host = None

    async def _answer(self, request: Request) -> Draft:
        await asyncio.sleep(self._delay)
        if self._host is None:
            return failed("closed", "the scripted engine is not open")
        if len(request.streams) > 1 and not self._caps.contrast:
            return failed("unsupported", "its caps allow no contrast")
        if request.target is not None and not self._caps.scores:
            return failed("unsupported", "its caps allow no scores")
        said = self._answer_of(request)
        if isinstance(said, Draft):
            return said
        if isinstance(said, Failure):
            return Draft("", "", "error", served_by=self._host.name, error=said)
        words_in = sum(len(prompt_text(stream.prompt).split()) for stream in request.streams)
        words_out, passes = len(said.split()), len(request.streams) * len(said.split())
        usage = Usage(tokens_in=words_in, tokens_out=words_out, passes=passes, seconds=self._delay)
        return Draft("", said, "stop", usage, served_by=self._host.name)

    def _refuse_if_fixed(self, name: str) -> None:
        if self._caps.adapters == "fixed":
            raise EngineError(f"adapter {name!r}: the caps say that adapters are fixed")
