"""Is a larger budget worth it? How often recorded traffic comes back to the same experts (METHODS J.4). Pure numpy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from composer.pool.residency import Held, to_evict

Uses = NDArray[np.bool_]
"""Which request (row, in order of time) used which host (column)."""

Victim = Callable[[Sequence[str], int], str]
"""Who of the resident ones (in order of their last use) goes at a place of a trace."""

GAIN = 0.02  # of the accesses: one more resident host that saves fewer is not worth its memory
NEAR = 0.05  # a hit rate this little above the share of hosts that are kept is chance
WINDOWS = (4, 16, 64, 256)


def uses_of(sets: Sequence[Sequence[str]]) -> tuple[Uses, list[str]]:
    """The table of `sets`, the hosts that each request used, and the hosts in order of their names."""
    names = sorted({name for used in sets for name in used})
    place = {name: column for column, name in enumerate(names)}
    table = np.zeros((len(sets), len(names)), dtype=np.bool_)
    for row, used in enumerate(sets):
        table[row, [place[name] for name in used]] = True
    return table, names


def srp(uses: Uses, window: int) -> tuple[float, float]:
    """Segment routing best performance: how well "this window keeps using these hosts" can be true, and how large the
    kept set is beside the active one.

    In every window of `window` requests a host is kept if at least t of them use it; the F1 of "every request of the
    window uses every kept host", at the best t (METHODS J.4). It is an F1, not a hit rate.
    Raises ValueError if there are fewer requests than the window holds.
    """
    counts = _counts(uses, window)
    actual = counts.sum()
    best = (0.0, 0.0)
    for t in range(1, window + 1):
        kept = counts >= t
        predicted = window * kept.sum()
        if predicted:
            f1 = 2 * counts[kept].sum() / (predicted + actual)
            best = max(best, (float(f1), float(predicted / actual)))
    return best


def sch(uses: Uses, window: int) -> NDArray[np.float64]:
    """Segment cache best hit rate for 1, 2, … resident hosts: an oracle keeps those with most uses in the next `window`
    requests, the last used first among equals. The curve never falls. 0 where nothing was used."""
    n, hosts = uses.shape
    totals = np.vstack([np.zeros((1, hosts), dtype=np.int64), np.cumsum(uses, axis=0)])
    last = np.full(hosts, -1, dtype=np.int64)
    hits = np.zeros(hosts, dtype=np.int64)
    place = np.full(hosts, hosts, dtype=np.int64)  # in the list of who is kept first; `hosts`: not loaded yet
    for step in range(n):
        used = uses[step]
        np.add.at(hits, place[used & (place < hosts)], 1)
        last[used] = step
        ahead = totals[min(step + 1 + window, n)] - totals[step + 1]
        order = np.lexsort((-last, -ahead))
        place[order] = np.arange(hosts)
        place[last < 0] = hosts
    accesses = int(uses.sum())
    return np.cumsum(hits) / accesses if accesses else np.zeros(hosts)


def lru_curve(uses: Uses) -> NDArray[np.float64]:
    """The hit rate of a cache of 1, 2, … hosts that drops the longest unused one: what is had without an oracle."""
    hosts = uses.shape[1]
    hits = np.zeros(hosts, dtype=np.int64)
    recent: list[int] = []
    for row in uses:
        used = [int(host) for host in np.flatnonzero(row)]
        for host in used:
            if host in recent:
                hits[recent.index(host)] += 1
        recent = used + [host for host in recent if host not in used]
    return np.cumsum(hits) / max(int(uses.sum()), 1)


def loads(trace: Sequence[str], room: int, victim: Victim) -> int:
    """Loads that `trace` costs with room for `room` hosts of one size; `victim` chooses who goes."""
    resident: dict[str, None] = {}
    count = 0
    for place, name in enumerate(trace):
        if name in resident:
            resident[name] = resident.pop(name)
            continue
        count += 1
        if len(resident) >= room:
            del resident[victim(list(resident), place)]
        resident[name] = None
    return count


def lru(resident: Sequence[str], _place: int) -> str:
    """The longest unused."""
    return resident[0]


def by_next_use(trace: Sequence[str]) -> Victim:
    """Our own eviction, told all of `trace` that is still to come."""

    def victim(resident: Sequence[str], place: int) -> str:
        held = {name: Held(1) for name in resident}
        gone = to_evict(held, 1, len(held), upcoming=trace[place + 1 :])
        assert gone
        return gone[0]

    return victim


@dataclass(frozen=True, slots=True)
class Advice:
    """What recorded traffic says: `resident` hosts are worth their memory, or `group`: it has no locality, so grouping
    by expert helps and memory does not. Over 1, 2, … hosts `hit_rate` is the oracle's (SCH), `lru` that of a plain cache;
    `srp` is (window, F1, kept share of the active ones)."""

    resident: int
    group: bool
    hit_rate: tuple[float, ...]
    lru: tuple[float, ...]
    srp: tuple[tuple[int, float, float], ...]


def advise(uses: Uses, *, window: int = 16) -> Advice:
    """The budget at the knee: the fewest hosts after which one more saves the oracle less than 2 % of the accesses.

    `group` is said where a plain cache of half of the hosts hits hardly more often than their share of them.
    """
    curve, plain = sch(uses, window), lru_curve(uses)
    hosts = len(curve)
    small = np.flatnonzero(np.diff(curve, prepend=0.0) < GAIN)
    half = hosts // 2
    return Advice(
        resident=max(1, int(small[0]) if len(small) else hosts),
        group=half > 0 and bool(plain[half - 1] <= half / hosts + NEAR),
        hit_rate=tuple(map(float, curve)),
        lru=tuple(map(float, plain)),
        srp=tuple((size, *srp(uses, size)) for size in WINDOWS if size <= len(uses)),
    )


def _counts(uses: Uses, window: int) -> NDArray[np.int64]:
    """Uses per window (all that slide over the trace) and host."""
    if not 0 < window <= len(uses):
        raise ValueError(f"a window of {window} requests over a trace of {len(uses)}")
    totals = np.vstack([np.zeros((1, uses.shape[1]), dtype=np.int64), np.cumsum(uses, axis=0)])
    counts: NDArray[np.int64] = totals[window:] - totals[:-window]
    return counts
