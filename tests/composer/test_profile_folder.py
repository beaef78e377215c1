"""The folder of a profile: kept whole, refused where it does not fit, and found beside what the user measured."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from crashes import crash_at
from profile_kit import ENCODER, measured, right

from composer.config import load_settings
from composer.errors import ConfigError, InputError
from composer.places import user_folder
from composer.profile import EMPTY, MANIFEST, OUTCOMES, VECTORS, find_profile, read_profile, write_profile
from composer.registry.experts import Registry


async def test_a_profile_is_read_as_it_was_written_and_nothing_else_is_left(tmp_path: Path) -> None:
    profile = await measured(tmp_path, right)
    folder = tmp_path / "profiles" / "mine"

    write_profile(EMPTY, folder, registry="r")
    write_profile(profile, folder, registry="r")
    read = read_profile(folder, encoder=ENCODER)

    assert read.table.equals(profile.table)
    assert np.array_equal(read.vectors, profile.vectors)
    assert (read.encoder, read.arms) == (profile.encoder, profile.arms)
    assert [path.name for path in folder.parent.iterdir()] == ["mine"]
    assert json.loads((folder / MANIFEST).read_text())["registry"] == "r"


async def test_a_profile_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    folder = tmp_path / "profiles" / "mine"
    write_profile(replace(EMPTY, encoder=ENCODER), folder, registry="r")
    profile = replace(await measured(tmp_path, right), encoder=object())  # type: ignore[arg-type]

    with pytest.raises(TypeError, match="not JSON serializable"):
        write_profile(profile, folder, registry="r")

    assert [path.name for path in folder.parent.iterdir()] == ["mine"]
    assert read_profile(folder, encoder=ENCODER).known == set()


@pytest.mark.parametrize("crash", [1, 2])
async def test_a_crash_between_any_two_renames_loses_no_profile(tmp_path: Path, crash: int) -> None:
    folder = tmp_path / "profiles" / "mine"
    old = await measured(tmp_path, right)
    write_profile(old, folder, registry="r")

    with crash_at(crash):
        write_profile(EMPTY, folder, registry="r")

    write_profile(read_profile(folder, encoder=ENCODER), folder, registry="r")
    assert read_profile(folder, encoder=ENCODER).table.equals(old.table)


async def test_a_profile_of_another_encoder_is_refused(tmp_path: Path) -> None:
    write_profile(await measured(tmp_path, right), tmp_path / "mine", registry="r")

    with pytest.raises(
        ConfigError, match="made with encoder eeeeeeeeeeee…, the registry names ffffffffffff…"
    ) as caught:
        read_profile(tmp_path / "mine", encoder="f" * 64)

    assert (caught.value.where, caught.value.remedy) == (str(tmp_path / "mine"), "measure it again with `coe profile`")


@pytest.mark.parametrize("name", [OUTCOMES, VECTORS, MANIFEST])
@pytest.mark.parametrize("raw", [None, b"", b"[]", b"\xff\xfe\x00", b"\x93NUMPY"])
async def test_a_damaged_profile_is_refused(tmp_path: Path, name: str, raw: bytes | None) -> None:
    folder = tmp_path / "mine"
    write_profile(await measured(tmp_path, right), folder, registry="r")
    if raw is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(raw)

    with pytest.raises(ConfigError, match="this profile cannot be read") as caught:
        read_profile(folder, encoder=ENCODER)

    assert caught.value.where == str(folder)


async def test_a_profile_cut_short_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    write_profile(await measured(tmp_path, right), folder, registry="r")
    for name in (OUTCOMES, VECTORS, MANIFEST):
        shutil.copytree(folder, tmp_path / name)
        raw = (folder / name).read_bytes()
        for size in range(0, len(raw) - 1, 1 + len(raw) // 20):
            (tmp_path / name / name).write_bytes(raw[:size])

            with pytest.raises(ConfigError):
                read_profile(tmp_path / name, encoder=ENCODER)


async def test_a_profile_with_too_few_vectors_is_refused(tmp_path: Path) -> None:
    profile = await measured(tmp_path, right)
    write_profile(replace(profile, vectors=profile.vectors[:2]), tmp_path / "mine", registry="r")

    with pytest.raises(ConfigError, match="2 vectors for 3 questions"):
        read_profile(tmp_path / "mine", encoder=ENCODER)


@pytest.mark.parametrize(
    ("vectors", "fault"),
    [
        (np.float32(1), "of the shape ()"),
        (np.ones(3, dtype=np.float32), "of the shape (3,)"),
        (np.array([["a"], ["b"], ["c"]]), "holds <U1"),
        (np.ones((3, 2), dtype=np.int64), "holds int64"),
        (np.array([[1], [np.nan], [1]], dtype=np.float32), "holds what is no number"),
        (np.array([[1], [np.inf], [1]], dtype=np.float64), "holds what is no number"),
        (np.ones((4, 2), dtype=np.float32), "4 vectors for 3 questions"),
    ],
)
async def test_vectors_that_are_none_are_refused(tmp_path: Path, vectors: np.ndarray[Any, Any], fault: str) -> None:
    folder = tmp_path / "mine"
    write_profile(await measured(tmp_path, right), folder, registry="r")
    np.save(folder / VECTORS, vectors, allow_pickle=False)

    with pytest.raises(ConfigError, match=re.escape(fault)) as caught:
        read_profile(folder, encoder=ENCODER)

    assert (caught.value.where, caught.value.remedy) == (str(folder), "measure it again with `coe profile`")


async def test_rows_with_gaps_are_refused(tmp_path: Path) -> None:
    profile = await measured(tmp_path, right)
    rows = [row | {"score": None if i == 1 else row["score"]} for i, row in enumerate(profile.table.to_pylist())]
    table = pa.Table.from_pylist(rows, schema=profile.table.schema)
    write_profile(replace(profile, table=table), tmp_path / "mine", registry="r")

    with pytest.raises(ConfigError, match="has rows without score"):
        read_profile(tmp_path / "mine", encoder=ENCODER)


async def test_a_folder_that_cannot_be_written_is_a_users_mistake(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")

    with pytest.raises(InputError, match="no profile can be written here") as caught:
        write_profile(EMPTY, tmp_path / "file" / "mine", registry="r")

    assert caught.value.where == str(tmp_path / "file" / "mine")


async def test_a_link_to_a_profile_stays_a_link(tmp_path: Path) -> None:
    write_profile(EMPTY, tmp_path / "real", registry="r")
    (tmp_path / "link").symlink_to("real")

    write_profile(await measured(tmp_path, right), tmp_path / "link", registry="r")

    assert (tmp_path / "link").is_symlink()
    assert read_profile(tmp_path / "real", encoder=ENCODER).known == {"sums", "law"}


async def test_what_the_user_measured_counts_on_top_and_changed_arms_are_told(
    packaged: Registry, tmp_path: Path
) -> None:
    registry = Registry(replace(packaged.settings, profile=None))
    prints = registry.prints()
    mine = replace(
        await measured(tmp_path, right),
        encoder=registry.encoder_sha,
        arms={"sums": "gone", "law": "gone", "arithmetic": "gone", "units": "gone"},
    )
    write_profile(mine, user_folder(registry), registry="r")

    found, notes = find_profile(registry)

    assert (found.known, found.arms.keys() - prints.keys()) == (set(), set())
    assert "the records of arithmetic, units are of other weights" in notes[0]
    assert notes[1:] == ["no expert has a record: general is asked everything until `coe profile` has measured them"]


def test_only_the_packaged_registry_itself_has_the_default_folder(packaged: Registry, tmp_path: Path) -> None:
    copies = []
    for project in ("a", "b"):
        path = tmp_path / project / "experts.yaml"
        path.parent.mkdir()
        path.write_bytes(packaged.settings.path.read_bytes())
        copies.append(Registry(load_settings(path)))

    assert {copy.settings.profile for copy in copies} == {packaged.settings.profile}
    assert user_folder(packaged).name == "default"
    assert len({user_folder(registry) for registry in (packaged, *copies)}) == 3


def test_a_declared_profile_that_is_not_there_is_told_with_its_line(tmp_path: Path) -> None:
    registry = declaring(tmp_path)

    with pytest.raises(ConfigError, match=r"mine: this profile cannot be read: there is no such folder") as caught:
        find_profile(registry)

    assert caught.value.where is not None and caught.value.where.endswith("experts.yaml:7 (profile)")
    assert caught.value.remedy is not None
    assert f"`coe profile --out {tmp_path / 'mine'}`, or remove `profile:`" in caught.value.remedy


async def test_a_declared_profile_of_another_encoder_is_told_with_a_remedy_that_works(tmp_path: Path) -> None:
    registry = declaring(tmp_path)
    write_profile(replace(await measured(tmp_path, right), encoder="f" * 64), tmp_path / "mine", registry="r")

    with pytest.raises(ConfigError, match="made with encoder ffffffffffff…") as caught:
        find_profile(registry)

    assert caught.value.where is not None and caught.value.where.endswith("experts.yaml:7 (profile)")
    assert caught.value.remedy is not None and "remove `profile:`, and measure" in caught.value.remedy


async def test_arms_that_the_registry_does_not_have_are_left_out_without_a_word(tmp_path: Path) -> None:
    registry = declaring(tmp_path)
    mine = replace(await measured(tmp_path, right), arms={**registry.prints(), "law": "p2"})
    write_profile(mine, tmp_path / "mine", registry="r")

    found, notes = find_profile(registry)

    assert found.known == {"sums"}
    assert notes == ["no record of general: it gets only what is nobody's skill until `coe profile` has measured it"]


def declaring(folder: Path) -> Registry:
    """A registry of `general` and `sums` that names a profile beside it."""
    (folder / "experts.yaml").write_text(
        f"models:\n  small: {{sources: [small.gguf], sha256: {'a' * 64}}}\n"
        "experts:\n  general: {model: small}\n  sums: {model: small, system: Calculate.}\n"
        f"encoder: {{sources: [encoder.onnx], sha256: {ENCODER}, tokenizer: tokenizer.json}}\n"
        "profile: mine\n"
    )
    return Registry(load_settings(folder / "experts.yaml"))
