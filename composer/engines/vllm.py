"""vLLM: a base and many adapters in one batch; on a server of ours, without one, or on one that runs already."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

from annotated_types import Ge

from composer import __version__
from composer.engines.apart import Apart
from composer.engines.common import answered
from composer.engines.http import ChatClient
from composer.engines.limits import LONGEST_CALL, Limits
from composer.engines.scoring import read
from composer.engines.vllm_adapters import Adapters, Admin
from composer.engines.vllm_admin import HttpAdmin
from composer.engines.vllm_fields import BUDGET, fields_of, json_object, unsupported
from composer.engines.vllm_keeper import MAKE_ONE
from composer.engines.vllm_null import runs_on_cpu
from composer.engines.vllm_pipe import Pipe
from composer.engines.vllm_server import Inside, Launch, Loras, Server, arguments_for, words_of
from composer.errors import ConfigError, EngineError
from composer.registry.memory import available_memory, mebibytes
from composer.registry.vllm_home import find_python, vllm_version
from composer.types import (
    AdapterFile,
    Caps,
    Delta,
    Draft,
    Failure,
    Host,
    Measured,
    Message,
    Request,
    Reuse,
    Sampling,
    Stream,
)

LONGEST_START = 1200.0  # seconds; large models on slow disks, and graphs to be compiled, take many minutes
_UNTIL_DEAD = 2.0  # seconds between a broken connection and the news that the server has ended
_LOOK, _LONGEST_PROBE = 0.2, 300.0
# The first adapter may be compiled for, others' prompts come between.
_LIMITS = Limits(first=LONGEST_CALL, idle=LONGEST_CALL)
_CLOSED = Failure("closed", "it is not open")
_LESS_MEMORY = "lower `context` or `slots`, or keep fewer models resident (--memory)"


class VllmEngine:
    """Use from one event loop. Adapters come and go while it runs; one counts only once it was seen to change something.

    A server of ours is started with `python` (else COE_VLLM, `.venv-vllm`, the interpreter we run in), in eager mode
    unless `eager` is False; `arguments` and `environment` ("A=1 B=2") are passed on as they stand. `in_process` is for
    batches: vLLM's engine in one process of ours, without a server. With `url` it is one that somebody else runs, which
    calls the base `model`; `key` names the variable that holds its key.

    `max_loras` adapters take part in a batch and `max_cpu_loras` are attached at a time (None: as many), of ranks up to
    `max_lora_rank` (None: the largest of those it opens with); `cache` is the size of the key-value cache in bytes
    (None: what `context` and `slots` need). `chat_options` is a JSON object for the chat template, `thinking_budget` the
    most tokens of thought, which needs `reasoning_parser`: both may be changed per expert (`sampling: {template: …}`).
    `null_adapter` sends the base's requests as an adapter of zeros (`vllm_null.py`); None: on a CPU, in a server of ours.
    """

    plumbing = frozenset({"key", "python", "start_within"})

    def __init__(
        self,
        *,
        in_process: bool = False,
        url: str | None = None,
        model: str | None = None,
        key: str | None = None,
        python: str | None = None,
        arguments: str = "",
        environment: str = "",
        dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto",
        eager: bool = True,
        max_loras: Annotated[int, Ge(1)] = 4,
        max_cpu_loras: Annotated[int, Ge(1)] | None = None,
        max_lora_rank: Annotated[int, Ge(1)] | None = None,
        max_logprobs: Annotated[int, Ge(0)] = 100,
        cache: Annotated[int, Ge(1)] | None = None,
        prefix_caching: bool = True,
        chat_options: str = "{}",
        thinking_budget: Annotated[int, Ge(0)] | None = None,
        reasoning_parser: str | None = None,
        null_adapter: bool | None = None,
        start_within: Annotated[int, Ge(1)] = int(LONGEST_START),
    ) -> None:
        if in_process and url is not None:
            raise ConfigError(
                f"options `in_process` and `url` exclude each other: {url} is somebody else's process",
                remedy="remove one of them",
            )
        self._in_process, self._apart = in_process, Apart()
        self._url = url.rstrip("/").removesuffix("/v1") if url is not None else None
        self._model, self._key, self._python = model, key, python
        self._max_loras = max(max_loras, max_cpu_loras or 0)
        self._max_logprobs, self._start_within = max_logprobs, start_within
        self._chat_options = json_object(chat_options, "chat_options")
        if thinking_budget is not None:
            self._chat_options[BUDGET] = thinking_budget
        words, self._environment = words_of(arguments, environment)
        self._speculates = any(word.startswith(("--spec", "-sc")) for word in words)
        self._loras = Loras(max_loras, self._max_loras, max_lora_rank)
        self._own = [
            *("--dtype", dtype, "--max-logprobs", str(max_logprobs)),
            *(["--enforce-eager"] if eager else []),
            *(["--kv-cache-memory-bytes", str(cache)] if cache else []),
            "--enable-prefix-caching" if prefix_caching else "--no-enable-prefix-caching",
            *(["--reasoning-parser", reasoning_parser] if reasoning_parser else []),
            *words,
        ]
        self._caps = Caps(
            level="logprobs",
            mixed_adapters=True,
            adapters="live",
            adapter_slots=self._max_loras,
            slots=8,
            max_logprobs=max_logprobs,
            scores=not in_process,
            contrast=in_process and not self._speculates,
        )
        self._host: Host | None = None
        self._server: Server | Inside | None = None
        self._client: ChatClient | Pipe | None = None
        self._admin: Admin | None = None
        self._null_adapter = null_adapter
        self._adapters: Adapters | None = None
        self._gone: Failure | None = _CLOSED  # why nothing can be asked; None while something can
        self._reused_before = Reuse()
        self.reuse = Reuse()

    @staticmethod
    def release(options: Mapping[str, Any]) -> str:
        """The version of vLLM that a host of ours would be; of somebody else's server, the version of this client."""
        return f"coe {__version__}" if options.get("url") else vllm_version(find_python(options.get("python")))

    def why_not(self, request: Request) -> str | None:
        """Why it decodes no such streams together as it is set up; None where it does, or is not set up for any."""
        if request.mix is None or not self._speculates:
            return None
        return "vLLM combines no streams while it speculates: remove the draft model from `arguments`"

    @property
    def caps(self) -> Caps:
        """Everything but `slots` is constant; the host sets those."""
        return self._caps

    async def open(self, host: Host) -> Measured:
        """Start the server, or find the one at `url`; return when it has answered and every adapter was put to the proof.
        An adapter that is refused fails its own requests and nothing else. Raises EngineError."""
        if self._host is not None and self._admin is not None:
            raise EngineError("this engine is open already", where=host.name)
        if host.beside:
            beside = ", ".join(one.name for one in host.beside)
            raise EngineError(
                f"vLLM opens one base, and streams of {beside} are to be combined with it",
                where=host.name,
                remedy="combine adapters of one base, or serve both with `engine: transformers`",
            )
        started = time.monotonic()
        self._host, self._caps = host, replace(self._caps, slots=host.slots)
        try:
            context = await (self._start(host) if self._url is None else self._find(host, self._url))
            for adapter in host.adapters:
                with contextlib.suppress(EngineError):  # its requests say why
                    await self.attach(adapter)
            assert self._admin is not None
            self._reused_before = await self._admin.reuse()
        except BaseException:
            await self.close()
            raise
        memory = await asyncio.to_thread(self._server.memory) if self._server is not None else 0
        return Measured(time.monotonic() - started, memory, context)

    async def attach(self, adapter: AdapterFile) -> None:
        """Load the adapter, and prove that it changes what comes next. Raises EngineError; requests with it then fail for
        that reason."""
        if self._adapters is None:
            raise EngineError(f"adapter {adapter.name!r}: {_CLOSED.message}", where=self._where)
        await self._adapters.attach(adapter)

    async def detach(self, name: str) -> None:
        """Forget an adapter; requests under way with it end well. Raises EngineError where it is not attached."""
        if self._adapters is None:
            raise EngineError(f"adapter {name!r} is not attached: {_CLOSED.message}", where=self._where)
        await self._adapters.detach(name)

    async def generate(self, requests: Sequence[Request]) -> AsyncIterator[tuple[str, Delta | Draft]]:
        """All at once, up to the slots, whatever their adapters: vLLM makes one batch of them.

        Failures are of the kinds of `ChatClient`, `unsupported` (this host cannot), `closed`, or `host_died`: then every
        further request fails alike. Deltas come for requests that want them.
        """
        # Without a server vLLM has all of them at once: what waits for a slot waits there.
        slots = max(len(requests), 1) if self._in_process else self._caps.slots
        async with contextlib.aclosing(answered(requests, self._answer, slots)) as found:
            async for name, piece in found:
                yield name, piece

    async def close(self) -> None:
        """End our server, or take our adapters off one that goes on; `reuse` then says what its prefix cache found."""
        alive, self._gone = self._gone is None, self._gone or _CLOSED
        client, self._client = self._client, None
        admin, self._admin = self._admin, None
        adapters, self._adapters = self._adapters, None
        server, self._server = self._server, None
        try:
            if admin is not None and alive:
                now, before = await admin.reuse(), self._reused_before
                self.reuse = Reuse(now.looked_up - before.looked_up, now.found - before.found)
            if adapters is not None:
                await adapters.leave(alive=alive)
        finally:
            if server is not None:
                await server.close()
                if server.ended is None or alive:
                    server.forget_log()
            for each in (client, admin):
                if each is not None:
                    await each.close()

    @property
    def _where(self) -> str | None:
        return self._host.name if self._host else None

    @property
    def _base(self) -> str:
        """What the server calls the base."""
        assert self._host is not None
        return (self._model if self._url is not None else None) or self._host.name

    # Opening

    async def _start(self, host: Host) -> int:
        """A server of ours: what it holds per request, once it has answered."""
        python = find_python(self._python)
        arguments = await asyncio.to_thread(arguments_for, host, self._loras)
        with_null = self._null_adapter
        if with_null is None:
            with_null = await asyncio.to_thread(runs_on_cpu, python)
        launch = Launch(python, [*arguments, *self._own], self._environment)
        until = time.monotonic() + self._start_within
        server: Server | Inside
        if self._in_process:
            self._server = server = Inside(host, launch)
            pipe = Pipe(host.name)
            await pipe.open(await server.start())
            admin = self._connect(pipe, pipe, with_null=with_null)
        else:
            self._server = server = Server(host, launch)
            admin = self._reach(await server.start(), server.key, with_null=with_null)
        while (first := await self._first(until if self._in_process else None)).error is not None:
            left = until - time.monotonic()
            if first.error.kind not in ("unreachable", "disconnected") and server.ended is None and left > 0:
                raise self._not_started(f"its first completion failed: {first.error.message}")
            if await server.dead_within(min(_LOOK, max(left, 0))):
                raise self._not_started(f"it ended: {server.ended}")
            if left <= 0:
                raise self._not_started(f"no answer for {self._start_within} s", remedy="raise option `start_within`")
        return (await admin.models()).get(host.name, 0)

    async def _find(self, host: Host, url: str) -> int:
        """A server of somebody else: what it holds per request, once it has answered."""
        if host.template is not None:
            raise EngineError(
                f"the server at {url} has its own chat template",
                where=host.name,
                remedy="remove `template`, and start that server with --chat-template",
            )
        key = os.environ.get(self._key, "") if self._key is not None else ""
        if self._key is not None and not key:
            raise EngineError(f"the variable {self._key} holds no key", where=host.name, remedy=f"set {self._key}")
        admin = self._reach(url, key, with_null=bool(self._null_adapter))
        try:
            served = await admin.models()
        except EngineError as why:
            raise EngineError(
                f"no vLLM server answers at {url}: {why.what}", where=host.name, remedy=why.remedy or "start it"
            ) from why
        if self._base not in served:
            raise EngineError(
                f"the server at {url} serves no {self._base!r}, but {', '.join(sorted(served)) or 'nothing'}",
                where=host.name,
                remedy="set option `model` to the name that it gives the base",
            )
        if 0 < served[self._base] < host.context:
            raise EngineError(
                f"{url} holds {served[self._base]} tokens per request, {host.context} are asked for",
                where=host.name,
                remedy=f"set `context` to {served[self._base]} or less",
            )
        first = await self._first()
        if first.error is not None:
            raise EngineError(f"the first completion of {url} failed: {first.error.message}", where=host.name)
        return served[self._base]

    def _reach(self, url: str, key: str, *, with_null: bool) -> Admin:
        assert self._host is not None
        client = ChatClient(url, api_key=key, name=self._host.name, limits=_LIMITS)
        return self._connect(client, HttpAdmin(url, key, self._host.name), with_null=with_null)

    def _connect(self, client: ChatClient | Pipe, admin: Admin, *, with_null: bool) -> Admin:
        assert self._host is not None
        self._client, self._admin = client, admin
        self._adapters = Adapters(
            admin,
            self._host.name,
            self._base,
            folder=self._host.path,
            most=self._max_loras,
            ours=self._url is None,
            with_null=with_null,
        )
        self._gone = None
        return admin

    async def _first(self, until: float | None = None) -> Draft:
        """A token of the base, to see whether it answers."""
        assert self._host is not None and self._client is not None
        prompt = (Message("user", "Hi"),) if self._host.chat else "Hi"
        stream, deadline = Stream(self._host.name, prompt), until or time.monotonic() + _LONGEST_PROBE
        request = Request("first", (stream,), Sampling(max_tokens=1), role="probe", deadline=deadline)
        return await self._client.complete(request, fields_of(request, {}, self._base, self._chat_options))

    def _not_started(self, problem: str, *, remedy: str | None = None) -> EngineError:
        assert self._server is not None
        words = self._server.last_words()
        if "No module named" in words and "vllm" in words:
            remedy = MAKE_ONE
        elif "SIGKILL" in problem or "memory" in words.lower():
            needed, free = self._host.memory if self._host else 0, available_memory()
            problem += f"; it is estimated at {mebibytes(needed)}" if needed else ""
            problem += f"; {mebibytes(free)} are free now" if free is not None else ""
            remedy = f"memory may be short: {_LESS_MEMORY}"
        self._gone = Failure("host_died", problem)  # its log stays
        return EngineError(
            f"vLLM did not start: {problem}{words}",
            where=self._where,
            remedy=remedy
            or f"read its log; compare the folder and the options with what is declared; or {_LESS_MEMORY}",
        )

    # Asking

    async def _answer(self, request: Request, tell: Callable[[Delta], None] = lambda _: None) -> Draft:
        adapters = self._adapters
        if self._gone is not None or self._client is None or self._host is None or adapters is None:
            return self._failed(self._gone or _CLOSED)
        if refused := [why for one in request.streams if (why := adapters.refused.get(one.adapter or ""))]:
            return self._failed(Failure("refused", refused[0]))
        problem = unsupported(request, self._host, adapters.names, self._max_logprobs, contrast=self._caps.contrast)
        if problem is not None:
            return self._failed(Failure("unsupported", problem))
        fields = fields_of(request, adapters.names, adapters.base, self._chat_options)
        if isinstance(self._client, Pipe):
            if request.target is not None:
                return self._failed(Failure("unsupported", "vLLM in process scores no given text: its server does"))
            models = [adapters.names[stream.adapter] if stream.adapter else adapters.base for stream in request.streams]
            draft = await self._client.complete(request, fields, tell, models)
        else:  # where there may be adapters, vLLM 0.32 dies of a scored text that shares a step with another request
            async with self._apart.enter(alone=request.target is not None):
                asked = read(self._client, request, fields) if request.target is not None else None
                draft = await (asked or self._client.complete(request, fields, tell))
        if draft.error is None:
            return draft
        if draft.error.kind in ("disconnected", "unreachable", "bad_response") and await self._has_died(draft.error):
            return self._failed(self._gone or _CLOSED)
        return draft

    async def _has_died(self, why: Failure) -> bool:
        """Whether a failure means that the server is dead; nothing is asked of it any more then."""
        broken = "EngineCore" in why.message or "EngineDead" in why.message
        if why.kind == "bad_response" and not broken:
            return False
        server, admin = self._server, self._admin
        if server is not None:
            if not await server.dead_within(_UNTIL_DEAD) and not broken:
                return False
            how = f"it died: {server.ended or why.message}{server.last_words()}"
        else:
            with contextlib.suppress(EngineError):
                if admin is None or await admin.models():
                    return False
            how = f"the server at {self._url} is gone: {why.message}"
        self._gone = self._gone or Failure("host_died", how)
        return True

    def _failed(self, why: Failure) -> Draft:
        name = self._where or ""
        return Draft("", "", "error", served_by=name, error=replace(why, message=f"host {name!r}: {why.message}"))
