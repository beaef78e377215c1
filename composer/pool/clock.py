"""What time it is in the pool."""

from __future__ import annotations

import asyncio


def now() -> float:
    """Seconds on the clock of the running loop: the monotonic one, or that of a loop which simulates time."""
    return asyncio.get_running_loop().time()
