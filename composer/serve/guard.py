"""Who may come in: the Host header, the key, the size; asked before any route is looked at."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import json
import os
import re
from collections.abc import Collection, Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from starlette.datastructures import Headers

from composer.errors import ConfigError
from composer.serve.limits import Limits
from composer.serve.refusal import Refused, stopping

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

    from composer.serve.door import Door

_VARIABLE = "COE_API_KEY"
_SHORTEST = 22  # characters: 128 random bits in base64
_HOST = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([\w.-]+))(?::[0-9]{1,5})?", re.ASCII)
_MAKE = "make one with `python -c 'import secrets; print(secrets.token_urlsafe(32))'`"


class Keys:
    """The keys that open the door, kept as sha256 only. Without any, everybody on this machine may come in."""

    def __init__(self, keys: Iterable[str] = ()) -> None:
        self._hashes = {hashlib.sha256(key.encode()).digest() for key in keys}

    def __bool__(self) -> bool:
        return bool(self._hashes)

    def caller(self, authorization: str) -> str | None:
        """Who comes with this Authorization header: a name for its key, None for none of the keys; it takes as long for
        a near miss as for a far one. Where there are no keys, all callers are one."""
        if not self._hashes:
            return ""
        scheme, _, key = authorization.partition(" ")
        told = hashlib.sha256(key.strip().encode("utf-8", "replace")).digest()
        found = False
        for known in self._hashes:
            found |= hmac.compare_digest(told, known)
        return told.hex() if found and scheme.lower() == "bearer" else None


def read_keys(file: Path | None) -> Keys:
    """The keys of `file`, one per line, `#` begins a comment; and that of COE_API_KEY, which is taken out of the
    environment, so that no child of ours inherits it. Raises ConfigError for a file that cannot be read or a weak key."""
    told = [(os.environ.pop(_VARIABLE, ""), _VARIABLE)]
    if file is not None:
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as why:
            raise ConfigError(f"the keys cannot be read: {why}", where=str(file), remedy="correct the path") from why
        told += [(line.partition("#")[0].strip(), f"{file}:{i}") for i, line in enumerate(lines, 1)]
        if not any(key for key, _ in told[1:]):
            raise ConfigError("there is no key in the file", where=str(file), remedy=_MAKE)
    for key, where in told:
        if key and (len(key) < _SHORTEST or not key.isascii() or any(map(str.isspace, key))):
            raise ConfigError(
                f"a key of at least {_SHORTEST} characters, ASCII without blanks, is expected",
                where=where,
                remedy=_MAKE,
            )
    return Keys(key for key, _ in told if key)


class Guard:
    """Refuses, before the app hears of a request: foreign Host headers (421: a web page's own name that was made to point
    here), missing or wrong keys (401, on every path), bodies that say they are too large (413), too many headers (431), everything while
    the server ends (503), and what a caller wants beyond its share (429). `hosts` are the names it goes by; `any_address` also takes
    numeric addresses, which no web page can make its own. The app finds who is calling as `caller` in the scope."""

    def __init__(
        self, app: ASGIApp, door: Door, keys: Keys, hosts: Collection[str], limits: Limits, *, any_address: bool = False
    ) -> None:
        self._app, self._door, self._keys, self._limits = app, door, keys, limits
        self._hosts = {host.lower() for host in hosts}
        self._any_address = any_address

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One connection's request."""
        if scope["type"] != "http":
            return  # nothing else is served

        with ExitStack() as stack:
            try:
                scope["caller"] = caller = self._look(Headers(scope=scope))
                if scope["method"] == "POST":  # who only looks is answered at once
                    stack.enter_context(self._door.callers.entered(caller))
            except Refused as why:
                self._door.metrics.refused(why.status)
                await _refuse(why, send)
                return
            await self._app(scope, receive, send)

    def _look(self, headers: Headers) -> str:
        """Who is calling. Raises Refused unless the request may come in."""
        if not self._is_ours(headers.get("host", "")):
            raise Refused(421, "this server is not called that: see --allow-host", code="wrong_host")
        caller = self._keys.caller(headers.get("authorization", ""))
        if caller is None:
            raise Refused(401, "a key is needed: Authorization: Bearer KEY", code="invalid_api_key")
        if self._door.closing:
            raise stopping()
        if len(headers) > self._limits.headers:
            raise Refused(431, f"more than {self._limits.headers} headers", code="too_many_headers")
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length[:20]) > self._limits.bytes:
            raise too_large(self._limits)
        return caller

    def _is_ours(self, told: str) -> bool:
        name = _host_name(told)
        if name in self._hosts:
            return True
        return self._any_address and _is_address(name)


def too_large(limits: Limits) -> Refused:
    """The refusal of a large body."""
    return Refused(413, f"the body is larger than {limits.bytes} bytes", code="body_too_large")


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches the address.

    >>> is_loopback("localhost"), is_loopback("::1"), is_loopback("0.0.0.0")
    (True, True, False)
    """
    if host.lower() == "localhost":
        return True
    return _is_address(host) and ipaddress.ip_address(host).is_loopback


def _host_name(told: str) -> str:
    """A Host header without its port and brackets; nothing of what is no such header.

    >>> _host_name("COE:8000"), _host_name("[::1]:80"), _host_name("[::1]@evil.example"), _host_name("coe:x")
    ('coe', '::1', '', '')
    """
    found = _HOST.fullmatch(told)
    return (found[1] or found[2]).lower() if found else ""


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


async def _refuse(why: Refused, send: Send) -> None:
    """Answer. The connection is not closed at once: what is on its way would be answered by a reset, which can overtake
    the refusal. The rest of a body is thrown away, for `limits.head` seconds at most."""
    body = json.dumps(why.body()).encode()
    headers = {"content-type": "application/json", "content-length": str(len(body))}
    headers |= why.headers() | ({"www-authenticate": "Bearer"} if why.status == 401 else {})
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": why.status, "headers": raw})
    await send({"type": "http.response.body", "body": body})
