"""The pool: every request becomes a draft, from the store if it is there, else from its expert's host, each opened once."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from composer.engines.base import Engine
from composer.errors import EngineError
from composer.faults import kill_point
from composer.pool.ledger import Ledger
from composer.pool.plan import Batch, Plan, make_plan
from composer.pool.residency import to_evict
from composer.registry.memory import refuse_what_cannot_fit
from composer.types import Delta, Draft, Failure, Fingerprint, Host, Request, Usage, draft_key

Item = tuple[str, Delta | Draft]


class Resolver(Protocol):
    """What the pool asks of the registry."""

    def host_of(self, expert: str) -> str:
        """The host (model) that serves an expert."""
        ...

    def host(self, name: str, adapters: Sequence[str]) -> Host:
        """Everything needed to open `name` with these adapters; fetches and checks files, so it may take long."""
        ...

    def estimate(self, name: str, adapters: Sequence[str]) -> int:
        """Bytes it will keep resident, known without any file."""
        ...

    def weights(self, name: str) -> str:
        """What identifies the host's weight file."""
        ...

    def where(self, name: str) -> str:
        """Where the host is declared, for messages."""
        ...

    def fingerprint(self, expert: str) -> Fingerprint:
        """What determines the expert's text."""
        ...

    def engine(self, name: str) -> Engine:
        """A new engine for the host."""
        ...

    def cost(self, request: Request, usage: Usage) -> float | None:
        """Money for one call; None where no price is known."""
        ...


class Drafts(Protocol):
    """What the pool asks of the store."""

    async def get(self, keys: Sequence[str]) -> dict[str, Draft]:
        """The complete drafts among `keys`."""
        ...

    async def put(self, draft: Draft, request: Request) -> None:
        """Keep a draft; returns once it would survive a power cut."""
        ...


@dataclass(slots=True)
class _Open:
    """A running host: what it was opened with, and the bytes it holds."""

    engine: Engine
    host: Host
    memory: int


