"""The bench of the pool with real models: copies of one small GGUF file that differ in a byte, so they are other weights."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from composer.config import load_settings, packaged_registry
from composer.engines.base import Engine
from composer.pool.locality import Victim, lru
from composer.pool.pool import Pool
from composer.pool.speeds import Speeds
from composer.registry.experts import Registry
from composer.store import DraftStore
from composer.types import Draft, Request, Sampling
from evals.bench.pool_scripts import EXPERTS, ROOM, SLOTS, from_file, requests_of, streaming

SHORT = Sampling(max_tokens=12)  # written per call: what is measured is the order of work, not how long a model talks
_MODEL = """  {name}:
    sources: [{path}]
    sha256: "{sha}"
    context: 512
    slots: {slots}
    memory: {memory}MiB
    template: default:chatml.jinja
    sampling: {{max_tokens: {tokens}, temperature: 0}}
"""
_MEMORY = 400  # MiB that a copy takes with this context, at most


@dataclass(frozen=True, slots=True)
class Spent:
    """What a way of working took: loads, and seconds of wall and of CPU, children included."""

    loads: int
    wall: float
    cpu: float


def budget_of(room: int) -> int:
    """Bytes in which so many copies may be resident."""
    return (room * _MEMORY + 50) * 2**20


def make_registry(folder: Path, copies: int = EXPERTS) -> Registry:
    """Copies of the packaged model's file in `folder` (100 MB each), each with another name inside."""
    packaged = Registry(load_settings(packaged_registry()))
    weights = packaged.host(next(iter(packaged.settings.models)), ()).path
    assert weights is not None
    data = bytearray(weights.read_bytes())
    at = data.index(b"general.name") + len(b"general.name") + 4 + 8  # key, then the kind and length of the value
    rows = []
    for number in range(copies):
        data[at] = ord("a") + number
        path = folder / f"m{number:02}.gguf"
        path.write_bytes(data)
        sha = hashlib.sha256(data).hexdigest()
        rows.append(
            _MODEL.format(
                name=f"m{number:02}", path=path.name, sha=sha, slots=SLOTS, memory=_MEMORY, tokens=SHORT.max_tokens
            )
        )
    experts = "".join(f"  e{number:02}: {{model: m{number:02}}}\n" for number in range(copies))
    config = folder / "experts.yaml"
    config.write_text(f"models:\n{''.join(rows)}experts:\n{experts}")
    return Registry(load_settings(config))


class Bench:
    """Runs the same questions in several ways on the same hosts."""

    def __init__(self, registry: Registry, rows: Sequence[Sequence[str]], folder: Path) -> None:
        self.registry, self.rows, self.folder = registry, rows, folder
        self.loads = 0

    async def cost_of_one(self) -> tuple[float, float]:
        """CPU seconds of a load, and of a call among eight."""
        requests = [request for place in range(2 * SLOTS) for request in requests_of(place, ["e00"], SHORT)]
        began = _cpu()
        for _ in range(2):
            async with self._host("e00"):
                pass
        load = (_cpu() - began) / 2
        began = _cpu()
        async with self._host("e00") as engine:
            await _all(engine, requests)
        return load, (_cpu() - began - load) / len(requests)

    async def typical(self) -> dict[str, float]:
        """The tokens of an answer per expert, as one of its host's slots writes them."""
        found: dict[str, float] = {}
        for expert, own in self._grouped().items():
            async with self._host(expert) as engine:
                drafts = [piece async for _, piece in engine.generate(own) if isinstance(piece, Draft)]
            found[expert] = sum(draft.usage.tokens_out for draft in drafts) / len(drafts)
        return found

    async def question_order(self, room: int = ROOM, victim: Victim = lru) -> None:
        """Question by question, expert by expert, the `victim` (else the longest unused host) closed where there is no
        room. With room for one it is llama-swap's way: one model at a time, first come first served."""
        resident: dict[str, Engine] = {}
        asked = [request for place, row in enumerate(self.rows) for request in requests_of(place, row, SHORT)]
        try:
            for place, request in enumerate(asked):
                if request.arm in resident:
                    resident[request.arm] = resident.pop(request.arm)
                else:
                    if len(resident) >= room:
                        await resident.pop(victim(list(resident), place)).close()
                    resident[request.arm] = await self._opened(request.arm)
                await _all(resident[request.arm], [request])
        finally:
            for engine in resident.values():
                await engine.close()

    async def published(self) -> None:
        """Symbolic-MoE's grouping: a fresh engine per expert, its questions one after the other. (Its code also sleeps 10 s
        after each engine; that is left out.)"""
        for expert, requests in self._grouped().items():
            async with self._host(expert) as engine:
                for request in requests:
                    await _all(engine, [request])

    async def hand_written(self) -> None:
        """A good loop: grouped by expert, all of a group in one batch, the prompts sorted."""
        for expert, requests in self._grouped().items():
            async with self._host(expert) as engine:
                await _all(engine, sorted(requests, key=lambda request: str(request.streams[0].prompt)))

    async def ours(
        self, *, stream: bool, at_once: int = 1, memory: int = budget_of(ROOM), speeds: Speeds | None = None
    ) -> None:
        """The pool, with a real store. A host takes one thread, so a machine of two cores may work on two at once."""
        self.folder.joinpath("drafts.sqlite").unlink(missing_ok=True)
        async with DraftStore.open(self.folder / "drafts.sqlite") as store:
            pool = Pool(self.registry, store, memory=memory, at_once=at_once, speeds=speeds)
            try:
                await (streaming if stream else from_file)(pool, self.rows, sampling=SHORT)
            finally:
                await pool.close()
            self.loads += pool.ledger.loads
        for name in ("drafts.sqlite", "drafts.sqlite-wal", "drafts.sqlite-shm"):
            with suppress(FileNotFoundError):
                (self.folder / name).unlink()

    async def spent(self, work: Awaitable[None]) -> Spent:
        """Run one way."""
        self.loads = 0
        wall, cpu = time.monotonic(), _cpu()
        await work
        return Spent(self.loads, time.monotonic() - wall, _cpu() - cpu)

    def _grouped(self) -> dict[str, list[Request]]:
        groups: dict[str, list[Request]] = {}
        for place, experts in enumerate(self.rows):
            for request in requests_of(place, experts, SHORT):
                groups.setdefault(request.arm, []).append(request)
        return groups

    async def _opened(self, expert: str) -> Engine:
        host = self.registry.host(self.registry.host_of(expert), ())
        engine = self.registry.engine(host.name)
        await engine.open(host)
        self.loads += 1
        return engine

    @asynccontextmanager
    async def _host(self, expert: str) -> AsyncIterator[Engine]:
        engine = await self._opened(expert)
        try:
            yield engine
        finally:
            await engine.close()


async def _all(engine: Engine, requests: Sequence[Request]) -> None:
    async for _, piece in engine.generate(requests):
        assert not isinstance(piece, Draft) or piece.error is None, piece


def _cpu() -> float:
    """CPU seconds of this process and of its children that have ended."""
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system
