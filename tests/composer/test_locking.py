"""experts.lock: nothing but what was locked is opened, every difference is named, and looking again costs nothing."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from typer.testing import CliRunner

from composer import __version__
from composer.cli import app
from composer.config import load_settings
from composer.errors import ConfigError, InputError, LockError, SourceError
from composer.locking import lock_experts, verify_experts
from composer.registry.cache import Cache
from composer.registry.experts import Registry
from composer.registry.hf import digest
from composer.registry.lock import read_lock
from composer.registry.vllm_home import vllm_version

WEIGHTS, LAW = b"weights", b"other weights"


def write(folder: Path, **files: str | bytes) -> None:
    for name, content in files.items():
        (folder / name.replace("_", ".")).write_bytes(content.encode() if isinstance(content, str) else content)


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """Two models, one with a template; nobody reads their weights here."""
    write(tmp_path, small_gguf=WEIGHTS, law_gguf=LAW, chat_jinja="{{ messages }}")
    pins = {name: hashlib.sha256(content).hexdigest() for name, content in (("small", WEIGHTS), ("law", LAW))}
    write(
        tmp_path,
        experts_yaml=f"""\
models:
  small: {{sources: [small.gguf], sha256: {pins["small"]}, template: chat.jinja, memory: 1MiB}}
  law: {{sources: [law.gguf], sha256: {pins["law"]}, memory: 1MiB}}
experts:
  general: {{model: small}}
  law: {{model: law}}
""",
    )
    return tmp_path


def registry(folder: Path) -> Registry:
    return Registry(load_settings(folder / "experts.yaml"))


def test_a_lock_file_says_what_every_expert_is_made_of(own: Path) -> None:
    path, count = lock_experts(registry(own))

    locked = json.loads(path.read_text())
    assert (path, count, locked["version"]) == (own / "experts.lock", 2, 2)
    general = locked["experts"]["general"]
    assert general["weights"] == general["tokenizer"] == hashlib.sha256(WEIGHTS).hexdigest()
    assert general["template"] == hashlib.sha256(b"{{ messages }}").hexdigest()
    assert general["engine"].startswith("llamacpp 2026.") and general["adapter"] is None and general["context"] == 2048
    assert verify_experts(registry(own)) == {"general": [], "law": []}
    assert registry(own).host("small", ()).path == own / "small.gguf"


def template(folder: Path) -> None:
    write(folder, chat_jinja="{{ messages }}!")


def engine(folder: Path) -> None:
    locked = json.loads((folder / "experts.lock").read_text())
    locked["experts"]["general"]["engine"] = "llamacpp 1.0"
    write(folder, experts_lock=json.dumps(locked))


def repinned(folder: Path) -> None:
    write(folder, small_gguf=b"tampered")
    text = (folder / "experts.yaml").read_text()
    write(folder, experts_yaml=text.replace(*(hashlib.sha256(each).hexdigest() for each in (WEIGHTS, b"tampered"))))


@pytest.mark.parametrize(
    ("change", "told"), [(template, "template is "), (engine, "locked is 'llamacpp 1.0'"), (repinned, "weights is ")]
)
def test_what_was_not_locked_is_not_opened_and_is_named(own: Path, change: Callable[[Path], None], told: str) -> None:
    lock_experts(registry(own))
    change(own)

    with pytest.raises(LockError, match=f"general: .*{told}") as caught:
        registry(own).host("small", ())
    found = verify_experts(registry(own))

    assert caught.value.exit_code == 8 and caught.value.where == str(own / "experts.lock")
    assert any(told in line for line in found["general"]) and found["law"] == []
    assert registry(own).host("law", ()).path == own / "law.gguf"
    lock_experts(registry(own))
    assert registry(own).host("small", ()).path == own / "small.gguf"


def test_experts_that_came_or_went_are_named(own: Path) -> None:
    lock_experts(registry(own))
    text = (own / "experts.yaml").read_text()
    write(own, experts_yaml=text.replace("  law: {model: law}", "  tax: {model: law}"))

    assert verify_experts(registry(own)) == {
        "general": [],
        "tax": ["is not in the lock file"],
        "law": ["is locked, and the registry does not have it"],
    }
    with pytest.raises(LockError, match="tax: is not in the lock file"):
        registry(own).host("law", ())


def test_tampered_files_are_found_by_verify_and_refused_by_lock(own: Path) -> None:
    lock_experts(registry(own))
    write(own, law_gguf=b"tampered weights")

    [told] = verify_experts(registry(own))["law"]
    with pytest.raises(SourceError, match="no source has the file"):
        lock_experts(registry(own))

    assert hashlib.sha256(b"tampered weights").hexdigest() in told


def test_files_are_hashed_once(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock_experts(registry(own))
    read: list[str] = []
    digest = hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", lambda file, kind: read.append(file.name) or digest(file, kind))

    registry(own).host("small", ())
    verify_experts(registry(own))

    assert read == [] and Cache().digest(own / "small.gguf") == hashlib.sha256(WEIGHTS).hexdigest()


@pytest.mark.parametrize(
    "text", ["", "[]", '{"version": 3, "experts": {}}', '{"version": 1, "experts": {"a": 1}}', "[" * 9999]
)
def test_a_broken_lock_file_is_an_error_and_never_no_lock(own: Path, text: str) -> None:
    write(own, experts_lock=text)

    with pytest.raises(ConfigError, match="is no lock file of ours"):
        registry(own).host("small", ())


def test_without_a_lock_file_verify_says_how_to_write_one(own: Path) -> None:
    assert read_lock(own / "experts.lock") is None
    with pytest.raises(InputError, match="there is no lock file"):
        verify_experts(registry(own))


def test_the_packaged_registry_has_no_lock(packaged: Registry) -> None:
    with pytest.raises(InputError, match="is pinned already"):
        lock_experts(packaged)


def test_the_command_ends_with_8_where_something_differs(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(own)

    first, well = (CliRunner().invoke(app, ["experts", verb]) for verb in ("lock", "verify"))
    template(own)
    bad = CliRunner().invoke(app, ["experts", "verify"])
    data = CliRunner().invoke(app, ["experts", "verify", "--json"])

    assert (first.exit_code, well.exit_code, bad.exit_code, data.exit_code) == (0, 0, 8, 8)
    assert well.output == "ok    general\nok    law\n"
    assert bad.output.startswith("BAD   general\n      template is ") and bad.output.endswith("ok    law\n")
    assert json.loads(data.output)["law"] == []


def test_a_lock_file_of_an_earlier_version_is_read_for_what_it_says(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock_experts(registry(own))
    locked = json.loads((own / "experts.lock").read_text()) | {"version": 1}
    for entry in locked["experts"].values():
        del entry["release"], entry["allow_code"]
    write(own, experts_lock=json.dumps(locked))
    monkeypatch.chdir(own)

    well = CliRunner().invoke(app, ["experts", "verify"])
    template(own)
    bad = CliRunner().invoke(app, ["experts", "verify"])
    CliRunner().invoke(app, ["experts", "lock"])
    again = CliRunner().invoke(app, ["experts", "verify"])

    assert well.exit_code == 0 and "general, law: locked by an earlier version" in well.stderr
    assert bad.exit_code == 8 and "template is " in bad.stdout
    assert again.exit_code == 0 and again.stderr == ""


FOLDER = """\
models:
  hf:
    engine: vllm
    sources: [hf]
    sha256: {sha256}
    memory: 1MiB
    options: {{python: {python}}}{code}
  far: {{engine: openai, options: {{url: "http://127.0.0.1:9", model: m}}}}
  other: {{engine: litellm, options: {{model: openai/m}}}}
