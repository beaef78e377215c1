"""llama.cpp: one base and its adapters in a child process of ours, called over loopback; a crash costs one host."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import signal
import sys
import tempfile
import textwrap
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any

from composer.engines.common import answered
from composer.engines.http import ChatClient
from composer.engines.limits import LONGEST_CALL, Limits
from composer.engines.scoring import forced
from composer.engines.servers import LLAMACPP_SEEDS
from composer.errors import ConfigError, EngineError
from composer.registry.gguf import read_header
from composer.registry.memory import available_memory, mebibytes
from composer.types import AdapterFile, Caps, Delta, Draft, Failure, Host, Measured, Message, Request, Sampling, Stream

LONGEST_START = 600.0  # seconds; large models on slow disks take minutes
_UNTIL_DEAD = 1.0  # seconds between a broken connection and the news that the process has ended
_LOG_TAIL, _LOG_LINES = 4000, 8  # bytes and lines of the child's log that an error quotes
_CLOSED = Failure("closed", "it is not open")
_CHILD = Path(__file__).with_name("llamacpp_host.py")
_LESS_MEMORY = "lower `context` or `slots`, take a smaller quantisation, or keep fewer models resident (--memory)"
# What the request does not say is off, whatever the model's file asks for, and the order is vLLM's: only then does a
# number mean the same on both.
_SAMPLERS: dict[str, object] = {
    "samplers": ["penalties", "temperature", "min_p", "top_k", "top_p"],
    "mirostat": 0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
}
_LIMITS = Limits(first=LONGEST_CALL, idle=LONGEST_CALL)  # on a busy machine others' prompts come between two tokens


class LlamaCppEngine:
    """Greedy text is the same alone and among neighbours for the bare base; with an adapter near-ties may part.

    One adapter per batch: a call that mixes them is served adapter after adapter. Use from one event loop.
    `flash_attention` turns it on or off; None leaves it to llama.cpp.
    """

    def __init__(self, *, flash_attention: bool | None = None) -> None:
        self.flash_attention = flash_attention
        self._caps = Caps(level="logprobs", slots=8, max_logprobs=1000, scores=True)
        self._host: Host | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._client: ChatClient | None = None
        self._log: IO[bytes] | None = None
        self._gone: Failure | None = _CLOSED  # why nothing can be asked; None while something can

    @staticmethod
    def release(options: Mapping[str, Any]) -> str:
        """The version of llama.cpp's binding."""
        return f"xllamacpp {version('xllamacpp')}"

    @property
    def caps(self) -> Caps:
        """Everything but `slots` is constant; the host sets those."""
        return self._caps

    async def open(self, host: Host) -> Measured:
        """Start the child and return when it has answered. Raises EngineError for a file that is none, or no start."""
        if self._process is not None:
            raise EngineError("this engine is open already", where=host.name)
        started = time.monotonic()
        await asyncio.to_thread(_check_files, host)
        self._host = host
        self._caps = replace(self._caps, slots=host.slots)
        try:
            context = await self._start(host)
        except BaseException:
            await self.close()
            raise
        assert self._process is not None
        return Measured(time.monotonic() - started, _resident(self._process.pid), context)

    async def attach(self, adapter: AdapterFile) -> None:
        """Raises EngineError: llama.cpp is told its adapters when it starts."""
        raise EngineError(
            f"llama.cpp takes no adapter ({adapter.name!r}) while it runs",
            where=self._where,
            remedy="open the host again with all adapters it needs",
        )

    async def detach(self, name: str) -> None:
        """Raises EngineError, as `attach`."""
        raise EngineError(f"llama.cpp drops no adapter ({name!r}) while it runs", where=self._where)

    async def generate(self, requests: Sequence[Request]) -> AsyncIterator[tuple[str, Delta | Draft]]:
        """Adapters one after the other, in order of their first request: llama.cpp batches only equal ones.

        Failures are of the kinds of `ChatClient`, `unsupported` (this host cannot), `closed`, or `host_died`: then every
        further request fails alike. A text that fills the context ends there, and its `stop` is `length`.
        """
        order = list(dict.fromkeys(request.streams[0].adapter for request in requests))
        for adapter in order:
            lane = [request for request in requests if request.streams[0].adapter == adapter]
            async with contextlib.aclosing(answered(lane, self._answer, self._caps.slots)) as found:
                async for name, piece in found:
                    yield name, piece

    async def close(self) -> None:
        """End the child at once; it has nothing to save."""
        self._gone = self._gone or _CLOSED
        client, self._client = self._client, None
        process, self._process = self._process, None
        log, self._log = self._log, None
        try:
            if process is not None:
                await _end(process)  # first: it sends the signal before it waits, so no cancellation comes between
            if client is not None:
                await client.close()
        finally:
            if log is not None:
                log.close()

    @property
    def _where(self) -> str | None:
        return self._host.name if self._host else None

    async def _start(self, host: Host) -> int:
        """Spawn the child, tell it what to load, wait for its address, ask it for one token; return its context."""
        self._log = tempfile.TemporaryFile()  # nameless: nothing is left of it even if we are killed  # noqa: SIM115
        self._process = process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",  # this folder has an `http.py`, and the working folder may hold anything
            str(_CHILD),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=self._log,
            start_new_session=True,  # Ctrl-C is for us to handle; the child ends when we do
        )
        key = secrets.token_urlsafe(32)
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(_config(host, key, self.flash_attention))
        try:
            async with asyncio.timeout(LONGEST_START):
                line = await process.stdout.readline()
        except TimeoutError as why:
            raise self._not_started(f"no answer for {LONGEST_START:.0f} s") from why
        told: dict[str, Any] = json.loads(line) if line else {}
        if "address" not in told:
            await process.wait()
            raise self._not_started(told.get("error") or _ending(process))
        # After a streamed reply the server often closes a connection that it promised to keep (measured: one in three).
        self._client = ChatClient(told["address"], api_key=key, name=host.name, limits=_LIMITS, reuse=False)
        self._gone = None
        prompt = (Message("user", "Hi"),) if host.chat else "Hi"
        first = await self._answer(Request("first", (Stream(host.name, prompt),), Sampling(max_tokens=1), role="probe"))
        if first.error is not None:
            raise self._not_started(f"its first completion failed: {first.error.message}")
        if told["context"] < host.context:
            raise self._not_started(f"it holds {told['context']} tokens per request, {host.context} are asked for")
        return int(told["context"])

    async def _answer(self, request: Request, tell: Callable[[Delta], None] = lambda _: None) -> Draft:
        if self._gone is not None or self._client is None or self._host is None:
            return self._failed(self._gone or _CLOSED)
        problem = _unsupported(request, self._host, self._caps)
        if problem is not None:
            return self._failed(Failure("unsupported", problem))
        extra = _extra(request, self._host)
        if request.target is not None:
            draft = await forced(self._client, request, extra)
        else:
            draft = await self._client.complete(request, extra, tell)
        if draft.error is not None and draft.error.kind in ("disconnected", "unreachable") and await self._has_died():
            return self._failed(self._gone or _CLOSED)
        return draft

    async def _has_died(self) -> bool:
        """Whether a broken connection means that the child is dead; nothing is asked of it any more then."""
        process = self._process
        if process is None:
            return True
        try:
            async with asyncio.timeout(_UNTIL_DEAD):
                await process.wait()
        except TimeoutError:
            return False
        self._gone = self._gone or Failure("host_died", f"it died: {_ending(process)}{_quoted(self._last_words())}")
        return True

    def _failed(self, why: Failure) -> Draft:
        name = self._where or ""
        return Draft("", "", "error", served_by=name, error=replace(why, message=f"host {name!r}: {why.message}"))

    def _not_started(self, problem: str) -> EngineError:
        words = self._last_words()
        if "No module named 'xllamacpp'" in problem:
            remedy = "pip install xllamacpp"
        elif "killed" in problem or "exit code 137" in problem or "alloc" in words.lower():
            problem += self._sizes()
            remedy = f"memory may be short: {_LESS_MEMORY}"
        else:
            remedy = f"compare the file, its template and its adapters with what is declared; or {_LESS_MEMORY}"
        return EngineError(
            f"the llama.cpp process did not start: {problem}{_quoted(words)}",
            where=self._where,
            remedy=remedy,
        )

    def _sizes(self) -> str:
        """What it was thought to need, against what there is."""
        needed, free = self._host.memory if self._host else 0, available_memory()
        return "".join(
            [
                f"; it is estimated at {mebibytes(needed)}" if needed else "",
                f"; {mebibytes(free)} are free now" if free is not None else "",
            ]
        )

    def _last_words(self) -> str:
        """The end of the child's log."""
        if self._log is None:
            return ""
        self._log.seek(max(0, self._log.seek(0, os.SEEK_END) - _LOG_TAIL))
        return "\n".join(self._log.read().decode("utf-8", "replace").strip().splitlines()[-_LOG_LINES:])


