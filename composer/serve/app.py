"""The routes: models, chat completions, health. Everything they know of HTTP is here."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Coroutine
from contextlib import aclosing, suppress
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from composer.serve.body import Asked, parse
from composer.serve.door import Call, Door, model_data
from composer.serve.guard import too_large
from composer.serve.limits import Limits
from composer.serve.metrics import MEDIA_TYPE
from composer.serve.refusal import Refused, internal
from composer.serve.reply import Choice, Told, chunk, completion, part

T = TypeVar("T")
_SMALL = 64 * 1024  # bytes; a larger body is read beside the event loop


class _Gone(Exception):
    """The client has hung up."""


def build(door: Door) -> Starlette:
    """The app of `door`, without its guard."""

    async def models(_: Request) -> Response:
        found = [model_data(name, door.started) for name in door.models()]
        return JSONResponse({"object": "list", "data": found})

    async def model(request: Request) -> Response:
        name = request.path_params["name"]
        door.check(name)
        return JSONResponse(model_data(name, door.started))

    async def chat(request: Request) -> Response:
        try:
            asked = await _read(request, door.limits)
            call = door.begin(asked, request.scope["caller"])
        except Refused as why:
            door.metrics.refused(why.status)
            raise
        try:
            if asked.stream:
                await _unless_gone(request.receive, call.begins(door.limits.patience))
                return _Events(call)
            told = await _unless_gone(request.receive, _wait(call))
        except BaseException:
            await call.cancel()
            raise
        return JSONResponse(completion(call.id, call.created, asked.model, told), headers=_headers(call))

    async def health(_: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def ready(_: Request) -> Response:
        return JSONResponse({"status": "ready", "expert": await door.ready.check()})

    async def metrics(_: Request) -> Response:
        return Response(door.metrics.text(), media_type=MEDIA_TYPE)

    app = Starlette(
        routes=[
            Route("/v1/chat/completions", chat, methods=["POST"]),
            Route("/v1/models", models),
            Route("/v1/models/{name}", model),
            Route("/healthz", health),
            Route("/readyz", ready),
            Route("/metrics", metrics),
        ],
        exception_handlers={
            Refused: _refused,
            HTTPException: _http,
            _Gone: _gone,
            ClientDisconnect: _gone,
            Exception: _bug,
        },
    )
    app.router.redirect_slashes = False
    return app


async def _read(request: Request, limits: Limits) -> Asked:
    """The request's body, within its bounds of size and time. Raises Refused, ClientDisconnect."""
    # A web page may send a form to any address without asking, but no JSON.
    form = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if form != "application/json":
        raise Refused(415, f"send `content-type: application/json`, not {form[:64]!r}", code="wrong_content_type")
    raw = bytearray()
    try:
        async with asyncio.timeout(limits.body):
            async for piece in request.stream():
                raw += piece
                if len(raw) > limits.bytes:
                    raise too_large(limits)
    except TimeoutError as why:
        raise Refused(408, f"the body did not come within {limits.body:.0f} s", code="too_slow") from why
    whole = bytes(raw)
    return parse(whole, limits) if len(whole) <= _SMALL else await asyncio.to_thread(parse, whole, limits)


async def _unless_gone(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """What `work` returns; if the client hangs up meanwhile, `work` is cancelled and _Gone is raised."""

    async def hang_up() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    task, gone = asyncio.create_task(work), asyncio.create_task(hang_up())
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise _Gone
        return task.result()
    finally:
        task.cancel()
        gone.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _wait(call: Call) -> Told:
    return await call.work


class _Events(Response):
    """A call as server-sent events; ends the call, whoever hangs up."""

    media_type = "text/event-stream"

    def __init__(self, call: Call) -> None:
        self._call = call
        self.status_code, self.background = 200, None
        self.init_headers({"cache-control": "no-cache", "x-accel-buffering": "no", **_headers(call)})
        del self.headers["content-length"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            with suppress(_Gone):  # there is nobody to tell, and a status has been sent
                await _unless_gone(receive, self._send(send))
        finally:
            await self._call.cancel()

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        async with aclosing(_events(self._call)) as events:
            async for event in events:
                await send({"type": "http.response.body", "body": event, "more_body": True})
                await asyncio.sleep(0)  # else a connection that is lost is not noticed while there is more to say
        await send({"type": "http.response.body", "body": b""})


async def _events(call: Call) -> AsyncGenerator[bytes, None]:
    """The chunks of a stream. It ends with [DONE] if the reply is whole, and with an error event if it is not."""
    asked = call.asked
    more: dict[str, Any] = {"usage": None} if asked.include_usage else {}

    def event(*parts: dict[str, Any], **told: Any) -> bytes:
        return _data(chunk(call.id, call.created, asked.model, parts, **(more | told)))

    yield event(*(part(i, {"role": "assistant", "content": ""}) for i in range(asked.n)))
    try:
        while True:
            try:
                piece = await call.next(call.door.limits.patience)
            except TimeoutError:
                yield b": still at work\n\n"
                continue
            if piece is None:
                break
            yield event(part(piece[0], {"content": piece[1]}))
        whole = await call.work
        for i, choice in enumerate(whole.choices):
            for delta in _left(call, i, choice):
                yield event(part(i, delta))
            yield event(part(i, {}, choice.finish), x_coe=choice.about | {"spent": whole.spent})
        if asked.include_usage:
            yield event(usage=whole.usage)
        yield b"data: [DONE]\n\n"
    except Refused as why:
        yield _data(why.body())


def _left(call: Call, i: int, choice: Choice) -> list[dict[str, Any]]:
    """What of a choice was not passed on while it was written."""
    if choice.refusal is not None:
        return [{"refusal": choice.refusal}]
    rest = call.passing[i].rest(choice.text)
    return [{"content": rest}] if rest else []


def _data(told: dict[str, Any]) -> bytes:
    text = json.dumps(told, ensure_ascii=False, separators=(",", ":"))
    return b"data: " + text.encode("utf-8", "replace") + b"\n\n"


def _headers(call: Call) -> dict[str, str]:
    return {"x-request-id": call.id}


async def _refused(_: Request, why: Exception) -> Response:
    assert isinstance(why, Refused)
    return JSONResponse(why.body(), why.status, why.headers())


async def _http(request: Request, why: Exception) -> Response:
    """Paths and methods that there are not, in OpenAI's form too."""
    assert isinstance(why, HTTPException)
    told = f"{request.method} {request.url.path[:100]}: {why.detail}"
    return JSONResponse(
        Refused(why.status_code, told, code="not_found").body(), why.status_code, dict(why.headers or {})
    )


async def _bug(_: Request, __: Exception) -> Response:
    """uvicorn logs the traceback."""
    return JSONResponse(internal().body(), 500)


async def _gone(_: Request, __: Exception) -> Response:
    return Response(status_code=499)  # nobody reads it
