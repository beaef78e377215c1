"""HTTP as the fetcher needs it, over httpx, whose errors stop here: index pages, and downloads that go on where they broke."""

from __future__ import annotations

import base64
import os
import re
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from posixpath import commonpath
from typing import Self, TypeVar
from urllib.parse import unquote, urlsplit, urlunsplit
from urllib.request import getproxies, proxy_bypass

import httpx

from composer.errors import SourceError, UnreachableError

WAITS = (0.2, 0.6, 1.8)
"""Seconds before each further try of something that failed for the moment; a download that moved on starts them anew."""

_PAGE_LIMIT = 64 * 2**20  # the longest index page on PyPI has some 10 MB
_REDIRECTS = 5
_RANGE = re.compile(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)")
_STRONG = re.compile(r'"[!-~]*"')  # a weak ETag does not promise the same bytes
_LOOPBACK = re.compile(r"localhost|127\.\d+\.\d+\.\d+|::1")

T = TypeVar("T")
Report = Callable[[int, int | None], None]
"""Told the bytes that have landed and, where known, how many there will be."""


@dataclass(frozen=True, slots=True)
class Network:
    """How servers are reached. `cert` and `client_cert` are PEM files (or a folder), `trusted` hosts whose certificate
    is not checked (`host` or `host:port`), `timeout` seconds without a byte, `secrets` address -> the Authorization
    header for what lies on the same server; of two such addresses, the one that has more of the path in common."""

    cert: str | None = None
    client_cert: str | None = None
    trusted: tuple[str, ...] = ()
    proxy: str | None = field(default=None, repr=False)
    timeout: float = 15.0
    secrets: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)


@dataclass(frozen=True, slots=True)
class Page:
    """A text and where it came from in the end."""

    url: str
    kind: str
    text: str


def split_secret(url: str) -> tuple[str, str | None]:
    """The address without its user and password, and the header made of them.

    >>> split_secret("https://me:s3cret@host:8443/simple")
    ('https://host:8443/simple', 'Basic bWU6czNjcmV0')
    """
    parts = urlsplit(url)
    user, at, host = parts.netloc.rpartition("@")
    if not at:
        return url, None
    name, _, password = user.partition(":")
    token = base64.b64encode(f"{unquote(name)}:{unquote(password)}".encode()).decode()
    return urlunsplit(parts._replace(netloc=host)), f"Basic {token}"


def origin(url: str) -> str:
    """Scheme, host and port: whom a secret may be sent to."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}".lower()


def shown(url: str) -> str:
    """An address as messages may print it: no user, no password, and no query, which may be a signature."""
    return f"{origin(url)}{urlsplit(url).path}"


def ca_bundle() -> str | None:
    """The certificates that the usual variables name; None means the system's (and what SSL_CERT_FILE adds)."""
    return os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE") or None


