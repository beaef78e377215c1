"""pip's settings are read as pip reads them."""

import os
import sys
import traceback
from pathlib import Path

import pytest

from composer.errors import SourceError
from composer.registry.pipconf import read_pip


@pytest.fixture(autouse=True)
def places(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A home, a machine-wide folder and an environment of the test's own."""
    for name in os.environ:
        if name.startswith("PIP_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home/.config"))
    monkeypatch.setenv("XDG_CONFIG_DIRS", str(tmp_path / "shared"))
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "venv"))
    return tmp_path


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def test_without_settings_it_is_pypi(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)

    pip = read_pip()

    assert pip.indexes == ("https://pypi.org/simple",)
    assert pip.links == ()
    assert (pip.network.cert, pip.network.proxy, pip.network.timeout) == (None, None, 15.0)


def test_files_override_one_another_and_variables_override_all(places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(
        places / "shared/pip/pip.conf", "[global]\nindex-url = https://shared/simple\ntimeout = 1\nproxy = http://p:1"
    )
    write(places / "home/.pip/pip.conf", "[global]\ntimeout = 2")
    write(places / "home/.config/pip/pip.conf", "[global]\ntimeout = 3\nindex_url = https://user/simple/")
    write(places / "venv/pip.conf", "[global]\ntimeout = 4")
    monkeypatch.setenv("PIP_TRUSTED_HOST", "one two:8443")
    monkeypatch.setenv("PIP_CERT", "~/ca.pem")
    monkeypatch.setenv("PIP_CLIENT_CERT", "/client.pem")

    pip = read_pip()

    assert pip.indexes == ("https://user/simple",)
    assert pip.network.timeout == 4
    assert pip.network.proxy == "http://p:1"
    assert pip.network.trusted == ("one", "two:8443")
    assert (pip.network.cert, pip.network.client_cert) == (str(places / "home/ca.pem"), "/client.pem")
    monkeypatch.setenv("PIP_DEFAULT_TIMEOUT", "5")
    assert read_pip().network.timeout == 4, "`timeout` of a file is the more exact name"
    monkeypatch.setenv("PIP_TIMEOUT", "6")
    assert read_pip().network.timeout == 6


def test_a_named_file_stands_in_for_the_users_and_wins_over_the_environments(
    places: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(places / "home/.config/pip/pip.conf", "[global]\nproxy = http://user:1")
    write(places / "venv/pip.conf", "[global]\ntimeout = 4\nindex-url = https://venv/simple")
    write(places / "named.conf", "[global]\nindex-url = https://named/simple")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(places / "named.conf"))

    pip = read_pip()

    assert pip.indexes == ("https://named/simple",)
    assert pip.network.timeout == 4
    assert pip.network.proxy is None


def test_the_section_of_a_command_wins_over_the_global_one(places: Path) -> None:
    write(places / "shared/pip/pip.conf", "[download]\ntimeout = 9\n[install]\nproxy = http://i:1\ntimeout = 8")
    write(places / "venv/pip.conf", "[global]\ntimeout = 7\nproxy = http://g:1")

    pip = read_pip()

    assert (pip.network.timeout, pip.network.proxy) == (9, "http://i:1")


def test_several_indexes_and_folders_keep_their_order_and_lose_their_passwords(
    places: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "https://me:s3%40cret@one/simple/")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", f"https://two/simple file://{places}/simple {places}/plain")
    monkeypatch.setenv("PIP_FIND_LINKS", f"{places}/wheels file://{places}/more ~/own")

    pip = read_pip()

    assert pip.indexes == (
        "https://one/simple",
        "https://two/simple",
        f"file://{places}/simple",
        f"file://{places}/plain",
    )
    assert pip.links == (f"file://{places}/wheels", f"file://{places}/more", f"file://{places}/home/own")
    assert pip.network.secrets == {"https://one/simple/": "Basic bWU6czNAY3JldA=="}
    assert "s3" not in repr(pip)


def test_no_index_leaves_the_folders(places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_INDEX_URL", "https://one/simple")
    monkeypatch.setenv("PIP_FIND_LINKS", str(places))

    pip = read_pip()

    assert pip.indexes == ()
    assert pip.links == (f"file://{places}",)


def test_an_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", "")

    assert read_pip().indexes == ("https://pypi.org/simple",)


@pytest.mark.parametrize(
    "text", ["index-url = https://me:s3cret@host/simple", "[global\nindex-url = https://me:s3cret@host/simple"]
)
def test_a_file_that_is_no_configuration_is_named_without_its_content(places: Path, text: str) -> None:
    write(places / "venv/pip.conf", text)

    with pytest.raises(SourceError) as caught:
        read_pip()

    assert caught.value.where == str(places / "venv/pip.conf")
    assert "s3cret" not in "".join(traceback.format_exception_only(caught.value))


def test_settings_that_make_no_sense_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_DEFAULT_TIMEOUT", "soon")
    with pytest.raises(SourceError, match="'soon' is no number"):
        read_pip()

    monkeypatch.setenv("PIP_DEFAULT_TIMEOUT", "3")
    monkeypatch.setenv("PIP_INDEX_URL", "https://me:s3cret@[host/simple")
    with pytest.raises(SourceError, match="an index address is not one") as caught:
        read_pip()
    assert "s3cret" not in str(caught.value)
