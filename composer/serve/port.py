"""The listening socket; when somebody has the port already, who, and which one is free."""

from __future__ import annotations

import errno
import socket
from contextlib import suppress
from pathlib import Path

from composer.errors import ConfigError, ServeError

_TRIED = 50  # ports after a busy one


def bind(host: str, port: int) -> socket.socket:
    """A socket bound to the address, not listening yet; port 0 takes any free one.

    Raises ServeError for a port that is in use, naming its holder where the system tells and the next free port, and
    ConfigError for an address that this machine does not have.
    """
    try:
        return _bound(host, port)
    except socket.gaierror as why:
        raise ConfigError(f"{host!r} is no address: {why.strerror}", where="--host", remedy="correct it") from why
    except OSError as why:
        if why.errno == errno.EADDRINUSE:
            raise ServeError(
                f"port {port} of {host} is in use{_held_by(port)}",
                where="--port",
                remedy=f"end that process, or take {_next_free(host, port)}",
            ) from why
        if why.errno == errno.EACCES:
            raise ServeError(f"port {port} is not for you", where="--port", remedy="take one above 1023") from why
        raise ConfigError(f"{host} cannot be served: {why.strerror}", where="--host", remedy="correct it") from why


def _bound(host: str, port: int) -> socket.socket:
    [(family, kind, protocol, _, address), *_] = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    made = socket.socket(family, kind, protocol)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections of the last server may linger
        made.bind(address)
        made.listen(0)  # two sockets may be bound with that option; only one listens
    except OSError:
        made.close()
        raise
    return made


def _next_free(host: str, port: int) -> str:
    for other in range(port + 1, min(port + _TRIED, 65536)):
        with suppress(OSError):
            _bound(host, other).close()
            return f"a free one: --port {other}"
    return "another one: --port 0 takes any"


def _held_by(port: int) -> str:
    """` by process 12 (name)` where /proc says so: of processes of ours, or of all if we are root."""
    inodes = {inode for name in ("tcp", "tcp6") for inode in _listening(Path("/proc/net") / name, port)}
    for folder in Path("/proc").glob("[0-9]*") if inodes else ():
        with suppress(OSError):
            for handle in (folder / "fd").iterdir():
                if str(handle.readlink()) in inodes:
                    return f" by process {folder.name} ({(folder / 'comm').read_text().strip()})"
    return ""


def _listening(table: Path, port: int) -> list[str]:
    """The sockets that listen on the port, as handles name them."""
    try:
        rows = [line.split() for line in table.read_text().splitlines()[1:]]
    except OSError:
        return []
    return [f"socket:[{row[9]}]" for row in rows if row[3] == "0A" and int(row[1].rpartition(":")[2], 16) == port]