class Transfer:
    """One HTTP client. Follows a few redirects, speaks plain http only with loopback and trusted hosts, and sends a
    secret to the origin it belongs to and nowhere else."""

    def __init__(self, network: Network) -> None:
        self._network = network
        try:
            self._client = httpx.Client(
                verify=_trust(network),
                mounts={f"https://{host}": _unverified(network, host) for host in network.trusted},
                proxy=network.proxy,
                timeout=network.timeout,
                follow_redirects=True,
                max_redirects=_REDIRECTS,
                event_hooks={"request": [self._refuse_plain]},
                headers={"User-Agent": "composition-of-experts"},
            )
        except (ValueError, ImportError, httpx.InvalidURL) as why:  # no text of `why`: a proxy's may hold a password
            raise SourceError(
                "the address of the proxy is of no use", remedy="correct PIP_PROXY or HTTPS_PROXY"
            ) from why

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def page(self, url: str, accept: str) -> Page:
        """A text of at most 64 MiB. Raises SourceError."""

        def attempt() -> Page:
            with self._get(url, {"Accept": accept}) as response:
                body = bytearray()
                for piece in response.iter_bytes():
                    body += piece
                    if len(body) > _PAGE_LIMIT:
                        raise SourceError("the page is longer than 64 MiB", where=shown(url))
                kind = response.headers.get("content-type", "")
                return Page(str(response.url), kind.partition(";")[0].strip().lower(), body.decode(errors="replace"))

        return self._retry(attempt)

    def download(self, url: str, part: Path, report: Report) -> bool:
        """Bring `part` to the whole body of `url`, going on at its end; True if bytes from before this call are in it.

        Whether they belong together is for the caller's checksum to say. Raises SourceError; OSError for the disk.
        """

        def have() -> int:
            return part.stat().st_size if part.exists() else 0

        kept, etag = have() > 0, ""

        def attempt() -> None:
            nonlocal kept, etag
            start = have()
            headers = {"Accept-Encoding": "identity"}  # a Range counts the bytes as they are sent
            if start:
                headers["Range"] = f"bytes={start}-"
                if etag:
                    headers["If-Range"] = etag
            with self._get(url, headers) as response:
                if response.status_code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                    if _range(response)[1] != start:
                        part.unlink()
                        raise _AgainError(SourceError("the server has no such range", where=shown(url)))
                    return  # nothing was missing
                if response.headers.get("content-encoding", "identity") != "identity":
                    raise SourceError("the server compresses what must come as it is", where=shown(url))
                if response.status_code == HTTPStatus.PARTIAL_CONTENT:
                    begin, total = _range(response)
                    if begin != start:
                        part.unlink(missing_ok=True)
                        raise _AgainError(SourceError("the server sent another range", where=shown(url)))
                else:  # it ignores ranges, or has another file now
                    start, kept = 0, False
                    length = response.headers.get("content-length", "")
                    total = int(length) if length.isdecimal() else None
                tag = response.headers.get("etag", "")
                etag = tag if _STRONG.fullmatch(tag) else ""
                _save(response, part, start, total, report)

        self._retry(attempt, have)
        return kept

    def _retry(self, attempt: Callable[[], T], reached: Callable[[], int] = lambda: 0) -> T:
        # A plain loop and no library: only it knows that a download which moved on has earned new patience.
        mark, waits = reached(), iter(WAITS)
        while True:
            try:
                return attempt()
            except _AgainError as why:
                if reached() > mark:
                    mark, waits = reached(), iter(WAITS)
                wait = next(waits, None)
                if wait is None:
                    raise why.last from why
            time.sleep(wait)

    @contextmanager
    def _get(self, url: str, headers: dict[str, str]) -> Iterator[httpx.Response]:
        """A response of use (200, 206, 416), not yet read; every error of httpx as one of ours."""
        owners = [address for address in self._network.secrets if origin(address) == origin(url)]
        if owners:  # httpx drops the header where a redirect leaves this origin
            owner = max(owners, key=lambda address: len(commonpath([address, url])))
            headers = headers | {"Authorization": self._network.secrets[owner]}
        try:
            with self._client.stream("GET", url, headers=headers) as response:
                _check_status(response, url, ranged="Range" in headers)
                yield response
        except httpx.TooManyRedirects as why:
            raise SourceError(f"more than {_REDIRECTS} redirects", where=shown(url)) from why
        except (httpx.InvalidURL, httpx.UnsupportedProtocol, httpx.LocalProtocolError, httpx.DecodingError) as why:
            raise SourceError(
                "this address, or what it answers, is not HTTP as it should be", where=shown(url)
            ) from why
        except httpx.TransportError as why:
            if "CERTIFICATE_VERIFY_FAILED" in str(why):
                raise SourceError(
                    "the server's certificate is not trusted here",
                    where=_place(why, url),
                    remedy="name your organisation's certificates in PIP_CERT (for packages) or SSL_CERT_FILE",
                ) from why
            reason = str(why) or type(why).__name__
            raise _AgainError(UnreachableError(f"cannot be reached ({reason})", where=_place(why, url))) from why

    def _refuse_plain(self, request: httpx.Request) -> None:
        """Every request passes here, also those that a redirect asks for."""
        url, trusted = request.url, self._network.trusted
        if url.scheme == "https" or _LOOPBACK.fullmatch(url.host):
            return
        if url.scheme == "http" and (url.host in trusted or f"{url.host}:{url.port or 80}" in trusted):
            return
        raise SourceError(
            "this address is not safe: it is not https",
            where=shown(str(url)),
            remedy="use an https address (or, for packages, name the host in PIP_TRUSTED_HOST)",
        )


