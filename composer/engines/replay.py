"""Serves recorded drafts: what an expert once answered, without the expert."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import replace

from composer.engines.common import failed, in_slots, prompt_text
from composer.errors import EngineError
from composer.types import AdapterFile, Caps, Delta, Draft, Host, Measured, Request

Recordings = Callable[[str, str, int], Draft | None] | Mapping[tuple[str, str, int], Draft]
"""(expert, text of the prompt, sample index) -> draft; None, or a missing key, is what nobody recorded."""


class ReplayEngine:
    """Finds a draft by expert, prompt (as `prompt_text` reads it) and sample index, whatever the sampling is."""

    def __init__(self, recordings: Recordings | None = None, /) -> None:  # no option: a registry file holds no drafts
        self._recordings: Recordings = {} if recordings is None else recordings
        self._host: Host | None = None

    @property
    def caps(self) -> Caps:
        """Constant. Log-probabilities come where they were recorded."""
        return Caps(level="text")

    async def open(self, host: Host) -> Measured:
        """Nothing is loaded."""
        self._host = host
        return Measured(seconds=0.0, memory=0)

    async def attach(self, adapter: AdapterFile) -> None:
        """Raises EngineError: recordings know no adapters."""
        raise EngineError(
            f"recordings take no adapter ({adapter.name!r})", where=self._host.name if self._host else None
        )

    async def detach(self, name: str) -> None:
        """Raises EngineError, as `attach`."""
        raise EngineError(f"recordings drop no adapter ({name!r})", where=self._host.name if self._host else None)

    async def generate(self, requests: Sequence[Request]) -> AsyncIterator[tuple[str, Delta | Draft]]:
        """The recorded drafts. Failures: `not_recorded`, `unsupported` (several streams), `closed`."""
        async with contextlib.aclosing(in_slots(requests, self._answer, self.caps.slots)) as drafts:
            async for name, draft in drafts:
                yield name, draft

    async def close(self) -> None:
        """Nothing is left to end."""
        self._host = None

    async def _answer(self, request: Request) -> Draft:
        if self._host is None:
            return failed("closed", "the recordings are not open")
        if len(request.streams) > 1:
            return failed("unsupported", "recordings hold plain drafts, not several streams in lockstep")
        if request.target is not None:
            return failed("unsupported", "recordings score no given text")
        stream = request.streams[0]
        key = (stream.expert, prompt_text(stream.prompt), request.sample)
        found = self._recordings(*key) if callable(self._recordings) else self._recordings.get(key)
        if found is None:
            return failed(
                "not_recorded", f"no draft of {stream.expert!r} is recorded for {key[1][:80]!r}, sample {key[2]}"
            )
        return replace(found, key="", cached=False, served_by=found.served_by or self._host.name)
