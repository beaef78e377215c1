"""A machine of scripted hosts that break in every way, and watches what the pool does with them (R31).

Texts are made of what was asked, so that a mixed-up one is seen. What must never happen is entered under `wrong`: raised
inside an engine it would only be another failure for the pool to survive.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from composer.engines.base import Engine
from composer.errors import EngineError, SourceError, StoreError
from composer.types import (
    AdapterFile,
    Caps,
    Delta,
    Draft,
    Failure,
    Fingerprint,
    Host,
    Measured,
    Request,
    Usage,
    draft_key,
)
from evals.faults.nature import CLOSING, Nature

SIZES = {"a": 100, "b": 60, "c": 30, "far": 0}
EXPERTS = ("a", "a.x", "a.y", "b", "b.x", "c", "far")
ADAPTER = 5  # bytes of one that a host is opened with
LONGEST = 120.0  # seconds of a call that has no deadline
_PRINTS = {name: Fingerprint(name.partition(".")[0], name, None, None, "scripted", 2048) for name in EXPERTS}


def text_of(request: Request) -> str:
    """What its experts answer."""
    said = " and ".join(f"{stream.expert} on {stream.prompt}" for stream in request.streams)
    return f"sample {request.sampling.seed}: {said}"


def key_of(request: Request) -> str:
    """The key of its draft."""
    return draft_key(request, {stream.expert: _PRINTS[stream.expert] for stream in request.streams})


class Machine:
    """The resolver of its experts: `x.y` is the adapter y on the host x."""

    def __init__(self, nature: Nature, chance: random.Random) -> None:
        self.nature, self.chance = nature, chance
        self.wrong: list[str] = []
        self.history: list[tuple[float, str, str]] = []
        self.seen = Counter[str]()  # faults, by kind
        self.open: dict[ScriptedHost, int] = {}  # bytes
        self.stored: Sequence[Mapping[str, Draft]] = ()  # what nobody has to be asked again: there, or on its way
        self.waiting = Counter[str]()  # how many wait for a key
        self.flying = Counter[str]()  # how many hosts write it
        self.deaths = Counter[str]()  # how many have died while they did, since somebody came to wait for it, or went
        self._above: float | None = None  # since when the budget is exceeded, by what nobody could know
        self.loop = asyncio.get_running_loop()

    def note(self, what: str, detail: str) -> None:
        """Write down what happens."""
        self.history.append((self.loop.time(), what, detail))

    def blame(self, what: str) -> None:
        """Something that must never happen."""
        self.note("WRONG", what)
        self.wrong.append(what)

    def expect(self, key: str) -> None:
        """Somebody waits for this key, from now on: a slow reader may have been told long ago what he has not read."""
        self.waiting[key] += 1
        self.deaths[key] = 0

    def forget(self, key: str) -> None:
        """Somebody who waited for this key waits no longer."""
        self.waiting[key] -= 1
        self.deaths[key] = 0

    def strikes(self, fault: str, share: float) -> bool:
        """Whether that fault happens now."""
        struck = share > 0 and self.chance.random() < share
        self.seen[fault] += struck
        return struck

    def weigh(self) -> None:
        """Look at the memory after every change. A host that is larger than anybody could know has to make room at
        once: what goes takes its time to close, and no more."""
        total, now = sum(self.open.values()), self.loop.time()
        if total <= self.nature.memory:
            self._above = None
        elif not self.nature.grows:
            self.blame(f"{total} bytes are held, {self.nature.memory} are allowed")
        elif self._above is None:
            self._above = now
        elif now - self._above > 2 * CLOSING:
            self.blame(f"{total} bytes are held since {now - self._above:g} s, {self.nature.memory} are allowed")

    def size(self, name: str, adapters: int) -> int:
        """Bytes of a host, as far as that is known."""
        return SIZES[name] and SIZES[name] + ADAPTER * adapters

    # What the pool asks of a registry

    def host_of(self, expert: str) -> str:
        """The part before the point."""
        return expert.partition(".")[0]

    def host(self, name: str, adapters: Sequence[str]) -> Host:
        """Files are looked for, and sometimes not there."""
        if self.strikes("missing", self.nature.missing):
            raise SourceError(f"the file of {name} is not there")
        files = tuple(AdapterFile(adapter, Path(adapter), "0" * 64) for adapter in adapters)
        return Host(name, "scripted", adapters=files, memory=self.size(name, len(adapters)))

    def estimate(self, name: str, adapters: Sequence[str]) -> int:
        """As `host` says."""
        return self.size(name, len(adapters))

    def weights(self, name: str) -> str:
        """One file per host."""
        return name

    def where(self, name: str) -> str:
        """For messages."""
        return f"experts.yaml:1 (models.{name})"

    def fingerprint(self, expert: str) -> Fingerprint:
        """One per expert."""
        return _PRINTS[expert]

    def replicas(self, name: str) -> int:
        """The same for all."""
        return self.nature.copies

    def engine(self, name: str) -> Engine:
        """A new one."""
        return ScriptedHost(self)

    def cost(self, request: Request, usage: Usage) -> float | None:
        """Nothing has a price here."""
        return None


class _Died(Exception):
    pass


class ScriptedHost:
    """One engine: open once, asked while it is open, closed."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.name = ""
        self.adapters: set[str] = set()
        self._flying: list[str] = []  # adapters of what is in flight
        self._waiting: dict[asyncio.Future[None], None] = {}
        self._serves = self._dead = False
        self._killed: asyncio.TimerHandle | None = None

    @property
    def caps(self) -> Caps:
        """The machine's."""
        return self.machine.nature.caps

    async def open(self, host: Host) -> Measured:
        """Takes its bytes at once, and its time; dies of it, or later."""
        machine, kind = self.machine, self.machine.nature
        if self.name:
            machine.blame(f"an engine of {self.name} is opened twice")
        self.name, self.adapters = host.name, {adapter.name for adapter in host.adapters}
        if len(self.adapters) > (self.caps.adapter_slots or len(self.adapters)):
            machine.blame(f"{self.name} is opened with more adapters than it takes")
        machine.note("open", f"{self.name} {sorted(self.adapters)}")
        machine.open[self] = host.memory
        machine.weigh()
        seconds = kind.opening * machine.chance.choice([0.5, 1.0, 2.0])
        await asyncio.sleep(seconds)
        if machine.strikes("refuses", kind.refuses):
            raise EngineError("it does not start", where=self.name)
        if host.memory:
            machine.open[self] = max(
                machine.open[self], self.machine.size(self.name, len(self.adapters)) + kind.grows.get(self.name, 0)
            )
            machine.weigh()
        self._serves = True
        if machine.strikes("killed", kind.killed):
            self._killed = machine.loop.call_later(machine.chance.random() * 20 * (kind.word + 0.01), self._die)
        return Measured(seconds, machine.open[self])

    async def attach(self, adapter: AdapterFile) -> None:
        """Only where the caps say so, and while there is room."""
        self.adapters.add(adapter.name)
        if self.caps.adapters != "live" or len(self.adapters) > (self.caps.adapter_slots or len(self.adapters)):
            self.machine.blame(f"{self.name} is given an adapter it cannot take")
        await asyncio.sleep(self.machine.nature.word)

    async def detach(self, name: str) -> None:
        """Forget it."""
        self.adapters.remove(name)
        await asyncio.sleep(self.machine.nature.word)

    async def generate(self, requests: Sequence[Request]) -> AsyncIterator[tuple[str, Delta | Draft]]:
        """A word after the other, until something happens."""
        [request] = requests
        machine, lane = self.machine, request.streams[0].adapter or ""
        machine.note("ask", f"{self.name} {request.id}")
        self._check(request, lane)
        self._flying.append(lane)
        machine.flying[key := key_of(request)] += 1
        try:
            async for piece in self._write(request):
                if isinstance(piece, Draft):
                    machine.note("end", f"{request.id} {piece.error.kind if piece.error else piece.stop}")
                    machine.deaths[key] += piece.error is not None and piece.error.kind == "host_died"
                yield request.id, piece
        finally:
            self._flying.remove(lane)
            machine.flying[key] -= 1

    async def close(self) -> None:
        """Gives its bytes back."""
        self._serves = False
        self._die()
        if self._killed is not None:
            self._killed.cancel()
        if self not in self.machine.open:
            return
        self.machine.note("close", self.name)
        try:
            await asyncio.sleep(self.machine.nature.closing)
        except asyncio.CancelledError:
            self.machine.blame(f"the end of {self.name} is cut short")
            raise
        finally:
            self.machine.open.pop(self, None)
            self.machine.weigh()

    def _check(self, request: Request, lane: str) -> None:
        machine, caps = self.machine, self.caps
        if not self._serves:
            machine.blame("only an open host is asked")
        if self.name != machine.host_of(request.streams[0].expert):
            machine.blame(f"{self.name} is asked for {request.streams[0].expert}")
        if not self.adapters.issuperset(stream.adapter for stream in request.streams if stream.adapter):
            machine.blame(f"{self.name} is asked for adapters it does not have")
        if len(self._flying) >= caps.slots:
            machine.blame(f"{self.name} is asked for more than its slots hold")
        if not caps.mixed_adapters and any(other != lane for other in self._flying):
            machine.blame(f"{self.name} is asked for two adapters in one batch")
        if request.deadline is not None and request.deadline <= machine.loop.time():
            machine.blame(f"{self.name} is asked for what is late already")
        if SIZES[self.name]:
            working = {host for host in machine.open if host._flying and SIZES[host.name]} | {self}
            if len(working) > machine.nature.at_once:
                machine.blame(f"{len(working)} hosts compute at once, {machine.nature.at_once} are allowed")
        key = key_of(request)
        if any(key in drafts for drafts in machine.stored):
            machine.blame(f"{request.id} is asked although its draft is in the store, or on its way there")
        if machine.deaths[key] > 1:
            machine.blame(f"{request.id} is asked although two hosts have died of it")
        if machine.flying[key]:
            machine.blame(f"{request.id} is asked although its draft is being written")
        if not machine.waiting[key]:
            machine.blame(f"{request.id} is asked although nobody waits for it")

    async def _write(self, request: Request) -> AsyncIterator[Delta | Draft]:
        machine, kind = self.machine, self.machine.nature
        end = machine.loop.time() + LONGEST
        if request.deadline is not None and not kind.deaf:
            end = min(end, request.deadline)
        pace = kind.word * (20 if machine.strikes("slow", kind.slow) else 1)
        hangs = machine.strikes("hangs", kind.hangs)
        stop = machine.chance.randint(0, 2) if machine.strikes("cut", kind.cut) else None
        words, at = text_of(request).split(" "), 0
        try:
            for place, word in enumerate(words):
                await self._pause(LONGEST * 2 if hangs and place == 1 else pace, end)
                if machine.strikes("deadly", kind.deadly / len(words)):
                    self._die()
                    raise _Died
                if machine.strikes("bug", kind.bug / len(words)):
                    raise ValueError("a bug of the engine")
                if place == stop:
                    yield Draft("", " ".join(words[:place]), "length", Usage(3, place, passes=place))
                    return
                if request.deltas:
                    yield Delta(piece := word if place == 0 else f" {word}", at)
                    at += len(piece)
        except _Died:
            yield Draft("", "", "error", error=Failure("host_died", "gone"))
        except TimeoutError:
            yield Draft("", "", "error", error=Failure("timeout", "no whole reply in time"))
        else:
            if machine.strikes("noise", kind.noise):
                yield Draft("", "", "error", error=Failure("bad_response", "noise"))
            else:
                yield Draft("", " ".join(words), "stop", Usage(3, len(words), passes=len(words)), served_by=self.name)

    async def _pause(self, seconds: float, end: float) -> None:
        """So many seconds, but no longer than until the `end`, and only while the host lives."""
        if self._dead:
            raise _Died
        loop = self.machine.loop
        late = loop.time() + seconds > end
        waiter = loop.create_future()
        timer = loop.call_at(min(loop.time() + seconds, end), _wake, waiter)
        self._waiting[waiter] = None
        try:
            await waiter
        finally:
            timer.cancel()
            del self._waiting[waiter]
        if late:
            raise TimeoutError

    def _die(self) -> None:
        self._dead = True
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_exception(_Died())


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


