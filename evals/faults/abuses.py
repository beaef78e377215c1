"""What callers may send to a server to hurt it, as bytes, and what it may say to that."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

CHAT = "/v1/chat/completions"
CLOSED = 0
"""No answer: the connection is closed."""
_MANY = 690_000  # arrays that fit into a body
_MIB = 2**20
_JSON = ("content-type: application/json", "content-length: 1000")


@dataclass(frozen=True, slots=True)
class Abuse:
    """`pieces` are sent one after the other, `pause` seconds apart; then the client listens until the server hangs up, or
    leaves after `hears` bytes (None: never), or takes nothing of what is sent (`deaf`). `statuses` are those it may be
    answered with, `answers` how many."""

    name: str
    statuses: tuple[int, ...]
    pieces: Sequence[bytes]
    pause: float = 0.0
    hears: int | None = None
    deaf: bool = False
    answers: int = 1


def head(method: str = "POST", path: str = CHAT, *lines: str, host: str = "127.0.0.1") -> bytes:
    """The head of a request after which the server is to close."""
    named = [f"host: {host}"] if host else []
    return "\r\n".join([f"{method} {path} HTTP/1.1", *named, "connection: close", *lines, "", ""]).encode("latin-1")


def post(body: bytes, *lines: str, kind: str = "application/json", host: str = "127.0.0.1") -> bytes:
    """A whole chat request."""
    return head("POST", CHAT, f"content-type: {kind}", f"content-length: {len(body)}", *lines, host=host) + body


def asked(text: str = "What?", model: str = "e0", **fields: Any) -> bytes:
    """The body of a request; the fields change what is right with it."""
    return json.dumps({"model": model, "messages": [{"role": "user", "content": text}], **fields}).encode()


def raw(field: bytes) -> bytes:
    """A request with this JSON as its last field."""
    return post(asked()[:-1] + b", " + field + b"}")


def chunks(*data: bytes) -> bytes:
    """Chunks as they are sent, without the last one."""
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in data)


def _kept(request: bytes) -> bytes:
    """The request, after which the connection stays."""
    return request.replace(b"connection: close\r\n", b"")


def abuses() -> Iterator[Abuse]:
    """Those that go one after the other; each is one connection."""
    for group in (_large, _bodies, _values, _places, _wire, _leavers):
        yield from group()


def _large() -> Iterator[Abuse]:
    chunked = head("POST", CHAT, "content-type: application/json", "transfer-encoding: chunked")
    yield Abuse("a body of 3 MiB", (413,), [post(b" " * 3 * _MIB)])
    yield Abuse("a body that says 1 PB", (413,), [head("POST", CHAT, "content-length: 1000000000000000")])
    yield Abuse("chunks that do not end", (413,), [chunked, *[chunks(b" " * 65536)] * 48])
    yield Abuse("arrays 100,000 deep", (400,), [post(b"[" * 100_000)])
    yield Abuse("objects 100,000 deep", (400,), [post(b'{"a":' * 100_000)])
    yield Abuse("690,000 arrays", (400,), [raw(b'"metadata": [' + b"[]," * _MANY + b"0]")])
    yield Abuse("250,000 objects", (400,), [raw(b'"metadata": [' + b'{"a":0},' * 250_000 + b"0]")])
    yield Abuse("180,000 fields", (400,), [raw(b",".join(b'"%d":0' % i for i in range(180_000)))])
    yield Abuse("a number of a million digits", (400,), [raw(b'"seed": ' + b"9" * 1_000_000)])
    yield Abuse("a question of 1.9 MB", (200, 400), [post(asked("word " * 380_000))])
    yield Abuse("a question of 300,000 escapes", (200, 400), [post(asked("\u0001" * 300_000))])
    yield Abuse("10,000 headers", (400,), [head("GET", "/healthz", *[f"x-{i}: y" for i in range(10_000)])])
    yield Abuse("a header of 1 MiB", (400,), [head("GET", "/healthz", "x: " + "y" * _MIB)])
    yield Abuse("a path of 1 MiB", (400,), [head("GET", "/" + "y" * _MIB)])
    yield Abuse("1000 headers", (431,), [head("GET", "/healthz", *[f"x-{i}: y" for i in range(1000)])])
    yield Abuse("a path of 10 kB", (404,), [head("GET", "/v1/models/" + "y" * 10_000)])


def slow_ones() -> Iterator[Abuse]:
    """Those that take their time, and go side by side."""
    json_head = head("POST", CHAT, "content-type: application/json", "content-length: 1000")
    chunked = head("POST", CHAT, "content-type: application/json", "transfer-encoding: chunked")
    yield Abuse("a head that drips", (CLOSED,), [bytes([each]) for each in head() * 3], pause=0.05)
    yield Abuse("a body that drips", (408,), [json_head, *[b" "] * 100], pause=0.05)
    yield Abuse("chunks that drip", (408,), [chunked, *[chunks(b" ")] * 100], pause=0.05)
    yield Abuse("a body that never comes", (408,), [head("POST", CHAT, *_JSON, "expect: 100-continue")])
    long = post(asked("word " * 20_000, "e2"))
    yield Abuse("8 MB of answers that nobody reads", (CLOSED,), [_kept(long) * 79 + long], deaf=True)
    yield Abuse("a refused body that drips", (405,), [head("PUT", CHAT, *_JSON), *[b" "] * 100], pause=0.05)


def _bodies() -> Iterator[Abuse]:
    multipart = b'--x\r\ncontent-disposition: form-data; name="f"; filename="../../x"\r\n\r\n1\r\n--x--\r\n'
    yield Abuse("a form", (415,), [post(b"model=auto&" * 1000, kind="application/x-www-form-urlencoded")])
    yield Abuse("a multipart form", (415,), [post(multipart, kind="multipart/form-data; boundary=x")])
    yield Abuse("text/plain", (415,), [post(asked(), kind="text/plain")])
    yield Abuse("no content type", (415,), [head("POST", CHAT, "content-length: 2") + b"{}"])
    yield Abuse("a compressed body", (400,), [post(b"\x1f\x8b\x08\x00" + b"\0" * 99, "content-encoding: gzip")])
    yield Abuse("a NUL", (200, 400), [post(asked("a\0b"))])
    yield Abuse("half a surrogate pair", (400,), [post(asked().replace(b"What?", b"\\ud800"))])
    yield Abuse("no UTF-8", (400,), [post(asked().replace(b"What?", b"\xff\xfe"))])
    yield Abuse("control and direction characters", (200, 400), [post(asked("\x1b]0;x\x07\x9b31m‮‭"))])
    for body in (b"", b"null", b"[]", b'"x"', b"{", b"{}{}", b"{'model': 'auto'}", b"\0" * 100):
        yield Abuse(f"{body[:16]!r} as a body", (400,), [post(body)])


_VALUES: tuple[tuple[str, Any], ...] = (
    ("n", 1_000_000),
    ("n", -1),
    ("n", "2"),
    ("n", [2]),
    ("messages", [{"role": "user", "content": "x"}] * 10_000),
    ("messages", "x"),
    ("messages", [1]),
    ("messages", [{"role": "user", "content": 5}]),
    (
        "messages",
        [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}]}],
    ),
    ("stop", ["x"] * 1000),
    ("stop", "x" * 100_000),
    ("stop", {"x": 1}),
    ("max_tokens", 10**12),
    ("max_tokens", 1e12),
    ("max_tokens", -5),
    ("temperature", -1),
    ("temperature", {}),
    ("top_p", -0.1),
    ("seed", 2**80),
    ("stream", "yes"),
    ("response_format", {"type": "json_schema", "json_schema": {"pattern": "(a+)+$"}}),
    ("logit_bias", {str(i): 100 for i in range(10_000)}),
    ("tools", [{"type": "function"}] * 1000),
    ("api_base", "http://169.254.169.254/"),
    ("__proto__", {}),
    ("model", "x" * 1_000_000),
    ("model", ["e0"]),
    ("model", ""),
)


def _values() -> Iterator[Abuse]:
    for name, value in _VALUES:
        yield Abuse(f"{name}: {str(value)[:30]}", (400,), [post(asked(**{name: value}))])
    for number in (b"NaN", b"Infinity", b"-Infinity", b"1e999"):
        yield Abuse(f"temperature {number.decode()}", (400,), [raw(b'"temperature": ' + number)])
    for model in ("nobody", "../../etc/passwd", "e0\0", "'; DROP TABLE draft; --"):
        yield Abuse(f"the model {model!r}", (404,), [post(asked(model=model))])


def _places() -> Iterator[Abuse]:
    for path in ("/v1/models/../../../etc/passwd", "/v1/models/%2e%2e%2f%2e%2e%2fetc%2fpasswd", "/%00", "//etc/passwd"):
        yield Abuse(f"GET {path}", (404,), [head("GET", path)])
    yield Abuse("another server's address", (404,), [head("GET", "http://evil.example/")])
    for host in ("evil.example", "evil.example:80", "127.0.0.1.evil.example", "127.0.0.1@evil.example", ""):
        yield Abuse(f"Host {host!r}", (400,) if not host else (421,), [head("GET", "/v1/models", host=host)])
    for host in ("[::1]@evil.example", "[::1", "127.0.0.1:x", "127.0.0.1:99999999", "localhost:8000:8000"):
        yield Abuse(f"Host {host!r}", (404, 421), [head("GET", "/nowhere", host=host)])
    yield Abuse("a web page's question", (200,), [post(asked(), "origin: http://evil.example")])
    preflight = ("origin: http://evil.example", "access-control-request-method: POST")
    yield Abuse("a web page's preflight", (405,), [head("OPTIONS", CHAT, *preflight)])
    for method in ("GET", "PUT", "DELETE", "PATCH", "TRACE", "HEAD", "BREW", "CONNECT"):
        yield Abuse(f"{method} where only POST goes", (405,), [head(method)])
    yield Abuse("HEAD", (200,), [head("HEAD", "/v1/models")])
    yield Abuse("a range", (200,), [head("GET", "/v1/models", "range: bytes=" + ",".join(["0-0"] * 5000))])


def _wire() -> Iterator[Abuse]:
    look = head("GET", "/healthz")
    yield Abuse("200 requests at once", (200,), [_kept(look) * 199 + look], answers=200)
    yield Abuse("noise", (400,), [bytes(range(256)) * 16 + b"\r\n\r\n"])
    yield Abuse("64 KiB without a line", (400,), [b"A" * 70_000])
    yield Abuse(
        "a TLS greeting", (400,), [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x11" * 512 + b"\r\n\r\n"]
    )
    yield Abuse("HTTP/2", (421,), [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"], answers=2)
    yield Abuse("HTTP/9.9", (200, 400, 505), [head("GET", "/healthz").replace(b"HTTP/1.1", b"HTTP/9.9")])
    yield Abuse("two lengths", (400,), [head("POST", CHAT, *_JSON, "content-length: 2") + b"{}"])
    for length in ("-1", "1e3", "0x10", "+5", "9" * 5000):
        yield Abuse(
            f"a length of {length[:8]}", (400, 413), [head("POST", CHAT, _JSON[0], f"content-length: {length}")]
        )
    both = head("POST", CHAT, *_JSON, "transfer-encoding: chunked")
    yield Abuse("a length and chunks", (200, 400), [both + chunks(asked()) + b"0\r\n\r\n"])
    chunked = head("POST", CHAT, _JSON[0], "transfer-encoding: chunked")
    yield Abuse("a chunk of no size", (400,), [chunked, b"zz\r\n"], pause=0.05)
    refused = head("POST", CHAT, "content-type: text/plain", "transfer-encoding: chunked")
    yield Abuse("a chunk of no size, too late", (415,), [refused, b"zz\r\n"], pause=0.05)
    yield Abuse("an unknown transfer coding", (400, 501), [head("POST", CHAT, _JSON[0], "transfer-encoding: gzip")])
    socket = ("upgrade: websocket", "sec-websocket-key: eA==", "sec-websocket-version: 13")
    yield Abuse("a web socket", (405,), [head("GET", CHAT, *socket).replace(b"close", b"upgrade, close")])
    yield Abuse("a header on two lines", (200, 400), [head("GET", "/healthz", "x: a", " b")])
    yield Abuse("two hosts", (400,), [head("GET", "/healthz", "host: evil.example")])
    yield Abuse("a header in no ASCII", (200, 400), [head("GET", "/healthz", "authorization: B\xe9arer \xff")])


def _leaver(name: str, *pieces: bytes) -> Abuse:
    """Leaves when it has said this, and hears nothing."""
    return Abuse(name, (CLOSED, 200), pieces, hears=0)


def _leavers() -> Iterator[Abuse]:
    yield _leaver("leaves without a word")
    yield _leaver("leaves within a head", b"POST /v1")
    yield _leaver("leaves within a body", head("POST", CHAT, *_JSON) + b'{"model"')
    yield _leaver("leaves before the answer", post(asked("leaver", "e1")))
    yield Abuse("leaves within a stream", (200,), [post(asked("leaver", "e1", stream=True))], hears=300)
    draws = asked("leaver", "e1", stream=True, n=8, temperature=1)
    yield Abuse("leaves within a stream of eight", (200,), [post(draws)], hears=300)
