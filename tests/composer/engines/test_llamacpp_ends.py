"""How a llama.cpp host fails to start, dies and ends: nothing hangs, nothing is left, and the message helps."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import pytest

from composer.engines.llamacpp import LlamaCppEngine
from composer.errors import EngineError
from composer.types import AdapterFile, Draft, Host, Request, Sampling, Stream

ENDLESS = Sampling(max_tokens=240, temperature=9.0)  # one word is as likely as the other, the end one of 49,152
PARENT = """
import asyncio, resource, sys
from pathlib import Path
from composer.engines.llamacpp import LlamaCppEngine
from composer.errors import EngineError
from composer.types import Host

async def main(path, context, limit):
    if limit:
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    engine = LlamaCppEngine()
    try:
        await engine.open(Host("smol", "llamacpp", Path(path), context=context, slots=8))
    except EngineError as why:
        print(why.as_dict(), flush=True)
        return
    print(engine._processes[0].child.pid, flush=True)
    await asyncio.sleep(60)

asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
"""


def alive(pid: int) -> bool:
    """Whether the process is there and no zombie."""
    try:
        os.kill(pid, 0)
        status = Path(f"/proc/{pid}/stat")
        return not status.exists() or status.read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


async def until_gone(pid: int) -> None:
    async with asyncio.timeout(10):
        while alive(pid):
            await asyncio.sleep(0.02)


@asynccontextmanager
async def opened(path: Path) -> AsyncIterator[tuple[LlamaCppEngine, int]]:
    engine = LlamaCppEngine()
    await engine.open(Host("smol", "llamacpp", path, context=256, slots=4))
    child = engine._processes[0].child
    assert child is not None
    try:
        yield engine, child.pid
    finally:
        await engine.close()


def tales(n: int) -> list[Request]:
    return [Request(str(i), (Stream("smol", f"Tale {i}:"),), ENDLESS) for i in range(n)]


async def refused(host: Host) -> EngineError:
    engine = LlamaCppEngine()
    with pytest.raises(EngineError) as caught:
        await engine.open(host)
    assert engine._processes == []
    await engine.close()
    assert caught.value.where == host.name
    return caught.value


async def test_a_host_killed_while_it_writes_fails_every_draft_and_leaves_nothing(smollm2: Path) -> None:
    async with opened(smollm2) as (engine, pid):
        asyncio.get_running_loop().call_later(0.3, os.kill, pid, signal.SIGKILL)

        drafts = {name: piece async for name, piece in engine.generate(tales(6)) if isinstance(piece, Draft)}
        later = [piece async for _, piece in engine.generate(tales(1))]

    assert sorted(drafts) == ["0", "1", "2", "3", "4", "5"]
    for draft in [*drafts.values(), *later]:
        assert isinstance(draft, Draft)
        assert draft.error is not None and draft.error.kind == "host_died"
        assert "SIGKILL" in draft.error.message and "smol" in draft.error.message
    assert not alive(pid)


async def test_closing_while_it_writes_ends_the_drafts_and_the_process(smollm2: Path) -> None:
    async with opened(smollm2) as (engine, pid):
        asking = asyncio.create_task(anext(aiter(engine.generate(tales(2)))))
        await asyncio.sleep(0.2)

        await engine.close()
        _, draft = await asking

    assert isinstance(draft, Draft)
    assert draft.error is not None and draft.error.kind == "closed"
    assert not alive(pid)


async def test_a_host_that_stops_answering_is_left_at_the_deadline(smollm2: Path) -> None:
    async with opened(smollm2) as (engine, pid):
        os.kill(pid, signal.SIGSTOP)
        late = Request("q", (Stream("smol", "Hi"),), deadline=time.monotonic() + 0.3)

        async with aclosing(engine.generate([late])) as pieces:  # type: ignore[type-var]
            _, draft = await anext(pieces)

    assert isinstance(draft, Draft)
    assert draft.error is not None and draft.error.kind == "timeout"
    assert not alive(pid)


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
async def test_the_child_ends_when_its_parent_is_killed(smollm2: Path) -> None:
    command = [sys.executable, "-c", PARENT, str(smollm2), "256", "0"]
    parent = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
    assert parent.stdout is not None
    child = int(await parent.stdout.readline())
    assert alive(child)

    parent.kill()
    await parent.communicate()

    await until_gone(child)


@pytest.mark.skipif(sys.platform != "linux", reason="the limit works as described on Linux")
async def test_memory_that_does_not_suffice_is_said_with_what_helps(smollm2: Path) -> None:
    command = [sys.executable, "-c", PARENT, str(smollm2), "8192", str(900 * 2**20)]
    parent = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)

    told, _ = await parent.communicate()

    assert "did not start" in told.decode()
    for remedy in ("MiB are free now", "memory may be short", "context", "slots", "quantisation", "--memory"):
        assert remedy in told.decode()


async def test_cancelling_the_start_leaves_no_process(smollm2: Path) -> None:
    engine = LlamaCppEngine()
    opening = asyncio.create_task(engine.open(Host("smol", "llamacpp", smollm2, context=256, slots=1)))
    while not engine._processes or engine._processes[0].child is None:
        await asyncio.sleep(0.005)
    child = engine._processes[0].child
    assert child is not None
    pid = child.pid

    opening.cancel()

    with pytest.raises(asyncio.CancelledError):
        await opening
    assert not alive(pid)


async def test_a_file_that_is_no_model_is_refused_before_anything_starts(tmp_path: Path) -> None:
    junk = tmp_path / "junk.gguf"
    junk.write_bytes(b"PK\x03\x04 not a model")

    problem = await refused(Host("smol", "llamacpp", junk))
    missing = await refused(Host("smol", "llamacpp", tmp_path / "none.gguf"))
    unnamed = await refused(Host("smol", "llamacpp"))

    assert "GGUF" in problem.what and problem.remedy
    assert "none.gguf" in missing.what
    assert "weights" in unnamed.what


async def test_a_model_cut_short_is_refused_before_anything_starts(smollm2: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.gguf"
    with smollm2.open("rb") as whole:
        cut.write_bytes(whole.read(30_000_000))

    problem = await refused(Host("smol", "llamacpp", cut, context=256, slots=1))

    assert "tensor 'token_embd.weight' ends at byte 31866688, the file at 30000000" in problem.what
    assert problem.remedy


async def test_a_whole_file_that_is_no_model_does_not_start_and_the_loader_says_why(
    smollm2: Path, tmp_path: Path
) -> None:
    odd = tmp_path / "odd.gguf"
    odd.write_bytes(smollm2.read_bytes().replace(b"llama.embedding_length", b"llama.embedding_lenght", 1))

    problem = await refused(Host("smol", "llamacpp", odd, context=256, slots=1))

    assert "did not start" in problem.what
    assert "embedding_length" in problem.what
    assert problem.remedy


async def test_an_adapter_that_is_none_does_not_start(smollm2: Path) -> None:
    host = Host("smol", "llamacpp", smollm2, (AdapterFile("a", smollm2, ""),), context=256, slots=1)

    problem = await refused(host)

    assert "adapter" in problem.what


async def test_a_context_beyond_the_weights_is_refused_with_theirs(smollm2: Path) -> None:
    problem = await refused(Host("smol", "llamacpp", smollm2, context=100_000))

    assert "100000" in problem.what and "8192" in problem.what
    assert problem.remedy is not None and "8192" in problem.remedy


async def test_a_template_that_cannot_be_read_does_not_start(smollm2: Path) -> None:
    problem = await refused(Host("smol", "llamacpp", smollm2, context=256, slots=1, template="{% for x in %}"))

    assert "template" in problem.what
