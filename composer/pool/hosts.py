"""Which hosts are open: opened with room made before, measured after, and never more bytes than the budget."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from composer.engines.base import Engine
from composer.errors import ComposerError, EngineError
from composer.faults import kill_point
from composer.pool.ledger import Ledger
from composer.pool.residency import Gdsf, Held, to_evict
from composer.pool.resolver import Resolver, model_of
from composer.pool.speeds import Speeds
from composer.registry.memory import limit_of, refuse_what_cannot_fit
from composer.types import AdapterFile, Host

_PER_BYTE = 1e-9  # seconds to load, before any host was opened


@dataclass(slots=True)
class Running:
    """An open host: what it was opened with, its `adapters` now, its bytes, and whether it was opened before its turn."""

    engine: Engine
    host: Host
    adapters: set[str]
    held: Held
    ahead: bool = False


class Hosts:
    """Opens and closes the hosts of a pool. `memory` bounds what is resident, in bytes (None: what the machine has)."""

    def __init__(self, resolver: Resolver, ledger: Ledger, *, memory: int | None, speeds: Speeds | None = None) -> None:
        self.memory = memory
        self.loads: dict[str, int] = {}
        self.opening: dict[str, float] = {}  # seconds spent on it
        self._resolver = resolver
        self._ledger = ledger
        self._open: dict[str, Running] = {}
        self._promised: dict[str, int] = {}  # bytes of hosts being opened
        self._changed = asyncio.Event()
        self._ahead: dict[str, asyncio.Task[None]] = {}
        self._prepared: dict[tuple[str, tuple[str, ...]], Host] = {}
        self._grown: dict[str, int] = {}  # bytes that a host was measured above its estimate
        self._seconds: dict[str, float] = {}  # to open, as measured last
        self._sizes: dict[str, int] = {}  # bytes, as estimated
        for name, speed in speeds.hosts.items() if speeds else ():
            self._seconds[name], self._sizes[name] = speed.load, speed.memory
        self._local: set[str] = set()  # models that take memory here
        self.expected: dict[
            str, tuple[str, ...]
        ] = {}  # adapters that will be asked once others have answered, by model
        self._gdsf = Gdsf()
        self._room = asyncio.Lock()

    # Before anything is opened

    def refuse(self, name: str, needs: Collection[frozenset[str]]) -> None:
        """Raise MemoryBudgetError if the host would not fit even alone with one of `needs`, sets of adapters. What is
        open has its room."""
        if not self._has_room(name, wide := frozenset[str]().union(*needs), self.estimate(name, sorted(wide))):
            for adapters in needs:
                if not self.is_open(name, adapters):
                    self._refuse(name, self.estimate(name, sorted(adapters)))

    async def prepare(self, name: str, needs: Collection[frozenset[str]]) -> None:
        """Fetch and check the host's file and adapters. Raises SourceError or ConfigError; MemoryBudgetError, as
        `refuse`, if it is larger than was thought before the file was here."""
        wide = frozenset[str]().union(*needs)
        if not self._has_room(name, wide, (await self._host(name, wide)).memory):
            for adapters in needs:
                if not self.is_open(name, adapters):
                    self._refuse(name, (await self._host(name, adapters)).memory)

    def _has_room(self, name: str, adapters: Collection[str], size: int) -> bool:
        limit = self.limit()
        return self.is_open(name, adapters) or limit is None or size <= limit

    def is_open(self, name: str, adapters: Collection[str] = ()) -> bool:
        """Whether the host is open, with these adapters."""
        running = self._open.get(name)
        return running is not None and running.adapters.issuperset(adapters)

    def is_local(self, name: str) -> bool:
        """Whether the prepared host takes memory here, and with it a part of this machine's time."""
        return model_of(name) in self._local

    def load_seconds(self, name: str) -> float:
        """What opening the host costs: 0 if it is open, else as measured last, else by its size as others took."""
        if name in self._open:
            return 0.0
        model = model_of(name)
        if model in self._seconds:
            return self._seconds[model]
        if model not in self._sizes:
            self._sizes[model] = self.estimate(model, ())
        known = sum(self._sizes.get(other, 0) for other in self._seconds)
        return self._sizes[model] * (sum(self._seconds.values()) / known if known else _PER_BYTE)

    @property
    def resident(self) -> dict[str, int]:
        """Bytes per open host."""
        return {name: running.held.memory for name, running in self._open.items()}

    @property
    def fetching(self) -> bool:
        """Whether a host is being opened before its turn."""
        return bool(self._ahead)

    def fits_beside(self, name: str, working: Collection[str]) -> bool:
        """Whether the host could be open together with those that are `working`."""
        sizes = self.resident
        held = {other: Held(sizes.get(other, self.estimate(model_of(other), ()))) for other in working}
        needed = self.estimate(model_of(name), ())
        return name in self._open or to_evict(held, needed, self.limit(), pinned=held) is not None

    # Opening and closing

    async def open(
        self,
        name: str,
        needed: Collection[str],
        wished: Collection[str],
        *,
        upcoming: Sequence[str],
        busy: Collection[str],
    ) -> Running:
        """The host with the adapters that are `needed`, and the `wished` ones if they fit too.

        Others go to make room, but none that is `busy` (a view that follows what is): if there is none without them, this
        waits until one of them is done. `upcoming` hosts have work waiting. Raises EngineError if it does not start,
        MemoryBudgetError if it does not fit even alone.
        """
        wished = (*wished, *self.expected.get(model_of(name), ()))
        if name in self._ahead:
            await asyncio.wait([self._ahead[name]])  # what failed there is tried again in earnest
        running = self._open.get(name)
        if running is not None and not running.adapters.issuperset(needed):
            running = await self._widen(name, running, needed, wished)
            if running is None:
                wished = [*wished, *(adapter.name for adapter in self._open[name].host.adapters)]
                await self.close(name)
        while running is None:
            host = await self._fitting(name, needed, wished)
            while not await self._make_room(name, host.memory, upcoming, busy):
                await self._changed.wait()
            running = await self._start(name, host, needed, wished, busy)
        running.ahead = False
        cost = self._seconds.get(model_of(name), 1.0)
        priority = self._gdsf.used(name, running.held.memory, cost)
        running.held = Held(running.held.memory, cost, priority)
        return running

    def open_ahead(
        self,
        name: str,
        needed: Collection[str],
        wished: Collection[str],
        *,
        upcoming: Sequence[str],
        busy: Collection[str],
        evict: bool,
    ) -> None:
        """Begin to open a host before its turn, if there is room without closing anything that is needed; without
        `evict`, without closing anything: what is open may be needed again, and nobody knows how soon."""

        async def opening() -> None:
            try:
                host = await self._fitting(name, needed, wished)
                async with self._room:
                    gone = self._to_evict(name, host.memory, upcoming, busy)
                    if gone is None or not set(gone).isdisjoint(upcoming) or (gone and not evict):
                        return
                    await self._evict(gone)
                    self._promised[name] = host.memory
                await self._start(name, host, needed, wished, busy, ahead=True)
            except ComposerError:
                pass  # it may be another's turn by then; if not, whoever opens it hears why
            finally:
                self._promised.pop(name, None)
                self._ahead.pop(name, None)

        self._ahead[name] = asyncio.create_task(opening())

    async def close(self, name: str) -> None:
        """Close a host, if it is open."""
        async with self._room:
            await self._shut(name)

    def changed(self) -> None:
        """Something ended: whoever waits for room looks again."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def aclose(self) -> None:
        """Close everything, also what is being opened."""
        await self._stop_ahead()
        for name in list(self._open):
            await self.close(name)

    # Parts

    async def _host(self, name: str, adapters: Collection[str]) -> Host:
        key = (model_of(name), tuple(sorted(adapters)))
        if key not in self._prepared:
            self._prepared[key] = await asyncio.to_thread(self._resolver.host, *key)
        host = self._prepared[key]
        if host.memory > 0:
            self._local.add(host.name)
        return replace(host, memory=host.memory + self._grown.get(key[0], 0))

    async def _fitting(self, name: str, needed: Collection[str], wished: Collection[str]) -> Host:
        """With all the wished adapters, or if that is too large with what is needed alone."""
        wide = await self._host(name, {*needed, *wished})
        limit = self.limit()
        return wide if limit is None or wide.memory <= limit else await self._host(name, needed)

    async def _widen(
        self, name: str, running: Running, needed: Collection[str], wished: Collection[str]
    ) -> Running | None:
        """Attach what is missing to an engine that takes adapters while it runs; None where it does not. Those in the way
        go, the last of the `wished` first, and what nobody wishes before them."""
        caps = running.engine.caps
        if caps.adapters != "live" or len(needed) > (caps.adapter_slots or len(needed)):
            return None
        files = {adapter.name: adapter for adapter in (await self._host(name, needed)).adapters}
        if not files.keys() >= set(needed) - running.adapters:
            return None  # one stands on a base that was opened beside, and those are attached where it opens
        worth = {adapter: -place for place, adapter in enumerate(wished)}
        spare = sorted(running.adapters.difference(needed), key=lambda one: (-worth.get(one, -len(worth)), one))
        for adapter in sorted(needed):
            if adapter in running.adapters:
                continue
            if caps.adapter_slots is not None and len(running.adapters) >= caps.adapter_slots:
                running.adapters.discard(gone := spare.pop())
                await running.engine.detach(gone)
            with contextlib.suppress(EngineError):  # its own requests fail and say why, nobody else's
                await running.engine.attach(files[adapter])
            running.adapters.add(adapter)
        return running

    async def _make_room(self, name: str, needed: int, upcoming: Sequence[str], busy: Collection[str]) -> bool:
        """Promise the host its bytes, after closing what has to go; False while those that are busy leave no room."""
        async with self._room:
            gone = self._to_evict(name, needed, upcoming, busy)
            if gone is None and self._ahead:
                await self._stop_ahead()  # a guess that was wrong delays nobody
                gone = self._to_evict(name, needed, upcoming, busy)
            if gone is None:
                self._refuse(name, needed)
                if self._promised or self._taken({*busy} - {name}):
                    return False
                gone = [other for other in self._open if other not in busy]  # without a budget the bound moves
            await self._evict(gone)
            self._promised[name] = needed
            return True

    async def _start(
        self,
        name: str,
        host: Host,
        needed: Collection[str],
        wished: Collection[str],
        busy: Collection[str],
        *,
        ahead: bool = False,
    ) -> Running | None:
        """Open the host in the room that was made for it; None if it proved too large for that and is closed again."""
        model = model_of(name)
        try:
            engine = self._resolver.engine(model)
            host = replace(host, adapters=_first(host.adapters, needed, wished, engine.caps.adapter_slots))
            kill_point("pool.before_open")
            try:
                measured = await engine.open(host)
            except BaseException:
                await _end(engine)
                raise
        finally:
            self._promised.pop(name, None)
            self.changed()
        self._ledger.loads += 1
        self._ledger.ahead += ahead
        self._ledger.weights.add(self._resolver.weights(model))
        self.loads[name] = self.loads.get(name, 0) + 1
        self.opening[name] = self.opening.get(name, 0.0) + measured.seconds
        self._seconds[model] = measured.seconds
        self._sizes[model] = host.memory
        # The estimate stays where it is larger: the cache of a host that has answered nothing may not be touched yet.
        memory = max(host.memory, measured.memory)
        self._grown[model] = self._grown.get(model, 0) + memory - host.memory
        adapters = {adapter.name for one in (host, *host.beside) for adapter in one.adapters}
        running = self._open[name] = Running(engine, host, adapters, Held(memory, measured.seconds), ahead)
        if self.memory is not None and memory > host.memory and not await self._fits_after_all(name, busy, ahead=ahead):
            return None
        return running

    async def _fits_after_all(self, name: str, busy: Collection[str], *, ahead: bool) -> bool:
        """A host is larger than was thought: others give way to it, but it gives way to who is busy, and to all if it
        came before its turn."""
        async with self._room:
            gone = self._to_evict("", 0, (), [name, *busy])
            if gone is None or (gone and ahead):
                await self._shut(name)
                return False
            await self._evict(gone)
            return True

    async def _evict(self, names: Sequence[str]) -> None:
        for name in names:
            self._gdsf.gone(self._open[name].held)
        await self._shut(*names)

    async def _shut(self, *names: str) -> None:
        """Close hosts. Only whoever has the lock of the room may, so that nobody counts on bytes that are not free; and
        all leave the table before the first is closed, so that no turn begins with one that is going."""
        leaving = [running for name in names if (running := self._open.pop(name, None)) is not None]
        self._ledger.wasted += sum(running.ahead for running in leaving)
        try:
            await _end(*(running.engine for running in leaving))
            for running in leaving:
                self._ledger.reuse(getattr(running.engine, "reuse", None))
        finally:
            self.changed()

    async def _stop_ahead(self) -> None:
        for task in (tasks := list(self._ahead.values())):
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*tasks, return_exceptions=True)

    def _held(self) -> dict[str, Held]:
        """What takes memory: what is open, and what is being opened."""
        opening = {f"{name} (opening)": Held(size) for name, size in self._promised.items()}
        return {name: running.held for name, running in self._open.items()} | opening

    def _to_evict(self, name: str, needed: int, upcoming: Sequence[str], busy: Collection[str]) -> list[str] | None:
        held = self._held()
        pinned = {*busy, *(other for other in held if other not in self._open)} - {name}
        return to_evict(held, needed, self.limit(), upcoming=upcoming, pinned=pinned)

    def _taken(self, names: Collection[str]) -> int:
        return sum(running.held.memory for name, running in self._open.items() if name in names)

    def limit(self) -> int | None:
        """Bytes that may be resident; None where nobody knows."""
        return limit_of(self.memory, self._taken(self._open))

    def estimate(self, name: str, adapters: Sequence[str]) -> int:
        """Bytes of the host with these adapters: as measured where it was larger than estimated."""
        prepared = self._prepared.get((name, tuple(adapters)))
        size = prepared.memory if prepared else self._resolver.estimate(name, adapters)
        return size + self._grown.get(name, 0)

    def _refuse(self, name: str, needed: int) -> None:
        model = model_of(name)
        where = self._resolver.where(model)
        refuse_what_cannot_fit(model, needed, self.memory, where, held=self._taken(self._open))


async def _end(*engines: Engine) -> None:
    """Close them. Whoever is cancelled meanwhile, however often, waits for it all the same: no process is left behind."""
    closing, cancelled = asyncio.gather(*(engine.close() for engine in engines)), False
    while not closing.done():
        try:
            await asyncio.wait([closing])
        except asyncio.CancelledError:
            cancelled = True
    closing.result()
    if cancelled:
        raise asyncio.CancelledError


def _first(
    adapters: Sequence[AdapterFile], needed: Collection[str], wished: Collection[str], slots: int | None
) -> tuple[AdapterFile, ...]:
    """As many adapters as the engine has room for, those that are needed first, then in the order of the wishes."""
    place = {name: at for at, name in enumerate(wished)}
    return tuple(sorted(adapters, key=lambda one: (one.name not in needed, place.get(one.name, len(place))))[:slots])
