"""The pool with a real vLLM, on a server and without one: adapters that take turns in its slots, and a kill in the middle of a run."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from scripted_hosts import Memory, collect
from vllm_kit import ASKED, Env, foreign, registry_text

from composer.config import load_settings
from composer.engines.base import Engine
from composer.engines.vllm import VllmEngine
from composer.engines.vllm_keeper import _group
from composer.pool.pool import Pool
from composer.registry.adapting import sha_of
from composer.registry.experts import Registry
from composer.types import Request, Sampling

pytestmark = pytest.mark.vllm
in_module = pytest.mark.asyncio(loop_scope="module")


class Kept(Registry):
    """Remembers its engines."""

    def engine(self, name: str) -> Engine:
        made = super().engine(name)
        self.__dict__.setdefault("made", []).append(made)
        return made

    @property
    def last(self) -> VllmEngine:
        found = self.__dict__["made"][-1]
        assert isinstance(found, VllmEngine)
        return found


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["server", "in process"])
async def opened(
    vllm_env: Env, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> AsyncIterator[tuple[Kept, Pool]]:
    path = tmp_path_factory.mktemp("registry") / "experts.yaml"
    silent = foreign(path.parent / "silent", lambda name: name, zeros=True)
    inside = ", in_process: true" if request.param == "in process" else ""
    text = registry_text(vllm_env, ", max_loras: 2" + inside)
    path.write_text(f"{text}\n  silent: {{model: smol, adapter: {{path: silent, sha256: {sha_of(silent.path)}}}}}\n")
    registry = Kept(load_settings(path))
    pool = Pool(registry, Memory())
    yield registry, pool
    await pool.close()


def asked(registry: Registry, expert: str, n: int, **sampling: float) -> list[Request]:
    settings = Sampling(max_tokens=48, **sampling)  # type: ignore[arg-type]
    question = ASKED[expert][0] if expert in ASKED else "Tell me a story."
    texts = [question, *(f"{question} Case {i}." for i in range(1, n))]
    return [
        Request(f"{expert} {i}", (registry.stream(expert, registry.messages(expert, text)),), settings, arm=expert)
        for i, text in enumerate(texts)
    ]


@in_module
async def test_four_adapters_take_turns_in_two_slots_of_one_server(opened: tuple[Kept, Pool]) -> None:
    registry, pool = opened
    requests = [request for expert in ("general", *ASKED) for request in asked(registry, expert, 4)]

    found = await collect(pool, requests)

    assert all(draft.error is None for draft in found.values()), found
    for expert, (_, answer) in ASKED.items():
        assert answer in found[f"{expert} 0"].text, f"{expert}: {found[f'{expert} 0'].text!r}"
    assert pool.ledger.loads == 1, "nothing was opened again for another adapter"
    assert registry.last._adapters is not None and len(registry.last._adapters.names) <= 2


@in_module
async def test_a_killed_server_is_opened_again_once_and_the_run_goes_on(opened: tuple[Kept, Pool]) -> None:
    registry, pool = opened
    loads = pool.ledger.loads
    requests = [request for expert in ("general", "units") for request in asked(registry, expert, 8, temperature=2.0)]
    work = asyncio.create_task(collect(pool, requests))
    while pool.status().hosts["smol"].running < 4:
        await asyncio.sleep(0.02)
    server = registry.last._server
    assert server is not None

    os.kill(server.pid, signal.SIGKILL)
    found = await work

    assert all(draft.error is None for draft in found.values()), found
    assert pool.ledger.loads == loads + 1
    assert not _group(server.pid)


@in_module
async def test_an_adapter_that_is_refused_fails_its_own_requests_and_no_others(opened: tuple[Kept, Pool]) -> None:
    registry, pool = opened
    loads = pool.ledger.loads

    found = await collect(pool, [*asked(registry, "silent", 2), *asked(registry, "sorting", 1)])

    errors = [found[f"silent {i}"].error for i in range(2)]
    assert all(error is not None and error.kind == "refused" and "changes nothing" in error.message for error in errors)
    assert found["sorting 0"].error is None and pool.ledger.loads == loads


@in_module
async def test_what_the_prefix_cache_found_is_in_the_ledger_when_the_host_is_closed(
    opened: tuple[Kept, Pool],
) -> None:
    registry, pool = opened
    long = " ".join(f"Rule {i}: answer shortly." for i in range(40))
    for i in range(2):
        stream = registry.stream("general", registry.messages("general", f"{long} Question {i}?"))
        await collect(pool, [Request(f"long {i}", (stream,), Sampling(max_tokens=1), arm="general")])

    server = registry.last._server
    assert server is not None
    await pool.close()

    assert pool.ledger.reused is not None and pool.ledger.reused.found >= 128
    assert not _group(server.pid)


def test_the_estimate_is_that_of_the_folder(vllm_env: Env, tmp_path: Path) -> None:
    path = tmp_path / "experts.yaml"
    path.write_text(registry_text(vllm_env))
    registry = Registry(load_settings(path))
    host = registry.host("smol", ["units"])

    assert 2**31 < host.memory == registry.estimate("smol", ["units"]) < 2**32
    assert host.path == vllm_env.folder and host.adapters[0].path.name == "units"
