"""The real server, watched from inside: `python -m evals.faults.watched FOLDER` serves its `experts.yaml` until SIGTERM.

It prints its address, and keeps the longest time in which its event loop did nothing else in FOLDER/stall (a double, in
seconds); SIGUSR1 begins anew. Bounds of time are shortened, so that a client who stalls is left within a second.
"""

from __future__ import annotations

import asyncio
import os
import signal
import struct
import sys
import time
from pathlib import Path

from composer.pipeline import Pipeline
from composer.serve.guard import Keys
from composer.serve.server import limits_of, serve

SLOW = 0.5
"""Seconds that a client has for a head, and for a body."""
_BEAT = 0.002  # seconds between two looks at the clock


async def _watch(path: Path) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    worst = 0.0

    def forget() -> None:
        nonlocal worst
        worst = 0.0

    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, forget)
    while True:
        os.pwrite(handle, struct.pack("d", worst), 0)
        before = time.monotonic()
        await asyncio.sleep(_BEAT)
        worst = max(worst, time.monotonic() - before - _BEAT)


def main(folder: Path) -> None:
    """Serve."""
    watching: list[asyncio.Task[None]] = []

    def say(text: str) -> None:
        if text.startswith("serving"):  # said inside the loop
            watching.append(asyncio.create_task(_watch(folder / "stall")))
        os.write(1, f"{text}\n".encode())

    pipeline = Pipeline.from_file(folder / "experts.yaml", store=folder / "drafts.sqlite", offline=True)
    limits = limits_of(pipeline.settings, head=SLOW, body=SLOW, write=SLOW, grace=SLOW)
    serve(pipeline, Keys(), host="127.0.0.1", port=0, limits=limits, say=say)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
