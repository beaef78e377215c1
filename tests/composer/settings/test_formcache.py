"""A text that passed the form once is not checked again, and nothing else changes by that."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from composer.config import load_settings, packaged_registry
from composer.document import Document
from composer.errors import ConfigError
from composer.settings import formcache
from composer.settings.specs import Settings


@pytest.fixture
def registry(tmp_path: Path) -> Path:
    path = tmp_path / "experts.yaml"
    path.write_text(packaged_registry().read_text())
    return path


def notes() -> list[Path]:
    return sorted((formcache.cache_folder() / "forms").glob("*"))


def same(a: Settings, b: Settings) -> bool:
    nothing = Document("", {}, {})
    alike = replace(a, document=nothing) == replace(b, document=nothing)
    return alike and (a.document.data, a.document.lines) == (b.document.data, b.document.lines)


def test_the_second_reading_gives_the_same_settings_without_parser_and_pydantic(registry: Path) -> None:
    first = load_settings(registry)
    code = (
        "import sys; from pathlib import Path; from composer.config import load_settings; "
        f"load_settings(Path({str(registry)!r})); print(sorted({{'pydantic', 'ruamel.yaml'}} & set(sys.modules)))"
    )

    env = {**os.environ, "COE_CACHE": str(formcache.cache_folder())}
    told = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, env=env).stdout

    assert told == "[]\n"
    assert same(first, load_settings(registry)) and len(notes()) == 1


def test_a_changed_text_is_checked_again(registry: Path) -> None:
    load_settings(registry)
    registry.write_text(registry.read_text() + "\nnonsense: 1\n")

    for _ in range(2):  # a text that failed leaves no note
        with pytest.raises(ConfigError, match="nonsense"):
            load_settings(registry)


def test_what_is_beyond_the_form_is_checked_every_time(registry: Path, tmp_path: Path) -> None:
    text = registry.read_text().replace("profile: default:profile", "profile: inside")
    registry.write_text(text)
    load_settings(registry)
    (tmp_path / "inside").symlink_to("/")

    with pytest.raises(ConfigError, match="leaves the folder"):
        load_settings(registry)


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"rows": 1}', b"\xff"])
def test_a_damaged_note_is_as_good_as_none(registry: Path, damage: bytes) -> None:
    first = load_settings(registry)
    [note] = notes()
    note.write_bytes(damage)

    assert same(first, load_settings(registry))
    assert note.read_bytes() != damage


def test_a_cache_that_cannot_be_written_costs_nothing_but_time(registry: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formcache, "cache_folder", lambda: Path("/dev/null"))

    assert same(load_settings(registry), load_settings(registry))


def test_other_code_reads_the_text_anew(registry: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load_settings(registry)
    monkeypatch.setattr(formcache, "_CODE", (Path(formcache.__file__).with_name("form.py"),))
    load_settings(registry)

    assert len(notes()) == 2


def test_old_notes_go(registry: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formcache, "_KEPT", 2)
    text = registry.read_text()
    for number in range(4):
        registry.write_text(f"{text}# {number}\n")
        load_settings(registry)

    assert len(notes()) == 2
