"""Traffic and scripted machines for the bench of the pool: what costs no model, but time and loads as a model would."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path

import numpy as np

from composer.engines.base import Engine
from composer.engines.scripted import ScriptedEngine
from composer.pool.ledger import Ledger
from composer.pool.pool import Pool
from composer.types import Caps, Delta, Draft, Fingerprint, Host, Measured, Message, Request, Sampling, Stream, Usage

LONG = Sampling()
EXPERTS, ROOM, ASKED, WINDOW, SLOTS = 12, 2, 3, 16, 8


def traffic(questions: int, seed: int = 0) -> list[list[str]]:
    """The experts that each question asks: three different ones, popular as 1 / rank (Zipf)."""
    rng = np.random.default_rng(seed)
    weights = 1 / np.arange(1, EXPERTS + 1)
    picks = [rng.choice(EXPERTS, ASKED, replace=False, p=weights / weights.sum()) for _ in range(questions)]
    return [[f"e{pick:02}" for pick in row] for row in picks]


def requests_of(place: int, experts: Sequence[str], sampling: Sampling = LONG) -> list[Request]:
    """One question to its experts."""
    turn = Message(
        "user", f"Question {place}: what is {place + 17} plus {3 * place + 5}? Answer with the number alone."
    )
    return [
        Request(f"{place}:{expert}", (Stream(expert, (turn,)),), sampling, arm=expert, parent=str(place))
        for expert in experts
    ]


class Nothing:
    """A store that keeps nothing."""

    async def get(self, keys: Sequence[str]) -> dict[str, Draft]:
        """Nothing."""
        return {}

    async def put(self, draft: Draft, request: Request) -> None:
        """Nothing."""


class Slow(ScriptedEngine):
    """A scripted engine whose opening takes `opening` seconds."""

    def __init__(self, delay: float, opening: float) -> None:
        super().__init__(lambda _: "42", caps=Caps(slots=SLOTS), delay=delay)
        self._opening = opening

    async def open(self, host: Host) -> Measured:
        """As the scripted one, later."""
        await asyncio.sleep(self._opening)
        await super().open(host)
        return Measured(self._opening, host.memory)

    async def generate(self, requests: Sequence[Request]) -> AsyncIterator[tuple[str, Delta | Draft]]:
        """As the scripted one, but nothing is remembered: that would be memory of the bench, not of the pool."""
        async for piece in super().generate(requests):
            yield piece
        self.batches.clear()


class Scripted:
    """A registry of hosts of one byte each that answer from a script. `delay` is of a call, `opening` of a load."""

    def __init__(self, delay: float = 0.0, opening: float = 0.0) -> None:
        self._delay, self._opening = delay, opening
        self._prints: dict[str, Fingerprint] = {}

    def host_of(self, expert: str) -> str:
        """Every expert has its own."""
        return expert

    def host(self, name: str, adapters: Sequence[str]) -> Host:
        """No file."""
        return Host(name, "scripted", memory=1)

    def estimate(self, name: str, adapters: Sequence[str]) -> int:
        """One byte."""
        return 1

    def weights(self, name: str) -> str:
        """All different."""
        return name

    def where(self, name: str) -> str:
        """Nowhere."""
        return name

    def fingerprint(self, expert: str) -> Fingerprint:
        """As long as a real one."""
        if expert not in self._prints:
            self._prints[expert] = Fingerprint(f"{expert:64}", None, "t" * 64, "p" * 64, "scripted", 2048)
        return self._prints[expert]

    def engine(self, name: str) -> Engine:
        """A new one."""
        return Slow(self._delay, self._opening)

    def cost(self, request: Request, usage: Usage) -> float | None:
        """Free."""
        return 0.0


async def from_file(
    pool: Pool, rows: Sequence[Sequence[str]], *, enough: int = ASKED, sampling: Sampling = LONG
) -> None:
    """All questions at once; `enough` drafts settle a question, and what is left of it is not wanted any more."""
    landed = [0] * len(rows)
    requests = [request for place, experts in enumerate(rows) for request in requests_of(place, experts, sampling)]
    async for name, piece in pool.submit(requests, lambda request: landed[int(request.parent or 0)] < enough):
        landed[int(name.partition(":")[0])] += _answers(piece)


async def streaming(
    pool: Pool, rows: Sequence[Sequence[str]], *, enough: int = ASKED, sampling: Sampling = LONG
) -> None:
    """Never more than 16 questions under way, the next one asked when one is answered."""
    free = asyncio.Semaphore(WINDOW)

    async def one(place: int) -> None:
        landed = [0]
        async with free:
            async for _, piece in pool.submit(requests_of(place, rows[place], sampling), lambda _: landed[0] < enough):
                landed[0] += _answers(piece)

    await asyncio.gather(*(one(place) for place in range(len(rows))))


def _answers(piece: Delta | Draft) -> bool:
    assert not isinstance(piece, Draft) or piece.error is None, piece
    return isinstance(piece, Draft) and piece.stop != "cancelled"


def loads_of(work: Callable[[Pool], Awaitable[None]], *, call: float = 0.0266, load: float = 0.006) -> Ledger:
    """What the pool's real scheduler loads for `work` on scripted hosts, a hundred times as fast as SmolLM2 on one core
    (0.333 s per call, eight at once; 0.6 s per load)."""

    async def run() -> Ledger:
        pool = Pool(Scripted(call, load), Nothing(), memory=ROOM)
        await work(pool)
        await pool.close()
        return pool.ledger

    return asyncio.run(run())


def overhead(n: int) -> dict[str, float]:
    """CPU microseconds and peak bytes per request, `n` of them queued at once, in a fresh process."""
    done = subprocess.run(
        [sys.executable, "-c", f"from evals.bench.pool_scripts import _overhead; _overhead({n})"],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    )
    micros, engine, peak, left = map(float, done.stdout.split())
    return {"requests": n, "cpu_us": micros, "engine_us": engine, "peak_bytes": peak, "left_bytes": left}


def _overhead(n: int) -> None:
    """Print CPU microseconds with the pool and with the engine alone, bytes at the fullest and bytes afterwards, per
    request; the requests themselves do not count."""

    async def alone(requests: Sequence[Request]) -> float:
        engine, waiting = Slow(0.0, 0.0), iter(requests)
        await engine.open(Host("e00", "scripted"))

        async def slot() -> None:
            for request in waiting:
                async for _ in engine.generate([request]):
                    pass

        began = time.process_time()
        await asyncio.gather(*(slot() for _ in range(SLOTS)))
        return 1e6 * (time.process_time() - began) / len(requests)

    async def run(n: int) -> tuple[float, float, float, float]:
        rows = [[f"e{place % EXPERTS:02}"] for place in range(n)]
        requests = [request for place, experts in enumerate(rows) for request in requests_of(place, experts)]
        gc.collect()
        engine = await alone(requests)
        before, began, most = _resident(), time.process_time(), 0
        pool = Pool(Scripted(), Nothing(), memory=ROOM)
        count = 0
        async for _ in pool.submit(requests):
            if count % 5000 == 0:
                most = max(most, _resident())
            count += 1
        spent = time.process_time() - began
        await pool.close()
        assert count == n
        gc.collect()
        return 1e6 * spent / n, engine, (most - before) / n, (_resident() - before) / n

    asyncio.run(run(200))  # what the first use imports does not count
    print(*asyncio.run(run(n)))


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