class Store:
    """Keeps drafts in memory, for SQLite's own thread knows no simulated clock (R1, R2 and R16 are about the store).

    What it has acknowledged is kept in a crash; of what is on its way then, some is.
    """

    def __init__(self, machine: Machine, drafts: dict[str, Draft]) -> None:
        self.drafts = dict(drafts)
        self._machine = machine
        self._coming: dict[str, Draft] = {}
        machine.stored = self.drafts, self._coming

    async def get(self, keys: Sequence[str]) -> dict[str, Draft]:
        """As the store of files: marked as cached."""
        await self._work()
        return {key: replace(self.drafts[key], cached=True) for key in keys if key in self.drafts}

    async def put(self, draft: Draft, request: Request) -> None:
        """In after a while."""
        self._coming[draft.key] = draft
        try:
            await self._work()
        finally:
            del self._coming[draft.key]
        self.drafts[draft.key] = draft

    def crashed(self) -> dict[str, Draft]:
        """What is found after a crash at this moment."""
        lucky = {key: draft for key, draft in self._coming.items() if self._machine.chance.random() < 0.5}
        return self.drafts | lucky

    async def _work(self) -> None:
        machine = self._machine
        await asyncio.sleep(machine.nature.store * machine.chance.random())
        if machine.strikes("full", machine.nature.full):
            raise StoreError("the disk is full")
