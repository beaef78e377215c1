"""Serves the door by uvicorn: from the bound socket to the last answer, with bounds that uvicorn itself does not have."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
from collections.abc import Callable, Collection, Iterator
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from composer.config import AUTO
from composer.errors import ConfigError
from composer.pipeline import Pipeline
from composer.serve.app import build
from composer.serve.door import Door
from composer.serve.guard import Guard, Keys, is_loopback
from composer.serve.limits import Limits
from composer.serve.port import bind
from composer.serve.refusal import Refused
from composer.settings.specs import Settings

_LOCAL = ("localhost", "127.0.0.1", "::1")
_AFTER = 5.0  # seconds between the end of what is under way and that of its connections


def serve(
    pipeline: Pipeline,
    keys: Keys,
    *,
    host: str,
    port: int,
    names: Collection[str] = (),
    limits: Limits,
    say: Callable[[str], None],
) -> int:
    """Serve until a signal says stop; return its exit code (130, 143). `names` are further Host names to go by.

    The first SIGINT or SIGTERM takes no more requests and lets answers end within `limits.grace`, the second ends at
    once; every host has ended when this returns. Raises ConfigError for an address that others reach without a key,
    ServeError for a port that is taken, and what reading or fetching the routers' files raises.
    """
    if not keys and not is_loopback(host):
        raise ConfigError(
            f"{host} can be reached from other machines, and there is no key",
            where="--host",
            remedy="give a key (--api-key-file FILE, or COE_API_KEY), or serve 127.0.0.1",
        )
    listening = bind(host, port)
    try:
        # Routers read their profile and the encoder once: now, not under the first caller, and nobody waits in vain.
        for by in (AUTO, *pipeline.settings.pipelines):
            pipeline.route(["Hello"], by)
            pipeline.check_indexes(by)
        return asyncio.run(_serve(pipeline, keys, listening, host, names, limits, say))
    finally:
        listening.close()


def limits_of(settings: Settings, **told: Any) -> Limits:
    """The usual limits with these changes; no answer is longer than the longest context."""
    return Limits(max_tokens=max(model.context for model in settings.models.values()), **told)


async def _serve(
    pipeline: Pipeline,
    keys: Keys,
    listening: socket.socket,
    host: str,
    names: Collection[str],
    limits: Limits,
    say: Callable[[str], None],
) -> int:
    told: list[signal.Signals] = []
    async with pipeline:
        door = Door(pipeline, limits, say)
        guard = Guard(build(door), door, keys, {*_LOCAL, host, *names}, limits, any_address=not is_loopback(host))
        server = _Server(_config(guard, limits))
        loop = asyncio.get_running_loop()

        def stop(which: signal.Signals) -> None:
            told.append(which)
            door.stop()
            server.should_exit = True
            if len(told) == 1:
                say(f"stopping: answers under way have {limits.grace:g} s to end; once more ends at once")
                loop.call_later(limits.grace, door.cut)
            else:
                server.force_exit = True
                door.cut()

        for which in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(which, stop, which)
        shown, port = (f"[{host}]" if ":" in host else host), listening.getsockname()[1]
        say(f"serving http://{shown}:{port}/v1 ({', '.join(door.models())})")
        try:
            await server.serve(sockets=[listening])
        finally:
            await door.close()
            say(door.summary())
    return 128 + told[0] if told else 1


def _config(app: Guard, limits: Limits) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=_Bounded.within(limits),
        ws="none",
        loop="asyncio",
        lifespan="off",
        log_config=None,  # requests are not logged: they hold what people ask
        log_level="error",  # nor is what is no request: whoever sends it could fill the log
        access_log=False,
        server_header=False,
        proxy_headers=False,  # whoever is in front may say anything
        h11_max_incomplete_event_size=limits.line,
        limit_concurrency=limits.connections,
        timeout_keep_alive=int(limits.idle),
        timeout_graceful_shutdown=int(limits.grace + _AFTER),
    )


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are ours: uvicorn would raise them again when it is done, before the hosts have ended."""
        yield


class _Bounded(H11Protocol):
    """Closes connections whose request's head does not come in time: uvicorn waits for ever, one byte at a time is
    enough. So it does for the rest of a body that was refused, and for a reader who does not take what is sent. Heads are
    bounded in bytes as well: h11 looks at the size of those alone that are not whole, and asyncio hands it a quarter of a
    megabyte at a time."""

    limits: Limits

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._late: asyncio.TimerHandle | None = None
        self._unread: asyncio.TimerHandle | None = None

    @classmethod
    def within(cls, limits: Limits) -> type[_Bounded]:
        """The protocol with these bounds."""
        return type("Bounded", (cls,), {"limits": limits})

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        transport.max_size = self.limits.line  # type: ignore[attr-defined]  # bytes that asyncio reads at a time
        transport.set_write_buffer_limits(high=0)  # writing counts as paused as long as anything waits for its reader
        self._look()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._look()

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        self.resume_writing()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        # not `close`: that would wait until all is read
        self._unread = asyncio.get_running_loop().call_later(self.limits.write, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def send_400_response(self, msg: str) -> None:
        """What is no HTTP is told so in OpenAI's form too, unless it comes where an answer has begun: uvicorn would send
        a second one."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            body = json.dumps(Refused(400, msg, code="invalid_http").body()).encode()
            headers = {"content-type": "application/json", "content-length": str(len(body)), "connection": "close"}
            for event in (
                h11.Response(status_code=400, headers=list(headers.items()), reason=b"Bad Request"),
                h11.Data(data=body),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def _look(self) -> None:
        """The time runs from the first byte on (or from the connection on) while nothing of ours is owed: there is no
        whole head, or its answer is out. Between two requests uvicorn's own time runs."""
        owed = self.cycle is not None and not self.cycle.response_complete
        if owed or self.conn.their_state is h11.CLOSED:
            self._disarm()
        elif self._late is None:
            self._late = asyncio.get_running_loop().call_later(self.limits.head, self.transport.close)

    def _disarm(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None
