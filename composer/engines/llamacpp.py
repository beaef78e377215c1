"""llama.cpp: one base and its adapters in a child process of ours, called over loopback; a crash costs one host.

Bases that are opened beside it, because requests combine streams of both, have a child each.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from typing import Any

from composer.decoding.vocabulary import shared
from composer.engines.common import answered, failed, prompt_text
from composer.engines.llamacpp_contrast import Contrast, Source, unsupported
from composer.engines.llamacpp_process import CLOSED, LlamaProcess, check_files
from composer.errors import EngineError, RequestError
from composer.registry.gguf import read_tokens
from composer.types import AdapterFile, Caps, Delta, Draft, Failure, Host, Measured, Request, Stream


class LlamaCppEngine:
    """Greedy text is the same alone and among neighbours for the bare base; with an adapter near-ties may part.

    One adapter per batch: a call that mixes them is served adapter after adapter, and streams of different adapters take
    turns. Each stream takes a slot. Use from one event loop. `flash_attention` turns it on or off; None leaves it to
    llama.cpp.
    """

    def __init__(self, *, flash_attention: bool | None = None) -> None:
        self.flash_attention = flash_attention
        self._caps = Caps(level="logprobs", slots=8, max_logprobs=1000, scores=True, contrast=True, beside=True)
        self._host: Host | None = None
        self._processes: list[LlamaProcess] = []  # the host's own, then those beside it
        self._vocabulary: int | None = None  # tokens that all bases have, of several

    @staticmethod
    def release(options: Mapping[str, Any]) -> str:
        """The version of llama.cpp's binding."""
        return f"xllamacpp {version('xllamacpp')}"

    @staticmethod
    def why_not(request: Request) -> str | None:
        """Why it decodes no such streams together; None where it does."""
        return unsupported(request)

    @property
    def caps(self) -> Caps:
        """Everything but `slots` is constant; the host sets those."""
        return self._caps

    async def open(self, host: Host) -> Measured:
        """Start the child, or one per base, and return when each has answered. Raises EngineError for a file that is none,
        bases without a common vocabulary, or no start."""
        if self._processes:
            raise EngineError("this engine is open already", where=host.name)
        started = time.monotonic()
        self._vocabulary = await asyncio.to_thread(_check, host)
        self._host = host
        self._caps = replace(self._caps, slots=host.slots)
        try:
            for one in (host, *host.beside):
                process = LlamaProcess(one, flash_attention=self.flash_attention)
                self._processes.append(process)
                await process.start()
        except BaseException:
            await self.close()
            raise
        return Measured(
            time.monotonic() - started,
            sum(process.resident() for process in self._processes),
            min(process.context for process in self._processes),
        )

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
        """Adapters one after the other, in order of their first request: llama.cpp batches only equal ones. Several streams
        are decoded by `Contrast`: the sampling's order is that of `Draws`, and log-probabilities are of the combination.

        Failures are of the kinds of `ChatClient`, `unsupported` (this host cannot), `closed`, or `host_died`: then every
        further request fails alike. A text that fills the context ends there, and its `stop` is `length`.
        """
        lanes: dict[tuple[str | None, ...], list[Request]] = {}
        for request in requests:
            lanes.setdefault(tuple(stream.adapter for stream in request.streams), []).append(request)
        for lane in lanes.values():
            async with contextlib.aclosing(answered(lane, self._answer, self._caps.slots)) as found:
                async for name, piece in found:
                    yield name, piece

    async def close(self) -> None:
        """End every child at once; they have nothing to save."""
        processes, self._processes = self._processes, []
        for process in processes:
            process.kill()  # all of them before the first is waited for: no cancellation comes between
        for process in processes:
            await process.close()

    @property
    def _where(self) -> str | None:
        return self._host.name if self._host else None

    async def _answer(self, request: Request, tell: Callable[[Delta], None] = lambda _: None) -> Draft:
        if self._host is None or self._gone is not None:
            return _failed(self._host, self._gone or CLOSED)
        problem = unsupported(request) or _cannot(request, self._caps)
        own = [self._process_of(stream) for stream in request.streams]
        for stream, process in zip(request.streams, own, strict=True):
            problem = problem or _unserved(stream, process, self._processes)
        for process in self._processes:
            most = own.count(process)
            if most > process.slots.n and problem is None:
                problem = f"it has {process.slots.n} slots, and {most} streams take one each; raise `slots`"
        processes = [process for process in own if process is not None]
        if problem is not None or len(processes) < len(own):
            return _failed(self._host, Failure("unsupported", problem or ""))
        async with contextlib.AsyncExitStack() as stack:
            try:
                async with asyncio.timeout_at(request.deadline):
                    slots = await _lent(stack, self._processes, request.streams, processes)
            except TimeoutError:
                return failed("timeout", "its deadline passed before a slot was free")
            if self._gone is not None:
                return _failed(self._host, self._gone)
            if request.mix is None:
                draft = await processes[0].answer(request, slots[0], tell)
            else:
                draft = await self._contrasted(request, processes, slots, tell)
        return draft

    async def _contrasted(
        self,
        request: Request,
        processes: Sequence[LlamaProcess],
        slots: Sequence[int],
        tell: Callable[[Delta], None],
    ) -> Draft:
        parts = zip(processes, request.streams, slots, strict=True)
        contrast = Contrast(request, [Source(*part) for part in parts], self._vocabulary, tell)
        client = self._processes[0].client
        assert client is not None
        draft = await client.persist(request, contrast.write)
        for process in dict.fromkeys(processes):
            if await process.broken(draft):
                return process.failed(process.gone or CLOSED)
        return draft

    def _process_of(self, stream: Stream) -> LlamaProcess | None:
        """Who has the stream's weights: the base that it names, else the first."""
        if stream.base is None:
            return self._processes[0]
        return next((process for process in self._processes if process.host.name == stream.base), None)

    @property
    def _gone(self) -> Failure | None:
        """Why nothing can be asked any more: a base that died takes those beside it along, as one host."""
        if not self._processes:
            return CLOSED
        return next((process.gone for process in self._processes if process.gone is not None), None)