def _check_files(host: Host) -> None:
    """Raise EngineError unless weights and adapters are GGUF files, and the weights were made for such a context."""
    if host.path is None:
        raise EngineError("llama.cpp needs a file of weights", where=host.name, remedy="declare `sources`")
    try:
        for adapter in host.adapters:
            read_header(adapter.path)
        metadata = read_header(host.path).metadata
    except OSError as why:
        raise EngineError(f"a file cannot be read: {why}", where=host.name) from why
    except ConfigError as why:
        raise EngineError(why.what, where=host.name, remedy=why.remedy) from why
    longest = metadata.get(f"{metadata.get('general.architecture')}.context_length")
    if isinstance(longest, int) and host.context > longest:
        raise EngineError(
            f"a context of {host.context} tokens is asked for, the weights were made for {longest}",
            where=host.name,
            remedy=f"set `context` to {longest} or less",
        )


def _config(host: Host, key: str, flash_attention: bool | None) -> bytes:
    """What the child is told, as one line."""
    config = {
        "parent": os.getpid(),
        "key": key,
        "path": str(host.path),
        "adapters": [str(adapter.path) for adapter in host.adapters],
        "context": host.context,
        "slots": host.slots,
        "threads": host.threads,
        "template": host.template,
        "chat": host.chat,
        "flash_attention": flash_attention,
    }
    return json.dumps(config).encode() + b"\n"


