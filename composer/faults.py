"""Named places where a test may kill the process: `COE_KILL_AT=site:n` ends it at the n-th passing of that site."""

from __future__ import annotations

import itertools
import os
import signal
from collections import defaultdict
from collections.abc import Iterator

_passings: defaultdict[str, Iterator[int]] = defaultdict(lambda: itertools.count(1))


def kill_point(site: str) -> None:
    """Do nothing, unless `COE_KILL_AT` names this site and this passing: then die at once, as in a crash (SIGKILL)."""
    order = os.environ.get("COE_KILL_AT")
    if order is None:
        return
    name, _, passing = order.partition(":")
    if name == site and next(_passings[site]) == int(passing or 1):
        os.kill(os.getpid(), signal.SIGKILL)
