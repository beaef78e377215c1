"""Asks a vLLM without a server, or transformers, over a socket: what is asked in one turn of the event loop enters its next step together."""

from __future__ import annotations

import asyncio
import itertools
import json
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from composer.engines.common import failed
from composer.engines.http import body_of, encoded, turns_of
from composer.engines.limits import LONGEST_CALL
from composer.engines.reply import Reply, refusal
from composer.engines.retry import Unusable
from composer.engines.vllm_proof import PROBE, TOP, refused
from composer.errors import EngineError
from composer.types import AdapterFile, Delta, Draft, Request, Reuse, Sampling, Stream

_LONGEST = 300.0  # seconds; the first adapter may be compiled for
_SOON = 2.0


@dataclass(slots=True)
class _Asked:
    """What is waited for: a reply that comes piece by piece, or one word that something is done."""

    done: asyncio.Future[Any]
    tell: Callable[[Delta], None]
    reply: Reply = field(default_factory=Reply)
    at: int = 0
    last: dict[str, Any] = field(default_factory=dict)  # what ends it

    def hear(self, line: bytes, told: dict[str, Any]) -> None:
        """Take a line that is meant for this one."""
        if self.done.done():
            return
        if "error" in told:
            self.done.set_exception(refusal(int(told.get("status", 500)), line, {}))
        elif "done" in told:
            self.done.set_result(told["done"])
        elif "again" in told:  # its streams have lost step: it is written anew
            self.reply, self.at = Reply(), 0
        else:
            self.last = told
            self._take(line, whole="usage" in told)

    def _take(self, line: bytes, *, whole: bool) -> None:
        known = len(self.reply.text)
        try:
            self.reply.take(line)
            if whole:
                self.reply.take(b"[DONE]")
        except Unusable as why:
            self.done.set_exception(why)
            return
        for text in self.reply.text[known:]:
            self.tell(Delta(text, self.at))
            self.at += len(text)
        if whole:
            self.done.set_result((self.reply, self.last))


