"""A registry of scripted hosts, for the tests of the pool."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from composer.engines.base import Engine
from composer.engines.common import prompt_text
from composer.engines.scripted import ScriptedEngine
from composer.pool.pool import Pool
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
    Stream,
    Usage,
)

MIB = 2**20
HOSTS = {"base": "small", "sums": "small", "sorts": "small", "law": "large", "tax": "third"}


class Resolver:
    """A registry of three models, 100 MiB each, one engine instance per opening."""

    def __init__(
        self, answer: Callable[[Request], str | Draft | Failure] = lambda r: f"{r.streams[0].prompt}!"
    ) -> None:
        self.answer = answer
        self.engines: list[ScriptedEngine] = []
        self.opened: list[tuple[str, tuple[str, ...]]] = []

    def host_of(self, expert: str) -> str:
        return HOSTS[expert]

    def host(self, name: str, adapters: Sequence[str]) -> Host:
        files = tuple(AdapterFile(adapter, Path(adapter), "0" * 64) for adapter in adapters)
        self.opened.append((name, tuple(adapters)))
        return Host(name, "scripted", adapters=files, memory=100 * MIB)

    def estimate(self, name: str, adapters: Sequence[str]) -> int:
        return 100 * MIB

    def weights(self, name: str) -> str:
        return name

    def where(self, name: str) -> str:
        return f"experts.yaml:1 (models.{name})"

    def fingerprint(self, expert: str) -> Fingerprint:
        return Fingerprint(HOSTS[expert], expert, None, None, "scripted", 2048)

    def engine(self, name: str) -> Engine:
        self.engines.append(ScriptedEngine(self.answer))
        return self.engines[-1]

    def cost(self, request: Request, usage: Usage) -> float | None:
        return None

    def batches(self) -> list[tuple[str, ...]]:
        return [batch for engine in self.engines for batch in engine.batches]


def ask(name: str, expert: str, prompt: str) -> Request:
    return Request(name, (Stream(expert, prompt, expert if expert in ("sums", "sorts") else None),), arm=expert)


async def collect(pool: Pool, requests: Sequence[Request], **options: Callable[[Request], bool]) -> dict[str, Draft]:
    found: dict[str, Draft] = {}
    async for name, piece in pool.submit(requests, **options):
        if not isinstance(piece, Delta):
            assert name not in found
            found[name] = piece
    return found


class Sized(Resolver):
    """Hosts of the `sizes`, which show only when they are fetched if they are not `here`, and of which the `measured`
    ones run larger; in MiB."""

    def __init__(self, sizes: dict[str, int], measured: dict[str, int] | None = None, *, here: bool = True) -> None:
        super().__init__()
        self.sizes, self.measured, self.here = sizes, measured or {}, here

    def estimate(self, name: str, adapters: Sequence[str]) -> int:
        return (self.sizes[name] + 10 * len(adapters)) * MIB if self.here else 0

    def host(self, name: str, adapters: Sequence[str]) -> Host:
        size = self.sizes[name] + 10 * len(adapters)
        return replace(super().host(name, adapters), memory=size * MIB)

    def engine(self, name: str) -> Engine:
        engine = ScriptedEngine(self.answer)
        self.engines.append(engine)
        opening = engine.open

        async def measure(host: Host) -> Measured:
            return replace(await opening(host), memory=self.measured.get(name, self.sizes[name]) * MIB)

        engine.open = measure  # type: ignore[method-assign]
        return engine


class Memory:
    """A store that forgets nothing and writes nothing; `slow` seconds pass before a draft is kept."""

    def __init__(self, slow: float = 0.0) -> None:
        self.drafts: dict[str, Draft] = {}
        self.slow = slow

    async def get(self, keys: Sequence[str]) -> dict[str, Draft]:
        return {key: replace(self.drafts[key], cached=True) for key in keys if key in self.drafts}

    async def put(self, draft: Draft, request: Request) -> None:
        await asyncio.sleep(self.slow)
        self.drafts[draft.key] = draft


class Machine(Resolver):
    """Every expert `x.y` is the adapter y on the model x, which takes `sizes[x]` bytes (100) as `estimate`d, and `real[x]`
    once it is open. What happens is written down: `loads` in order, `served` prompts with their host, the `most` bytes that
    were ever held, the `mixes` of adapters that were in flight together, the most requests at once."""

    def __init__(
        self,
        answer: Callable[[Request], str | Draft | Failure] = lambda r: "fine",
        *,
        sizes: Mapping[str, int] | None = None,
        real: Mapping[str, int] | None = None,
        caps: Caps | None = None,
        delay: float = 0.0,
        opening: float = 0.0,
        copies: int = 1,
    ) -> None:
        super().__init__(answer)
        self.sizes, self.real = dict(sizes or {}), dict(real or {})
        self.caps, self.delay, self.opening, self.copies = caps or Caps(slots=2), delay, opening, copies
        self.loads: list[str] = []
        self.served: list[tuple[str, str]] = []
        self.held: list[tuple[str, int]] = []
        self.most = self.at_once = 0
        self.flying: list[tuple[str, str]] = []
        self.mixes: set[tuple[str, ...]] = set()

    def host_of(self, expert: str) -> str:
        return expert.partition(".")[0]

    def fingerprint(self, expert: str) -> Fingerprint:
        return Fingerprint(expert, None, None, None, "scripted", 2048)

    def estimate(self, name: str, adapters: Sequence[str]) -> int:
        return self.sizes.get(name, 100)

    def host(self, name: str, adapters: Sequence[str]) -> Host:
        return replace(super().host(name, adapters), memory=self.estimate(name, adapters))

    def replicas(self, name: str) -> int:
        return self.copies

    def engine(self, name: str) -> Engine:
        self.engines.append(Watched(self))
        return self.engines[-1]


class Watched(ScriptedEngine):
    """Writes down for its machine what it does."""

    def __init__(self, machine: Machine) -> None:
        super().__init__(machine.answer, caps=machine.caps, delay=machine.delay)
        self.machine = machine
        self.entry: tuple[str, int] | None = None

    async def open(self, host: Host) -> Measured:
        machine = self.machine
        size = machine.real.get(host.name, host.memory)
        self.entry = (host.name, size)
        machine.held.append(self.entry)
        machine.loads.append(host.name)
        machine.most = max(machine.most, sum(bytes for _, bytes in machine.held))
        await asyncio.sleep(machine.opening)
        await super().open(host)
        self.adapters = [adapter.name for adapter in host.adapters]
        return Measured(machine.opening, size)

    async def generate(self, requests: Sequence[Request]) -> AsyncIterator[tuple[str, Delta | Draft]]:
        machine, host = self.machine, self._host
        assert host is not None, "only an open host is asked"
        for request in requests:
            flight = (host.name, request.streams[0].adapter or "")
            machine.served.append((host.name, prompt_text(request.streams[0].prompt)))
            machine.flying.append(flight)
            machine.at_once = max(machine.at_once, len(machine.flying))
            machine.mixes.add(tuple(sorted({adapter for name, adapter in machine.flying if name == host.name})))
            try:
                async for piece in super().generate([request]):
                    yield piece
            finally:
                machine.flying.remove(flight)

    async def close(self) -> None:
        if self.entry is not None:
            self.machine.held.remove(self.entry)
            self.entry = None
        await super().close()


def pool_of(machine: Machine, *, memory: int | None = 250, **options: float) -> Pool:
    """A pool with a store of its own."""
    return Pool(machine, Memory(), memory=memory, **options)  # type: ignore[arg-type]


def want(name: str, expert: str, **how: Any) -> Request:
    """A request whose prompt is its name."""
    adapter = expert if "." in expert else None
    return Request(name, (Stream(expert, name, adapter),), arm=expert, **how)


def wants(expert: str, n: int, **how: Any) -> list[Request]:
    """`n` of them."""
    return [want(f"{expert} {i:03}", expert, **how) for i in range(n)]