def _unsupported(request: Request, host: Host, caps: Caps) -> str | None:
    """Why this host cannot serve the request; None if it can."""
    stream, names = request.streams[0], [adapter.name for adapter in host.adapters]
    if len(request.streams) > 1:
        return "llama.cpp cannot decode several streams in lockstep"
    if stream.adapter is not None and stream.adapter not in names:
        return f"it was opened without the adapter {stream.adapter!r}, with: {', '.join(names) or 'none'}"
    if not host.chat and not isinstance(stream.prompt, str):
        return "it only continues text, and was given messages"
    if (request.sampling.logprobs or 0) > caps.max_logprobs:
        return (
            f"{request.sampling.logprobs} log-probabilities per token are asked for, at most {caps.max_logprobs} given"
        )
    return None


def _extra(request: Request, host: Host) -> dict[str, object]:
    """The fields that only llama.cpp knows."""
    stream, sampling = request.streams[0], request.sampling
    extra: dict[str, object] = _SAMPLERS | {
        "seed": sampling.seed % LLAMACPP_SEEDS,
        "cache_prompt": True,
        "top_k": sampling.top_k,
        "min_p": sampling.min_p,
        "repeat_penalty": sampling.repetition_penalty,
        "repeat_last_n": host.context,
    }
    if host.adapters:
        # All of them, always: a request that names none keeps what the slot holds of another adapter's prompt.
        names = [adapter.name for adapter in host.adapters]
        extra["lora"] = [{"id": i, "scale": float(name == stream.adapter)} for i, name in enumerate(names)]
    if sampling.logprobs == 0:  # llama.cpp gives the token's own only beside one alternative
        extra["logprobs" if isinstance(stream.prompt, str) else "top_logprobs"] = 1
    if sampling.schema is not None and isinstance(stream.prompt, str):
        with contextlib.suppress(ValueError):  # the client says what is wrong with it
            extra["json_schema"] = json.loads(sampling.schema)  # `response_format` is ignored where text is continued
    return extra


def _ending(process: asyncio.subprocess.Process) -> str:
    code = process.returncode or 0
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def _quoted(words: str) -> str:
    return "; its last words:\n" + textwrap.indent(words, "    ") if words else ""


def _resident(pid: int) -> int:
    """Resident bytes of a process; 0 where the system does not say."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    found = [line.split()[1] for line in status.splitlines() if line.startswith("VmRSS:")]
    return int(found[0]) * 1024 if found else 0


async def _end(process: asyncio.subprocess.Process) -> None:
    """Kill the process, wait for its end, and let go of its pipes."""
    with contextlib.suppress(ProcessLookupError):
        process.kill()
    await process.wait()
    assert process.stdin is not None and process.stdout is not None
    process.stdin.close()
    with contextlib.suppress(OSError):
        await process.stdin.wait_closed()
    await process.stdout.read()
