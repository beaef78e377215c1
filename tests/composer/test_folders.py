"""Folders are replaced as a whole: whoever looks finds the old one or the new one."""

from __future__ import annotations

from pathlib import Path

import pytest
from crashes import crash_at

from composer.folders import mend, replacing


def put(folder: Path, text: str) -> None:
    with replacing(folder) as fresh:
        (fresh / "text").write_text(text)


def test_a_new_folder_takes_the_place_of_the_old_one_and_nothing_else_is_left(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "mine"

    put(folder, "old")
    put(folder, "new")

    assert (folder / "text").read_text() == "new"
    assert [path.name for path in folder.parent.iterdir()] == ["mine"]
    assert folder.stat().st_mode & 0o777 == 0o755


def test_what_fails_while_it_is_filled_leaves_the_old_folder(tmp_path: Path) -> None:
    put(tmp_path / "mine", "old")

    with pytest.raises(ValueError, match="no"), replacing(tmp_path / "mine"):
        raise ValueError("no")

    assert (tmp_path / "mine" / "text").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


@pytest.mark.parametrize("crash", [1, 2])
def test_a_crash_between_the_renames_loses_nothing(tmp_path: Path, crash: int) -> None:
    folder = tmp_path / "mine"
    put(folder, "old")
    with crash_at(crash):
        put(folder, "new")

    mend(folder)

    assert (folder / "text").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_writer_after_a_crash_needs_no_reader_in_between(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    put(folder, "old")
    with crash_at(2):
        put(folder, "lost")

    with pytest.raises(ValueError, match="no"), replacing(folder):
        raise ValueError("no")

    mend(folder)
    assert (folder / "text").read_text() == "old"


def test_a_crash_while_the_old_one_is_cleared_away_is_forgotten(tmp_path: Path) -> None:
    put(tmp_path / "mine", "new")
    (tmp_path / ".mine-old").mkdir()

    put(tmp_path / "mine", "newer")

    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_mending_takes_nothing_from_a_folder_with_a_longer_name(tmp_path: Path) -> None:
    put(tmp_path / "mine-2", "two")
    with crash_at(2):
        put(tmp_path / "mine-2", "lost")

    mend(tmp_path / "mine")
    mend(tmp_path / "mine-2")

    assert (tmp_path / "mine-2" / "text").read_text() == "two"
    assert not (tmp_path / "mine").exists()


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    put(tmp_path / "there", "old")
    (tmp_path / "here").symlink_to(tmp_path / "there")

    put(tmp_path / "here", "new")

    assert (tmp_path / "here").is_symlink()
    assert (tmp_path / "there" / "text").read_text() == "new"
