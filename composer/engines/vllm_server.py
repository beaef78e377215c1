"""vLLM started by us: as a server, or as an engine without one; the arguments and the environment it gets."""

from __future__ import annotations

import secrets
import shlex
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from composer.engines.vllm_keeper import Keeper, environment, make_folder
from composer.errors import ConfigError, EngineError
from composer.registry.hf import cache_size, settings, tensors
from composer.types import Host

_LOOP = Path(__file__).with_name("vllm_loop.py")
_INSIDE = {  # all of it in one process, with the runner that takes logits processors
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_USE_V2_MODEL_RUNNER": "0",
}
_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # that vLLM takes


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
    config = settings_for(host, host.path)
    try:
        ranks = [int(settings(adapter.path, "adapter_config.json")["r"]) for adapter in host.adapters]
    except ConfigError as why:
        raise EngineError(why.what, where=host.name, remedy=why.remedy) from why
    except (LookupError, TypeError, ValueError) as why:
        raise EngineError(f"an adapter_config.json says no rank `r`: {why!r}", where=host.name) from why
    rank = loras.rank or max([16, *ranks])
    cache = cache_size(config, host.context, host.slots)
    spare = 1  # for the base as an adapter of zeros
    return [
        *("--model", str(host.path), "--enable-lora"),
        *(["--kv-cache-memory-bytes", str(cache)] if cache else []),
        *("--max-loras", str(loras.at_once + spare), "--max-cpu-loras", str(loras.attached + spare)),
        *("--max-lora-rank", str(next((known for known in _RANKS if known >= rank), rank))),
    ]


def settings_for(host: Host, folder: Path) -> dict[str, Any]:
    """The settings of the folder that the host is opened with. Raises EngineError for one that is none, and for a context
    that it was not made for."""
    try:
        if not folder.is_dir():
            raise ConfigError(
                f"{folder} is no folder in Hugging Face's form",
                remedy=f"`coe models convert {folder} OUT` makes one of a GGUF file",
            )
        tensors(folder)
        config = settings(folder)
    except ConfigError as why:
        raise EngineError(why.what, where=host.name, remedy=why.remedy) from why
    longest = (config.get("text_config") or config).get("max_position_embeddings")
    if isinstance(longest, int) and host.context > longest:
        raise EngineError(
            f"a context of {host.context} tokens is asked for, the weights were made for {longest}",
            where=host.name,
            remedy=f"set `context` to {longest} or less",
        )
    return config


class Server(Keeper):
    """A vLLM server of ours, on a port of this machine."""

    def __init__(self, host: Host, launch: Launch) -> None:
        super().__init__(host.name)
        self.key = secrets.token_urlsafe(32)
        self._host, self._launch = host, launch

    async def start(self) -> str:
        """Start it; its address, where nobody may listen yet. Raises EngineError."""
        port, folder = _free_port(), make_folder()
        command = [
            *(self._launch.python, "-m", "vllm.entrypoints.openai.api_server"),
            *("--host", "127.0.0.1", "--port", str(port)),
            "--enable-prompt-tokens-details",
            "--disable-uvicorn-access-log",
            *_words(self._host, self._launch, folder),
        ]
        environment = _environment(self._host, self._launch.environment, folder) | {"VLLM_API_KEY": self.key}
        await self.run(command, environment, folder)
        return f"http://127.0.0.1:{port}"


class Inside(Keeper):
    """vLLM's engine in one process of ours, without a server (`vllm_loop.py`)."""

    def __init__(self, host: Host, launch: Launch) -> None:
        super().__init__(host.name)
        self._host, self._launch = host, launch

    async def start(self) -> socket.socket:
        """Start it; our end of the line to it, where what is sent waits until it is there. Raises EngineError."""
        folder = make_folder()
        ours, its = socket.socketpair()
        command = [
            *(self._launch.python, str(_LOOP), "--socket", str(its.fileno())),
            "--no-async-scheduling",  # streams are compared after every step, before the next one
            *_words(self._host, self._launch, folder),
        ]
        environment = _environment(self._host, self._launch.environment, folder)
        try:
            await self.run(command, environment | _INSIDE, folder, share=its.fileno())
        except BaseException:
            ours.close()
            raise
        finally:
            its.close()
        return ours


def _words(host: Host, launch: Launch, folder: str) -> list[str]:
    """The arguments that both forms share."""
    words = [
        *("--served-model-name", host.name),
        *("--max-model-len", str(host.context), "--max-num-seqs", str(host.slots)),
        *("--generation-config", "vllm"),  # what a request leaves out is off, whatever the model's folder asks for
    ]
    if host.template is not None:
        template = Path(folder) / "template.jinja"
        template.write_text(host.template, encoding="utf-8")
        words += ["--chat-template", str(template)]
    return [*words, *launch.arguments]


def _environment(host: Host, more: Mapping[str, str], folder: str) -> dict[str, str]:
    return {
        **environment(host.threads),
        "VLLM_RPC_BASE_PATH": folder,
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # other hosts compute on the same cores
        **more,
    }


def words_of(arguments: str, environment: str) -> tuple[list[str], dict[str, str]]:
    """What is passed on to vLLM: words as a shell takes them, and variables. Raises ConfigError."""
    try:
        return shlex.split(arguments), split_environment(environment)
    except ValueError as why:
        raise ConfigError(
            f"options `arguments` and `environment` are words as a shell takes them: {why}",
            remedy='write environment: "A=1 B=2"',
        ) from why


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
