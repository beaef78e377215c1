"""How the pool stands at this moment, for whoever shows it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class HostStatus:
    """One host: requests that wait, run and are done, tokens written per second of its turns, its bytes while it is open
    (0: it is not), how often it was opened; `busy` seconds of its turns, `opening` seconds spent on opening it."""

    queued: int
    running: int
    done: int
    tokens_per_second: float
    resident: int
    loads: int
    busy: float
    opening: float


@dataclass(frozen=True, slots=True)
class Status:
    """`floor` is the fewest loads that what was asked so far could have cost: its distinct weight files. `memory` is the
    budget in bytes, None where there is none; `ahead` and `wasted` as in the ledger."""

    hosts: Mapping[str, HostStatus]
    loads: int
    floor: int
    ahead: int
    wasted: int
    resident: int
    memory: int | None