class Pool:
    """Serves requests of any number of callers. `memory` bounds what is resident, in bytes (None: what the machine has).

    Hosts stay open between submissions until something else needs their room, or `close`.
    """

    def __init__(self, resolver: Resolver, store: Drafts, *, memory: int | None = None) -> None:
        self.ledger = Ledger()
        self._resolver = resolver
        self._store = store
        self._memory = memory
        self._open: dict[str, _Open] = {}  # in order of last use
        self._flying: dict[str, asyncio.Future[Draft]] = {}
        self._turn = asyncio.Lock()  # one host works at a time: more would share the same cores

    def plan(self, requests: Sequence[Request]) -> Plan:
        """The order in which `requests` would be served if none were in the store."""
        return make_plan(requests, self._resolver.host_of, self._open)

    async def submit(
        self, requests: Sequence[Request], still_wanted: Callable[[Request], bool] = lambda _: True
    ) -> AsyncIterator[Item]:
        """Yield (request id, delta or draft) as they land; exactly one draft per request, keyed, in any order.

        The store is looked into first; a key is asked once however many want it; a draft is in the store before it is
        yielded. `still_wanted` is asked when a request's turn comes: if it says no, its draft is `cancelled`.
        Raises SourceError, MemoryBudgetError or ConfigError before the first call if a host cannot be prepared; a host
        that does not start, or dies twice, gives failed drafts. Closing the iterator cancels what is under way.
        """
        out: asyncio.Queue[Item | None] = asyncio.Queue()
        work = asyncio.create_task(self._serve(requests, still_wanted, out))
        work.add_done_callback(lambda _: out.put_nowait(None))
        try:
            while (item := await out.get()) is not None:
                yield item
            await work
        finally:
            work.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await work

    async def close(self) -> None:
        """End every host."""
        async with self._turn:
            for name in list(self._open):
                await self._close(name)

    async def _serve(
        self, requests: Sequence[Request], still_wanted: Callable[[Request], bool], out: asyncio.Queue[Item | None]
    ) -> None:
        keyed: dict[str, list[Request]] = {}
        for request in requests:
            prints = {stream.expert: self._resolver.fingerprint(stream.expert) for stream in request.streams}
            keyed.setdefault(draft_key(request, prints), []).append(request)
        stored = await self._store.get(list(keyed))

        def land(draft: Draft) -> None:
            for request in keyed[draft.key]:
                self.ledger.charge(draft)
                out.put_nowait((request.id, draft))
                draft = replace(draft, cached=draft.ok)  # the same work wanted twice is paid once

        for draft in stored.values():
            land(draft)
        missing = [key for key in keyed if key not in stored]
        others = {key: self._flying[key] for key in missing if key in self._flying}
        mine = {keyed[key][0].id: key for key in missing if key not in others}
        for key in mine.values():
            self._flying[key] = asyncio.get_running_loop().create_future()
        try:
            leaders = [keyed[key][0] for key in mine.values()]
            await self._work(leaders, mine, still_wanted, land, out)
        finally:
            for key in mine.values():
                flight = self._flying.pop(key)
                if not flight.done():
                    flight.cancel()
        for key, flight in others.items():
            try:
                land(replace(await asyncio.shield(flight), cached=True))
            except asyncio.CancelledError:
                if not flight.cancelled():
                    raise
                # Whoever was asking gave up; nothing is stored yet, so it is our turn.
                await self._serve(keyed[key], still_wanted, out)

    async def _work(
        self,
        leaders: list[Request],
        keys: dict[str, str],
        still_wanted: Callable[[Request], bool],
        land: Callable[[Draft], None],
        out: asyncio.Queue[Item | None],
    ) -> None:
        """Serve the requests that nobody has yet, host by host."""
        plan = self.plan(leaders)
        for batch in plan.batches:
            self._refuse_what_cannot_fit(batch, self._resolver.estimate(batch.host, batch.adapters))
        # Every file is there and checked before the first token is spent.
        hosts = {
            batch.host: await asyncio.to_thread(self._resolver.host, batch.host, batch.adapters)
            for batch in plan.batches
        }
        for batch in plan.batches:  # of what had to be fetched the size was not known before
            self._refuse_what_cannot_fit(batch, hosts[batch.host].memory)

        async def journal(request: Request, draft: Draft) -> None:
            usage = replace(draft.usage, cost=self._resolver.cost(request, draft.usage))
            draft = replace(draft, key=keys[request.id], usage=usage)
            kill_point("pool.before_journal")
            if draft.ok:
                await self._store.put(draft, request)
            flight = self._flying.get(draft.key)
            if flight is not None and not flight.done():
                flight.set_result(draft)
            land(draft)

        for batch in plan.batches:
            try:
                async with self._turn, asyncio.TaskGroup() as landing:
                    wanted: list[Request] = []
                    for request in batch.requests:
                        if still_wanted(request):
                            wanted.append(request)
                        else:
                            landing.create_task(journal(request, Draft("", "", "cancelled")))
                    async for request, piece in self._ask(batch, hosts[batch.host], wanted):
                        if isinstance(piece, Delta):
                            out.put_nowait((request.id, piece))
                        else:
                            landing.create_task(journal(request, piece))
            except BaseExceptionGroup as group:
                raise _first(group) from None  # what went wrong, not that it did so among others

    async def _ask(
        self, batch: Batch, host: Host, requests: list[Request]
    ) -> AsyncIterator[tuple[Request, Delta | Draft]]:
        """Put `requests` to their host. A host that dies is opened once more for what it left unanswered."""
        waiting = {request.id: request for request in requests}
        for attempt in (1, 2):
            if not waiting:
                return
            died: dict[str, Draft] = {}
            try:
                engine = await self._opened(batch, host)
            except EngineError as why:
                for request in waiting.values():
                    yield request, _failed(Failure("host_failed", str(why), attempt), host)
                return
            async with contextlib.aclosing(engine.generate(list(waiting.values()))) as pieces:  # type: ignore[type-var]
                async for name, piece in pieces:
                    if isinstance(piece, Delta):
                        yield waiting[name], piece
                    elif piece.error is not None and piece.error.kind == "host_died":
                        died[name] = piece
                    else:
                        yield waiting.pop(name), piece
            if died:
                await self._close(batch.host)
        for name, request in waiting.items():
            yield request, died[name]

    def _refuse_what_cannot_fit(self, batch: Batch, needed: int) -> None:
        """Raise MemoryBudgetError if the batch's host would not fit even alone. One that is open has its room."""
        if self._serving(batch) is None:
            held = sum(running.memory for running in self._open.values())
            where = self._resolver.where(batch.host)
            refuse_what_cannot_fit(batch.host, needed, self._memory, where, held=held)

    def _serving(self, batch: Batch) -> Engine | None:
        """The engine of the batch's host, if it is open with every adapter of the batch."""
        have = self._open.get(batch.host)
        names = {adapter.name for adapter in have.host.adapters} if have else set()
        return have.engine if have and names.issuperset(batch.adapters) else None

    async def _opened(self, batch: Batch, host: Host) -> Engine:
        """The host's engine with every adapter of the batch, opened now if need be, after making room for it."""
        serving = self._serving(batch)
        if serving is not None:
            self._open[batch.host] = self._open.pop(batch.host)
            return serving
        have = self._open.get(batch.host)
        if have is not None:
            # llama.cpp names its adapters when it starts: reopen with those it had and those it needs now, if they fit.
            names = sorted({adapter.name for adapter in have.host.adapters} | set(batch.adapters))
            await self._close(batch.host)
            wider = await asyncio.to_thread(self._resolver.host, batch.host, names)
            if self._memory is None or wider.memory <= self._memory:
                host = wider
        await self._make_room(batch.host, host.memory)
        engine = self._resolver.engine(batch.host)
        kill_point("pool.before_open")
        measured = await engine.open(host)
        self.ledger.loads += 1
        self.ledger.weights.add(self._resolver.weights(batch.host))
        self._open[batch.host] = _Open(engine, host, max(host.memory, measured.memory))
        if self._memory is not None:  # it may be larger than was thought
            await self._make_room(batch.host, measured.memory)
        return engine

    async def _make_room(self, host: str, needed: int) -> None:
        """Close other hosts until `host` fits beside those that stay."""
        resident = {name: running.memory for name, running in self._open.items() if name != host}
        for name in to_evict(resident, needed, self._memory):
            await self._close(name)

    async def _close(self, name: str) -> None:
        await self._open.pop(name).engine.close()


def _failed(failure: Failure, host: Host) -> Draft:
    return Draft("", "", "error", served_by=host.name, error=failure)


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    why = group.exceptions[0]
    return _first(why) if isinstance(why, BaseExceptionGroup) else why