def _check(host: Host) -> int | None:
    """Raise EngineError unless every base has sound files, and all have one vocabulary; how many tokens it has, of
    several."""
    for one in (host, *host.beside):
        check_files(one)
        if one is not host and (one.beside or one.name == host.name):
            raise EngineError(f"{one.name!r} cannot be opened beside {host.name!r}", where=host.name)
    if not host.beside:
        return None
    try:
        return shared([(one.name, read_tokens(one.path)) for one in (host, *host.beside) if one.path is not None])
    except RequestError as why:
        raise EngineError(why.what, where=host.name, remedy=why.remedy) from why


def _cannot(request: Request, caps: Caps) -> str | None:
    """What no host of this kind can."""
    if (request.sampling.logprobs or 0) > caps.max_logprobs:
        return (
            f"{request.sampling.logprobs} log-probabilities per token are asked for, at most {caps.max_logprobs} given"
        )
    return None


def _unserved(stream: Stream, process: LlamaProcess | None, processes: Sequence[LlamaProcess]) -> str | None:
    """Why these cannot decode the stream; None if they can."""
    if process is None:
        bases = ", ".join(repr(one.host.name) for one in processes)
        return f"the base {stream.base!r} of {stream.expert!r} is none of the bases that are open: {bases}"
    names = [adapter.name for adapter in process.host.adapters]
    if stream.adapter is not None and stream.adapter not in names:
        return f"it was opened without the adapter {stream.adapter!r}, with: {', '.join(names) or 'none'}"
    if not process.host.chat and not isinstance(stream.prompt, str):
        return "it only continues text, and was given messages"
    return None


async def _lent(
    stack: contextlib.AsyncExitStack,
    order: Sequence[LlamaProcess],
    streams: Sequence[Stream],
    own: Sequence[LlamaProcess],
) -> list[int]:
    """A slot for each stream. Processes are always asked in one order: so no two wait for each other."""
    slots = [0] * len(streams)
    for process in order:
        places = [at for at, one in enumerate(own) if one is process]
        if places:
            wants = [(streams[at].adapter, prompt_text(streams[at].prompt)) for at in places]
            for at, slot in zip(places, await stack.enter_async_context(process.slots.lent(wants)), strict=True):
                slots[at] = slot
    return slots


def _failed(host: Host | None, why: Failure) -> Draft:
    name = host.name if host is not None else ""
    return Draft("", "", "error", served_by=name, error=replace(why, message=f"host {name!r}: {why.message}"))