experts:
  general: {{model: hf}}
  far: {{model: far}}
  other: {{model: other}}
"""


def hugging(folder: Path, *, code: str = "") -> None:
    write(folder, experts_yaml=FOLDER.format(sha256=digest(folder / "hf", Cache()), python=sys.executable, code=code))


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """A model as a folder, with code of its own; a server of somebody else; a provider."""
    place = tmp_path / "hf"
    place.mkdir()
    save_file({"a": np.zeros((2, 2), np.float32)}, place / "model.safetensors")
    (place / "config.json").write_text('{"auto_map": {"AutoModel": "own.Model"}}')
    (place / "own.py").write_text("pass")
    (place / "tokenizer.json").write_text("{}")
    (place / "chat_template.jinja").write_text("{{ messages }}")
    hugging(tmp_path, code=f"\n    allow_code: {{own.py: {hashlib.sha256(b'pass').hexdigest()}}}")
    return tmp_path


def test_of_a_folder_tokenizer_template_and_code_are_locked_and_of_every_engine_its_release(mixed: Path) -> None:
    path, _ = lock_experts(registry(mixed))

    locked = json.loads(path.read_text())["experts"]
    general = locked["general"]
    assert general["template"] == hashlib.sha256(b"{{ messages }}").hexdigest()
    assert len({general["weights"], general["tokenizer"], general["template"], general["allow_code"]}) == 4
    assert general["release"] == vllm_version(sys.executable) and locked["far"]["release"] == f"coe {__version__}"
    assert locked["other"]["release"] == f"litellm {version('litellm')}"
    assert not any(verify_experts(registry(mixed)).values())


def test_what_changes_in_a_folder_is_named(mixed: Path) -> None:
    lock_experts(registry(mixed))
    (mixed / "hf" / "tokenizer.json").write_text('{"other": 1}')
    (mixed / "hf" / "own.py").write_text("pass  # more")
    hugging(mixed, code=f"\n    allow_code: {{own.py: {hashlib.sha256(b'pass  # more').hexdigest()}}}")

    told = " ".join(verify_experts(registry(mixed))["general"])

    assert "tokenizer is " in told and "allow_code is " in told and "weights is " in told and "template" not in told
