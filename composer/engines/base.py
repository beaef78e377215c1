"""What every engine promises: open a host, answer a batch as drafts land, close without residue."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from composer.types import AdapterFile, Caps, Delta, Draft, Host, Measured, Request


class Engine(Protocol):
    """One running host behind one set of calls. An instance serves one host from `open` to `close`.

    A class that also has `plumbing`, names of its options, says that these never change a text (how long it waits, where
    its key is): they are no part of what a draft is known by. One with `release`, a static method of its options, says
    what would serve a model, and in which version: the lock file writes it down. One with `why_not` says of a request of
    several streams why it decodes no such ones, None where it does, before anything is opened.
    """

    @property
    def caps(self) -> Caps:
        """What this engine can do; known before anything is opened."""
        ...

    async def open(self, host: Host) -> Measured:
        """Start serving `host`; return when it can answer. Raises EngineError with the log's last lines if it cannot."""
        ...

    async def attach(self, adapter: AdapterFile) -> None:
        """Add an adapter to the running host. Raises EngineError where `caps.adapters` is `fixed`."""
        ...

    async def detach(self, name: str) -> None:
        """Remove an adapter from the running host; requests under way with it end well. Raises EngineError as `attach`."""
        ...

    def generate(self, requests: Sequence[Request]) -> AsyncIterator[tuple[str, Delta | Draft]]:
        """Yield (request id, piece) in any order, and exactly one Draft per request, as it lands.

        The draft's `key` is left empty: the pool knows it. A failure is a draft with an `error`, so one bad prompt never
        costs its batch. Closing the iterator early cancels what is still running. It may be called again while earlier
        calls run: the pool asks for one request at a time, in up to `caps.slots` calls at once.
        """
        ...

    async def close(self) -> None:
        """End the host; no process, socket or file is left. Safe to call twice, and on a host that has died."""
        ...
