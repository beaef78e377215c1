"""The pool with real llama.cpp processes: what a kill costs, what is measured, and that nothing is left."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Sequence
from pathlib import Path

import pytest
from scripted_hosts import Machine, Memory, collect

from composer.engines.base import Engine
from composer.engines.llamacpp import LlamaCppEngine
from composer.pool.calibrate import calibrate
from composer.pool.pool import Pool
from composer.registry.memory import when_loaded
from composer.types import Host, Message, Request, Sampling, Stream

LONG = Sampling(max_tokens=24, temperature=2.0)


class Real(Machine):
    """Hosts that all have the same file."""

    def __init__(self, weights: Path) -> None:
        super().__init__()
        self.path = weights
        self.running: list[LlamaCppEngine] = []

    def estimate(self, name: str, adapters: Sequence[str]) -> int:
        return when_loaded(self.path, 256, 4)

    def host(self, name: str, adapters: Sequence[str]) -> Host:
        return Host(name, "llamacpp", self.path, context=256, slots=4, memory=self.estimate(name, adapters))

    def engine(self, name: str) -> Engine:
        self.running.append(LlamaCppEngine())
        return self.running[-1]

    def pid(self) -> int:
        """Of the host that was opened last."""
        process = self.running[-1]._processes[0].child
        assert process is not None
        return process.pid


def asked(expert: str, n: int) -> list[Request]:
    return [
        Request(f"{expert} {i}", (Stream(expert, (Message("user", f"Tell me story {i}."),)),), LONG, arm=expert)
        for i in range(n)
    ]


async def test_a_killed_process_costs_its_calls_in_flight_and_nothing_else(smollm2: Path) -> None:
    registry = Real(smollm2)
    pool = Pool(registry, Memory(), memory=registry.estimate("a", ()) + 2**27)
    work = asyncio.create_task(collect(pool, [*asked("a", 6), *asked("b", 1)]))
    while not pool.status().hosts or pool.status().hosts["a"].running < 4:
        await asyncio.sleep(0.05)

    killed = registry.pid()
    os.kill(killed, signal.SIGKILL)
    found = await work
    pids = [killed, registry.pid()]
    await pool.close()

    assert all(draft.error is None for draft in found.values())
    assert pool.ledger.loads == 3, "a, a again, b"
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


async def test_a_real_host_is_measured(smollm2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COE_CACHE", str(tmp_path))
    registry = Real(smollm2)

    speed = (await calibrate(registry, ["a"])).hosts["a"]

    assert speed.slots == 4 and speed.load > 0
    assert speed.prefill > speed.decode_one > 0, "reading is faster than writing"
    assert speed.memory >= registry.estimate("a", ())
    assert registry.running[0]._processes == []
