"""Is anybody able to answer? A real completion says so, kept for a few seconds."""

from __future__ import annotations

import asyncio
import secrets
import time
from contextlib import aclosing

from composer.errors import ComposerError
from composer.pipeline import Pipeline
from composer.serve.refusal import Refused
from composer.state import State
from composer.types import Draft, Failure, Request, Sampling

_FRESH = 5.0  # seconds that a finding counts
_LONGEST = 60.0  # seconds; the first probe loads the model


class Readiness:
    """A draft that was generated a moment ago proves it as well; else the expert that was asked last is asked for one
    token: most likely its host is open, and a probe must not put another one out."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._expert = pipeline.registry.generalist
        self._found: Failure | None = None
        self._at = float("-inf")
        self._asking: asyncio.Task[None] | None = None

    def saw(self, state: State) -> None:
        """An answer was given."""
        for replies in state.replies:
            for reply in replies:
                if reply.draft.error is None and not reply.draft.cached:
                    self._expert, self._found, self._at = reply.arm, None, time.monotonic()

    async def check(self) -> str:
        """The expert that answered. Raises Refused (503) if it did not."""
        if time.monotonic() - self._at > _FRESH:
            if self._asking is None or self._asking.done():
                self._asking = asyncio.create_task(self._ask())  # one probe, however many want to know
            await asyncio.shield(self._asking)
        if self._found is not None:
            raise Refused(503, f"{self._expert} does not answer ({self._found.kind})", code="not_ready", retry=5)
        return self._expert

    async def close(self) -> None:
        """End the probe under way."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)

    async def _ask(self) -> None:
        registry, expert = self._pipeline.registry, self._expert
        # A text that nobody has asked before: what the store has would prove nothing.
        stream = registry.stream(expert, registry.messages(expert, f"Hi {secrets.token_hex(4)}"))
        deadline = time.monotonic() + _LONGEST
        request = Request("ready", (stream,), Sampling(max_tokens=1), role="probe", arm=expert, deadline=deadline)
        try:
            async with aclosing(self._pipeline.pool.submit([request])) as pieces:  # type: ignore[type-var]
                async for _, piece in pieces:
                    if isinstance(piece, Draft):
                        self._found = piece.error
        except ComposerError as why:  # no file, no memory
            self._found = Failure(why.code, str(why))
        self._at = time.monotonic()
