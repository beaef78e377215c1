"""What is heard and shown of downloads."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from composer.errors import UnreachableError
from composer.registry import transfer
from composer.registry.progress import console_progress
from composer.registry.sources import fetch
from composer.settings.sources import HfSource, PypiSource

pytestmark = pytest.mark.usefixtures("bare")
BODY = bytes(range(256)) * 1000  # what the loopback servers serve
SHA = hashlib.sha256(BODY).hexdigest()
HF = HfSource("owner/repo", "9c925d6", "model.gguf")
HF_PATH = "/owner/repo/resolve/9c925d6/model.gguf"
CHILD = f"""
from pathlib import Path
from composer.registry.sources import fetch
from composer.settings.sources import parse_source
print("ready", flush=True)
print(fetch([parse_source("{HF}")], "{SHA}", name="tiny", base=Path()))
"""


def get(*sources: HfSource | PypiSource, sha256: str = SHA, **options: Any) -> Path:
    return fetch(sources, sha256, name="tiny", base=Path(), **options)


def test_progress_hears_of_every_byte_and_of_the_end(hub: Any) -> None:
    heard: list[tuple[str, int, int | None]] = []

    get(HF, progress=lambda *call: heard.append(call))

    assert {name for name, _, _ in heard} == {f"tiny from {HF}"}
    assert heard[0][1:] == (0, len(BODY))
    assert heard[-1][1:] == (len(BODY), len(BODY))
    assert [done for _, done, total in heard if done == total] == [len(BODY)]
    heard.clear()
    get(HF, progress=lambda *call: heard.append(call))
    assert heard == []


def test_a_download_that_breaks_off_is_ended_too(hub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "WAITS", ())
    hub.cuts = [60_000]
    heard: list[tuple[str, int, int | None]] = []

    with pytest.raises(UnreachableError):
        get(HF, progress=lambda *call: heard.append(call))

    assert heard[-1][1:] == (60_000, 60_000)


def test_where_there_is_no_terminal_progress_is_a_line_at_each_end(
    hub: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    get(HF, progress=console_progress())

    assert capsys.readouterr().err.splitlines() == [
        f"fetching tiny from {HF} (256 kB)",
        f"fetched tiny from {HF} (256 kB)",
    ]


def test_a_broken_download_is_not_called_fetched(
    hub: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "WAITS", ())
    hub.cuts = [60_000]

    with pytest.raises(UnreachableError):
        get(HF, progress=console_progress())

    assert capsys.readouterr().err.splitlines()[-1] == f"stopped at 60 kB of tiny from {HF}"


def test_on_a_terminal_progress_is_a_bar_that_leaves_the_cursor_visible(hub: Any) -> None:
    code = CHILD.replace("base=Path()", "base=Path(), progress=console_progress()").replace(
        "from pathlib", "from composer.registry.progress import console_progress\nfrom pathlib"
    )
    reader, terminal = os.openpty()
    env = os.environ | {"TERM": "xterm", "COLUMNS": "200"}
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL, stderr=terminal, env=env)
    os.close(terminal)
    shown = b""
    while True:
        try:
            piece = os.read(reader, 4096)
        except OSError:  # how Linux says that the other end is closed
            break
        if not piece:
            break
        shown += piece
    os.close(reader)

    assert child.wait() == 0
    assert f"tiny from {HF}".encode() in shown
    assert b"256.0/256.0 kB" in shown
    assert shown.rfind(b"\x1b[?25h") > shown.rfind(b"\x1b[?25l")
