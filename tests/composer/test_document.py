"""Settings files as text: what is no text is refused before anything looks into it."""

from __future__ import annotations

from pathlib import Path

import pytest

from composer.document import shown, text_of
from composer.errors import ConfigError


def test_a_huge_file_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "f.yaml"
    path.write_text("# " + "x" * 2**21)

    with pytest.raises(ConfigError, match="larger than 1 MiB") as caught:
        text_of(path)

    assert caught.value.remedy


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
def test_another_encoding_than_utf_8_is_refused(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "experts.yaml"
    path.write_bytes("models:\n  \u00e4: {}\n".encode(encoding))

    with pytest.raises(ConfigError, match="is not UTF-8") as caught:
        text_of(path)

    assert str(caught.value.where).endswith(":2" if encoding == "latin-1" else ":1")
    assert "save the file as UTF-8" in str(caught.value.remedy)


@pytest.mark.parametrize("name", ["missing.yaml", "."])
def test_a_registry_that_is_no_file_is_an_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=r"is not there|is not a file"):
        text_of(tmp_path / name)


def test_a_file_is_named_as_seen_from_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inside, outside = tmp_path / "here" / "in.yaml", tmp_path / "out\x1b.yaml"
    inside.parent.mkdir()
    monkeypatch.chdir(inside.parent)

    assert shown(inside) == "in.yaml"
    assert shown(outside) == f"{tmp_path}/out\\x1b.yaml"