class _AgainError(Exception):
    """What may well succeed at another try; `last` is the error if none does."""

    def __init__(self, last: SourceError) -> None:
        super().__init__(last)
        self.last = last


def _check_status(response: httpx.Response, url: str, *, ranged: bool) -> None:
    code = response.status_code
    if code == 200 or (ranged and code in (206, 416)):
        return
    phrase = f"{code} {HTTPStatus(code).phrase}" if code in set(HTTPStatus) else str(code)
    error = SourceError(f"the server answers {phrase}", where=shown(url), remedy=_REMEDIES.get(code))
    if code >= 500 or code in (408, 429):
        raise _AgainError(error)
    raise error


_ACCESS = "give the index's user and password in its address, or the hub's token in HF_TOKEN; is the name right?"
_REMEDIES = {401: _ACCESS, 403: _ACCESS, 404: "correct the name, the version or the file"}


def _range(response: httpx.Response) -> tuple[int | None, int | None]:
    """First byte and full size that a partial answer states."""
    found = _RANGE.fullmatch(response.headers.get("content-range", ""))
    if not found:
        return None, None
    return int(found[1]) if found[1] else None, int(found[2]) if found[2] != "*" else None


def _save(response: httpx.Response, part: Path, start: int, total: int | None, report: Report) -> None:
    """Write the body to `part` from `start` on, so that whatever has landed outlives us."""
    done = start
    with part.open("ab" if start else "wb") as file:
        report(done, total)
        for piece in response.iter_raw():
            file.write(piece)
            done += len(piece)
            report(done, total)
        os.fsync(file.fileno())


def _place(why: Exception, url: str) -> str:
    """The address that failed: after a redirect it is another than the one asked for."""
    try:
        return shown(str(why.request.url)) if isinstance(why, httpx.RequestError) else shown(url)
    except RuntimeError:  # it failed before there was a request
        return shown(url)


def _trust(network: Network) -> ssl.SSLContext:
    """Certificates of pip's settings or the usual variables, else the system's, and httpx's own where it shows none."""
    cert = network.cert or ca_bundle()
    try:
        if cert:
            folder = Path(cert).is_dir()
            context = ssl.create_default_context(capath=cert) if folder else ssl.create_default_context(cafile=cert)
        else:
            context = ssl.create_default_context()
            if not context.cert_store_stats()["x509_ca"]:  # nothing there, or a folder that is read when needed
                context = httpx.create_ssl_context()
                context.load_default_certs()
        if network.client_cert:
            context.load_cert_chain(network.client_cert)
    except OSError as why:
        named = cert or os.environ.get("SSL_CERT_FILE")
        places = " or ".join(filter(None, (named, network.client_cert)))
        raise SourceError(
            f"the certificates cannot be read: {why.strerror or why}",
            where=places or None,
            remedy="correct PIP_CERT, PIP_CLIENT_CERT, REQUESTS_CA_BUNDLE, CURL_CA_BUNDLE or SSL_CERT_FILE",
        ) from why
    return context


def _unverified(network: Network, host: str) -> httpx.HTTPTransport:
    # A transport of its own bypasses the client's choice of proxy, so it is made again here.
    proxy = network.proxy or (None if proxy_bypass(host) else getproxies().get("https"))
    return httpx.HTTPTransport(verify=False, proxy=proxy)
