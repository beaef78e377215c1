"""How downloads are shown on stderr: bars for people, a line at each end for logs."""

from __future__ import annotations

import sys
import threading
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID


class Progress(Protocol):
    """Hears of a download as bytes land: its name, the bytes so far, and all of them (None: unknown).

    `done` may fall back where a server makes us start over. The last call has `done == total`, also where the download
    broke off: it says that nothing more will come, not that the file is right. Raising ends the download; what has
    landed is kept for the next one.
    """

    def __call__(self, name: str, done: int, total: int | None, /) -> None: ...


def console_progress() -> Progress:
    """A `Progress` that writes to stderr: bars on a terminal, else one line when a download begins and one when it ends."""
    return _Bars() if sys.stderr.isatty() else _Lines()


class _Lines:
    def __init__(self) -> None:
        self._totals: dict[str, int | None] = {}

    def __call__(self, name: str, done: int, total: int | None, /) -> None:
        if done == total:
            announced = self._totals.pop(name, total)
            whole = announced is None or announced <= done
            sys.stderr.write(
                f"fetched {name} ({_size(done)})\n" if whole else f"stopped at {_size(done)} of {name}\n",
            )
        elif name not in self._totals:
            sys.stderr.write(f"fetching {name}{f' ({_size(total)})' if total else ''}\n")
        if done != total:
            self._totals[name] = total
        sys.stderr.flush()


class _Bars:
    """One bar per running download; the display ends with the last of them, so that nothing is left to close."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # downloads run in threads
        self._bars: Bars | None = None
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, name: str, done: int, total: int | None, /) -> None:
        with self._lock:
            if self._bars is None:
                self._bars = _bars()
                self._bars.start()
            if name not in self._tasks:
                self._tasks[name] = self._bars.add_task(name, total=total)
            self._bars.update(self._tasks[name], completed=done, total=total)
            if done == total:
                del self._tasks[name]
            if not self._tasks:
                self._bars.stop()
                self._bars = None


def _bars() -> Bars:
    from rich import progress  # noqa: PLC0415 - 80 ms to import, and most commands fetch nothing
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Column  # noqa: PLC0415

    return progress.Progress(
        progress.TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True, ratio=1)),
        progress.BarColumn(bar_width=20),
        progress.DownloadColumn(),
        progress.TransferSpeedColumn(),
        progress.TimeRemainingColumn(),
        console=Console(stderr=True),
        expand=True,
    )


def _size(count: int) -> str:
    """Bytes as people read them.

    >>> _size(92_871_040), _size(1_500)
    ('93 MB', '2 kB')
    """
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:.0f} {unit}"
    return f"{count} bytes"
