"""Where a registry may point to, and which registry is read."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from registry_texts import MODEL, REGISTRY, Load, told

from composer.config import PACKAGED, find_registry, load_settings, packaged_registry
from composer.errors import ConfigError
from composer.settings.sources import HfSource, PathSource


def test_absolute_paths_are_taken_as_written(load: Load) -> None:
    text = REGISTRY.replace("[small.gguf]", "[/models/small.gguf]").replace("law.gguf", "/adapters/law.gguf")

    settings = load(text)

    law = settings.experts["law"].adapter
    assert settings.models["small"].sources == (PathSource("/models/small.gguf"),)
    assert law and law.path == Path("/adapters/law.gguf")


def test_default_paths_point_into_the_package(load: Load) -> None:
    settings = load(REGISTRY.replace("law.gguf", "default:adapters/law/law.gguf"))

    law = settings.experts["law"].adapter
    assert law and law.path == PACKAGED / "adapters/law/law.gguf"


# Paths stay inside ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "../law.gguf",
        "..",
        "a/../../law.gguf",
        "a/../law.gguf",
        "./../law.gguf",
        "//server/share/law.gguf",
        "\\\\server\\share",
        "a\\..\\..\\law.gguf",
        "C:\\law.gguf",
        "~/law.gguf",
        "~root/law.gguf",
        "law\\0.gguf",
        "law\\n.gguf",
        "law\\e[31m.gguf",
        "",
        " ",
        "out/law.gguf",
        "link.gguf",
        "default:../law.gguf",
        "default:a/../../../law.gguf",
        "default:/etc/passwd",
        "default://etc/passwd",
        "file:///etc/passwd",
        "https://example.org/law.gguf",
        "pypi:a==1/law.gguf",
    ],
)
def test_a_path_that_leaves_its_folder_is_refused(load: Load, tmp_path: Path, path: str) -> None:
    (tmp_path / "out").symlink_to(tmp_path.parent, target_is_directory=True)
    (tmp_path / "link.gguf").symlink_to("/etc/passwd")
    quoted = path if path.startswith("law\\") else path.replace("\\", "\\\\")

    error = told(load, REGISTRY.replace("law.gguf", f'"{quoted}"'))

    assert error.where == "experts.yaml:9 (experts.law.adapter.path)"


@pytest.mark.parametrize("field", ["template: ../x", "sources: [../x]"])
def test_every_path_of_a_model_stays_inside(load: Load, field: str) -> None:
    error = told(load, REGISTRY.replace(MODEL, f"    {field}\n" + ("" if "sources" in field else MODEL)))

    assert "leaves the folder of this file" in error.what


def test_a_link_inside_the_folder_is_followed(load: Load, tmp_path: Path) -> None:
    (tmp_path / "real.gguf").write_bytes(b"")
    (tmp_path / "law.gguf").symlink_to("real.gguf")

    law = load(REGISTRY).experts["law"].adapter

    assert law and law.path == tmp_path / "real.gguf"


@pytest.mark.parametrize(
    "source",
    [
        "pypi:package/file",
        "pypi:package==1.0",
        "pypi:package==1.0/../file",
        "pypi:package>=1.0/file",
        "pypi:package==1.0//etc/passwd",
        "pypi:package==1.0/x//y",
        "hf:owner/repo/file",
        "hf:a/b/c@main/file",
        "hf:owner/repo@main/a/../../file",
        "hf:../..@main/file",
        "https://example.org/model.gguf",
        "pipy:package==1.0/file",
    ],
)
def test_a_malformed_source_is_refused_where_it_stands(load: Load, source: str) -> None:
    error = told(load, REGISTRY.replace("[small.gguf]", f'[small.gguf, "{source}"]'))

    assert error.where == "experts.yaml:3 (models.small.sources[1])"
    assert "write" in str(error.remedy)


def test_a_repository_may_have_a_name_of_one_part(load: Load) -> None:
    settings = load(REGISTRY.replace("[small.gguf]", '["hf:gpt2@main/model.gguf"]'))

    assert settings.models["small"].sources == (HfSource("gpt2", "main", "model.gguf"),)


# Which file is read ---------------------------------------------------------------------------------------------------


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """A registry in every place where one is looked for."""
    found = {
        "flag": tmp_path / "flag.yaml",
        "env": tmp_path / "env.yaml",
        "here": tmp_path / "work" / "experts.yaml",
        "user": tmp_path / "home" / "coe" / "experts.yaml",
    }
    for path in found.values():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(REGISTRY, encoding="utf-8")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COE_CONFIG", str(found["env"]))
    monkeypatch.chdir(tmp_path / "work")
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="XDG_CONFIG_HOME moves the user's folder on Linux only")
def test_registries_are_found_in_order(places: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    found = [find_registry(places["flag"]), find_registry()]
    places["here"].unlink()
    found.append(find_registry())
    monkeypatch.delenv("COE_CONFIG")
    found.append(find_registry())
    places["user"].unlink()

    assert found == [places["flag"], places["here"], places["env"], places["user"]]
    assert find_registry() == packaged_registry()


def test_a_named_registry_is_relative_to_the_working_directory(places: dict[str, Path]) -> None:
    assert load_settings(find_registry(Path("../flag.yaml"))).models


def test_a_missing_named_registry_is_no_reason_to_look_further(
    places: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml is no file") as by_flag:
        find_registry(Path("none.yaml"))
    places["here"].unlink()
    monkeypatch.setenv("COE_CONFIG", "none.yaml")
    with pytest.raises(ConfigError, match=r"none\.yaml is no file") as by_env:
        find_registry()

    assert (by_flag.value.where, by_env.value.where) == ("--config", "COE_CONFIG")


def test_an_empty_variable_counts_as_unset(places: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COE_CONFIG", "")
    places["here"].unlink()

    assert find_registry() in (places["user"], packaged_registry())


def test_a_dangling_link_is_not_passed_over(places: dict[str, Path]) -> None:
    places["here"].unlink()
    places["here"].symlink_to("nowhere.yaml")

    with pytest.raises(ConfigError, match="is not there"):
        load_settings(find_registry())