class Pipe(asyncio.Protocol):
    """Our end of the line to `vllm_loop.py` or `transformers_child.py`; belongs to the event loop it is opened in. `where`
    is what errors and drafts call the host, `program` what runs at the other end."""

    def __init__(self, where: str, program: str = "vLLM") -> None:
        self._where, self._program = where, program
        self._numbers = itertools.count(1)
        self._asked: dict[str, _Asked] = {}
        self._waiting: list[bytes] = []
        self._dropped: list[str] = []
        self._heard = bytearray()
        self._last = 0.0  # when anything was heard, by the loop's clock
        self._transport: asyncio.WriteTransport | None = None
        self._flush: asyncio.Handle | None = None

    async def open(self, wire: socket.socket) -> None:
        """Take the line over."""
        await asyncio.get_running_loop().create_unix_connection(lambda: self, sock=wire)

    async def complete(
        self,
        request: Request,
        extra: Mapping[str, object] | None = None,
        tell: Callable[[Delta], None] = lambda _: None,
        models: Sequence[str] = (),
    ) -> Draft:
        """As `ChatClient.complete`, with the same kinds of failures. A request without a deadline may wait for its turn as
        long as the other end says anything at all: its whole batch is there already. Of several streams `models` are the names that
        the other end knows each by."""
        started = time.monotonic()
        try:
            asked: dict[str, Any] = {"chat": not isinstance(request.streams[0].prompt, str)}
            asked["body"] = body = {**body_of(request), **(extra or {})}
            if not request.deltas:  # its text comes in one piece
                del body["stream"], body["stream_options"]
            if request.mix is not None:
                asked["streams"] = [_stream(one, name) for one, name in zip(request.streams, models, strict=True)]
                asked["mix"] = asdict(request.mix)
            reply: Reply
            reply, last = await self._ask(asked, request.deadline, tell)
            draft = reply.draft(request)
            if request.mix is not None:
                draft = _together(draft, last)
        except TimeoutError:
            draft = failed("timeout", f"no whole reply within {time.monotonic() - started:.1f} s")
        except Unusable as why:
            draft = failed(why.kind, str(why))
        usage = replace(draft.usage, seconds=time.monotonic() - started)
        return replace(draft, usage=usage, served_by=self._where)

    async def models(self) -> dict[str, int]:
        """The names it answers to, and the tokens a request may hold. Raises EngineError."""
        told = await self.do({"state": True})
        return dict.fromkeys(told["names"], told["context"])

    async def load(self, adapter: AdapterFile, alias: str, base: str | None = None) -> None:
        """Have the adapter's folder read, onto the base of this name where there are several. Raises EngineError."""
        on = {} if base is None else {"base": base}
        try:
            await self._told({"load": {"name": alias, "path": str(adapter.path), **on}})
        except (Unusable, TimeoutError) as why:
            if isinstance(why, Unusable) and why.kind == "refused":
                raise refused(adapter, str(why), self._where, program=self._program) from why
            raise self._silent(why) from why

    async def unload(self, alias: str) -> None:
        """Have an adapter forgotten. Raises EngineError."""
        await self.do({"unload": alias})

    async def reuse(self) -> Reuse:
        """The prompts' tokens that it has looked up and found; zeros where it does not tell."""
        told = await self.state()
        return Reuse(told.get("looked_up", 0), told.get("found", 0))

    async def state(self) -> dict[str, Any]:
        """What it says of itself; nothing where it does not answer soon."""
        try:
            return dict(await self._told({"state": True}, _SOON))
        except (Unusable, TimeoutError):
            return {}

    async def alternatives(self, model: str) -> dict[str, float]:
        """The likeliest first tokens after the probe, with their log-probabilities. Raises EngineError."""
        sampling, deadline = Sampling(max_tokens=1, logprobs=TOP), time.monotonic() + _LONGEST
        probe = Request("probe", (Stream(model, PROBE),), sampling, role="probe", deadline=deadline)
        draft = await self.complete(probe, {"model": model})
        if draft.error is not None:
            raise EngineError(f"{self._program} does not answer as {model!r}: {draft.error.message}", where=self._where)
        return dict(draft.logprobs[0].top) if draft.logprobs else {}

    async def do(self, words: dict[str, Any], longest: float = _LONGEST) -> Any:
        """What the other end says to a line of its own, within so many seconds. Raises EngineError."""
        try:
            return await self._told(words, longest)
        except (Unusable, TimeoutError) as why:
            raise self._silent(why) from why

    async def close(self) -> None:
        """Let go of the line; the engine ends by that. Safe to call twice."""
        if self._transport is not None:
            self._transport.abort()
        self.connection_lost(None)

    # What asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The line is there."""
        assert isinstance(transport, asyncio.WriteTransport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Hand each line to whom it is meant for."""
        self._last = asyncio.get_running_loop().time()
        *lines, rest = (self._heard + data).split(b"\n")
        self._heard = rest
        for line in lines:
            told = json.loads(line)
            asked = self._asked.get(told["id"])
            if asked is not None:
                asked.hear(bytes(line), told)

    def connection_lost(self, why: Exception | None) -> None:
        """Nothing more will come."""
        self._transport = None
        for asked in self._asked.values():
            if not asked.done.done():
                asked.done.set_exception(
                    Unusable("disconnected", f"{self._program} has gone after {asked.at} characters")
                )

    # Sending

    async def _ask(self, asked: Mapping[str, Any], ends: float | None, tell: Callable[[Delta], None]) -> Any:
        """Send a request, and wait for its reply; whoever stops waiting stops it. Raises Unusable, TimeoutError."""
        name = str(next(self._numbers))
        part = encoded({"id": name, **asked})
        return await self._wait(name, part, ends, tell)

    async def _told(self, words: dict[str, Any], longest: float = _LONGEST) -> Any:
        """Send a line of its own. Raises Unusable, TimeoutError."""
        name = str(next(self._numbers))
        self._send()
        if self._transport is not None:
            self._transport.write(encoded({"id": name, **words}) + b"\n")
        return await self._wait(name, None, time.monotonic() + longest, lambda _: None)

    def _silent(self, why: Exception) -> EngineError:
        return EngineError(f"{self._program} does not answer: {str(why) or 'in time'}", where=self._where)

    async def _wait(self, name: str, part: bytes | None, ends: float | None, tell: Callable[[Delta], None]) -> Any:
        if self._transport is None:
            raise Unusable("unreachable", f"{self._program} is not there")
        loop = asyncio.get_running_loop()
        began = loop.time()
        if ends is not None and ends <= began:
            raise TimeoutError
        asked = self._asked[name] = _Asked(loop.create_future(), tell)
        if part is not None:
            self._waiting.append(part)
            self._soon()
        try:
            while not asked.done.done():
                silent = max(began, self._last) + LONGEST_CALL
                left = min(silent if ends is None else ends, silent) - loop.time()
                if left <= 0:
                    raise TimeoutError
                await asyncio.wait([asked.done], timeout=left)
            return asked.done.result()
        finally:
            del self._asked[name]
            if part is not None and not asked.done.done():
                self._dropped.append(name)
                self._soon()

    def _soon(self) -> None:
        """Send at the end of this turn of the event loop, when all that want to ask now have done so."""
        if self._flush is None:
            self._flush = asyncio.get_running_loop().call_soon(self._send)

    def _send(self) -> None:
        if self._flush is not None:
            self._flush.cancel()
        self._flush = None
        waiting, self._waiting = self._waiting, []
        dropped, self._dropped = self._dropped, []
        if self._transport is None:
            return
        if waiting:
            self._transport.write(b'{"ask": [' + b", ".join(waiting) + b"]}\n")
        if dropped:
            self._transport.write(encoded({"drop": dropped}) + b"\n")


def _together(draft: Draft, last: Mapping[str, Any]) -> Draft:
    """The draft of several streams: with the passes of all, and how often they were begun again."""
    again = f"restarts: {last['restarts']}, the last because {last['why']}" if last["restarts"] else ""
    details = [detail for detail in (draft.stop_detail, again) if detail]
    usage = replace(draft.usage, passes=last["passes"])
    return replace(draft, usage=usage, stop_detail="; ".join(details))


def _stream(stream: Stream, model: str) -> dict[str, object]:
    """One of several sources of scores: of whom, with what weight, after which prompt."""
    prompt = stream.prompt
    asked: dict[str, object] = {"prompt": prompt} if isinstance(prompt, str) else {"messages": turns_of(prompt)}
    if stream.routing is not None:
        asked["routing"] = stream.routing
    return {"model": model, "weight": stream.weight, **asked}
