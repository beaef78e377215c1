"""One llama.cpp server in a child process of ours: started, asked over loopback, found dead, ended."""

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
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

from composer.engines.http import ChatClient
from composer.engines.limits import LONGEST_CALL, Limits
from composer.engines.llamacpp_slots import Slots
from composer.engines.scoring import forced
from composer.engines.servers import LLAMACPP_SEEDS
from composer.errors import ConfigError, EngineError
from composer.registry.gguf import read_header
from composer.registry.memory import available_memory, mebibytes
from composer.types import Delta, Draft, Failure, Host, Message, Request, Sampling, Stream

LONGEST_START = 600.0  # seconds; large models on slow disks take minutes
CLOSED = Failure("closed", "it is not open")
_UNTIL_DEAD = 1.0  # seconds between a broken connection and the news that the process has ended
_LOG_TAIL, _LOG_LINES = 4000, 8  # bytes and lines of the child's log that an error quotes
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


class LlamaProcess:
    """A base and its adapters. `gone`: why nothing can be asked; None while something can. `context`: the tokens that one
    request may hold. `ends`: of tokens without a text, whether they end one, as far as that is known."""

    def __init__(self, host: Host, *, flash_attention: bool | None) -> None:
        self.host = host
        self.slots = Slots(host.slots)
        self.gone: Failure | None = CLOSED
        self.context = 0
        self.ends: dict[int, bool] = {}
        self.child: asyncio.subprocess.Process | None = None
        self.client: ChatClient | None = None
        self.steps: ChatClient | None = None  # for whole replies: hundreds of them a draft
        self._flash_attention = flash_attention
        self._log: IO[bytes] | None = None

    async def start(self) -> None:
        """Spawn the child, tell it what to load, wait for its address, ask it for one token. Raises EngineError."""
        host = self.host
        self._log = tempfile.TemporaryFile()  # nameless: nothing is left of it even if we are killed  # noqa: SIM115
        self.child = child = await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",  # this folder has an `http.py`, and the working folder may hold anything
            str(_CHILD),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=self._log,
            start_new_session=True,  # Ctrl-C is for us to handle; the child ends when we do
        )
        key = secrets.token_urlsafe(32)
        assert child.stdin is not None and child.stdout is not None
        child.stdin.write(config_line(host, key, self._flash_attention))
        try:
            async with asyncio.timeout(LONGEST_START):
                line = await child.stdout.readline()
        except TimeoutError as why:
            raise self._not_started(f"no answer for {LONGEST_START:.0f} s") from why
        told: dict[str, Any] = json.loads(line) if line else {}
        if "address" not in told:
            await child.wait()
            raise self._not_started(told.get("error") or _ending(child))
        # After a streamed reply the server often closes a connection that it promised to keep (measured: one in three).
        self.client = ChatClient(told["address"], api_key=key, name=host.name, limits=_LIMITS, reuse=False)
        self.steps = ChatClient(told["address"], api_key=key, name=host.name, limits=_LIMITS)
        self.gone = None
        prompt = (Message("user", "Hi"),) if host.chat else "Hi"
        first = await self.answer(
            Request("first", (Stream(host.name, prompt),), Sampling(max_tokens=1), role="probe"), 0
        )
        if first.error is not None:
            raise self._not_started(f"its first completion failed: {first.error.message}")
        if told["context"] < host.context:
            raise self._not_started(f"it holds {told['context']} tokens per request, {host.context} are asked for")
        self.context = int(told["context"])

    async def answer(self, request: Request, slot: int, tell: Callable[[Delta], None] = lambda _: None) -> Draft:
        """Of a request with one stream, in this slot."""
        if self.gone is not None or self.client is None:
            return self.failed(self.gone or CLOSED)
        extra = {**_extra(request, self.host), "id_slot": slot}
        if request.target is not None:
            draft = await forced(self.client, request, extra)
        else:
            draft = await self.client.complete(request, extra, tell)
        return self.failed(self.gone or CLOSED) if await self.broken(draft) else draft

    async def broken(self, draft: Draft) -> bool:
        """Whether the draft failed because the child is dead."""
        return (
            draft.error is not None and draft.error.kind in ("disconnected", "unreachable") and await self._has_died()
        )

    def kill(self) -> None:
        """Have the child end at once; it has nothing to save."""
        self.gone = self.gone or CLOSED
        if self.child is not None:
            with contextlib.suppress(ProcessLookupError):
                self.child.kill()

    async def close(self) -> None:
        """End the child, and leave nothing of it."""
        self.kill()
        clients, self.client, self.steps = (self.client, self.steps), None, None
        child, self.child = self.child, None
        log, self._log = self._log, None
        try:
            if child is not None:
                await _end(child)
            for client in clients:
                if client is not None:
                    await client.close()
        finally:
            if log is not None:
                log.close()

    async def _has_died(self) -> bool:
        """Whether a broken connection means that the child is dead; nothing is asked of it any more then."""
        child = self.child
        if child is None:
            return True
        try:
            async with asyncio.timeout(_UNTIL_DEAD):
                await child.wait()
        except TimeoutError:
            return False
        self.gone = self.gone or Failure("host_died", f"it died: {_ending(child)}{_quoted(self._last_words())}")
        return True

    def failed(self, why: Failure) -> Draft:
        """The draft that says so."""
        name = self.host.name
        return Draft("", "", "error", served_by=name, error=replace(why, message=f"host {name!r}: {why.message}"))

    def resident(self) -> int:
        """Bytes that the child holds in memory; 0 where the system does not say."""
        return _resident(self.child.pid) if self.child is not None else 0

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
            where=self.host.name,
            remedy=remedy,
        )

    def _sizes(self) -> str:
        """What it was thought to need, against what there is."""
        needed, free = self.host.memory, available_memory()
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


def check_files(host: Host) -> None:
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


def config_line(host: Host, key: str, flash_attention: bool | None) -> bytes:
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
    extra.update(adapter_fields(host, stream.adapter))
    if sampling.logprobs == 0:  # llama.cpp gives the token's own only beside one alternative
        extra["logprobs" if isinstance(stream.prompt, str) else "top_logprobs"] = 1
    if sampling.schema is not None and isinstance(stream.prompt, str):
        with contextlib.suppress(ValueError):  # the client says what is wrong with it
            extra["json_schema"] = json.loads(sampling.schema)  # `response_format` is ignored where text is continued
    return extra


def adapter_fields(host: Host, adapter: str | None) -> dict[str, object]:
    """What selects it. All of them, always: a request that names none keeps what the slot holds of another adapter's
    prompt."""
    if not host.adapters:
        return {}
    return {"lora": [{"id": i, "scale": float(one.name == adapter)} for i, one in enumerate(host.adapters)]}


def _ending(process: asyncio.subprocess.Process) -> str:
    code = process.returncode or 0
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def _quoted(words: str) -> str:
    return "; its last words:\n" + textwrap.indent(words, "    ") if words else ""


def _resident(pid: int) -> int:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    found = [line.split()[1] for line in status.splitlines() if line.startswith("VmRSS:")]
    return int(found[0]) * 1024 if found else 0


async def _end(process: asyncio.subprocess.Process) -> None:
    """Wait for the end of a process that was killed, and let go of its pipes."""
    await process.wait()
    assert process.stdin is not None and process.stdout is not None
    process.stdin.close()
    with contextlib.suppress(OSError):
        await process.stdin.wait_closed()
    await process.stdout.read()
