"""A real headless Chromium for tests: the build that npm's @sparticuz/chromium carries, with all the libraries it needs.

It is fetched once into the user's cache (70 MB) and started by playwright, so that a machine without a browser, and
without the right to install one, can still open a page. Only our own pages are opened: it runs without its sandbox.
"""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import brotli
import httpx

from composer.folders import cache_folder

VERSION = "153.0.0"
URL = f"https://registry.npmjs.org/@sparticuz/chromium/-/chromium-{VERSION}.tgz"
SHA512 = "jiGWqSvPMdu4+P9TilYqAR7yEGPEHINx+lCvE/NqNO/EHYzF/x1hUiI5T6ioVIt7dEy7n88byyT0vk+dnsgQwA=="


@dataclass
class Seen:
    """What a page did: errors on its console (those of its content security policy too), exceptions, dialogs."""

    title: str = ""
    errors: list[str] = field(default_factory=list)
    dialogs: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)


def chromium() -> Path:
    """The folder of the unpacked browser."""
    folder = cache_folder() / "browser" / VERSION
    if not (folder / "chromium").exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(dir=folder.parent))
        with httpx.Client(timeout=120, follow_redirects=True) as client:
            data = client.get(URL).raise_for_status().content
        found = base64.b64encode(hashlib.sha512(data).digest()).decode()
        assert found == SHA512, f"{URL} is not what was pinned: {found}"
        _unpack(data, fresh)
        try:
            fresh.rename(folder)
        except OSError:  # somebody else was faster
            shutil.rmtree(fresh, ignore_errors=True)
    return folder


def _unpack(data: bytes, folder: Path) -> None:
    tarball = folder / "package.tgz"
    tarball.write_bytes(data)
    with tarfile.open(tarball) as package:
        for member in package.getmembers():
            if member.name.endswith(".br") and (file := package.extractfile(member)) is not None:
                (folder / Path(member.name).name.removesuffix(".br")).write_bytes(brotli.decompress(file.read()))
    for part in folder.glob("*.tar"):
        with tarfile.open(part) as archive:
            archive.extractall(folder, filter="data")
        part.unlink()
    tarball.unlink()
    (folder / "chromium").chmod(0o755)


@contextmanager
def opened(path: Path, count: tuple[str, ...] = (), wait: str | None = None) -> Iterator[tuple[Any, Seen]]:
    """Open a local page: playwright's page, and what was seen of it until it had loaded. `count` are selectors."""
    from playwright.sync_api import sync_playwright

    folder = chromium()
    fonts = folder / "own-fonts.conf"
    fonts.write_text(f'<?xml version="1.0"?><fontconfig><dir>{folder / "fonts"}</dir></fontconfig>')
    env = {**os.environ, "LD_LIBRARY_PATH": f"{folder / 'lib'}:{folder}", "FONTCONFIG_FILE": str(fonts)}
    seen = Seen()
    with sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=str(folder / "chromium"),
            env=env,
            args=["--no-sandbox", "--disable-gpu", "--no-zygote", "--disable-dev-shm-usage"],
        )
        page = browser.new_page()
        page.on("console", lambda message: seen.errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: seen.errors.append(str(error)))
        page.on("dialog", lambda dialog: (seen.dialogs.append(dialog.message), dialog.dismiss()))
        page.goto(path.resolve().as_uri(), wait_until="load")
        if wait is not None:
            page.wait_for_selector(wait)
        seen.title = page.title()
        seen.counts = {selector: page.locator(selector).count() for selector in count}
        page.wait_for_timeout(100)  # errors of promises and timers
        yield page, seen
        browser.close()
