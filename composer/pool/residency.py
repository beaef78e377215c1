"""What has to go before something else may open. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Held:
    """An open host: its bytes, the seconds that opening it again would cost, its GDSF `priority`."""

    memory: int
    cost: float = 1.0
    priority: float = 0.0


class Gdsf:
    """GreedyDual-Size-Frequency (METHODS J.2), for hosts of which no next use is known: clock + frequency * cost / memory.

    The clock is the priority of what went last, so what was popular once does not stay for ever.
    """

    def __init__(self) -> None:
        self.clock = 0.0
        self._uses: dict[str, int] = {}

    def used(self, name: str, memory: int, cost: float) -> float:
        """The priority of a host that is used now."""
        self._uses[name] = self._uses.get(name, 0) + 1
        return self.clock + self._uses[name] * cost / max(memory, 1)

    def gone(self, held: Held) -> None:
        """Advance the clock: this host was closed for want of room."""
        self.clock = max(self.clock, held.priority)


def to_evict(
    resident: Mapping[str, Held],
    opening: int,
    limit: int | None,
    *,
    upcoming: Sequence[str] = (),
    pinned: Collection[str] = (),
) -> list[str] | None:
    """The hosts to close until `opening` bytes fit under `limit` beside the rest; None if they cannot: the `pinned` stay.

    `upcoming` are the next uses that are known, soonest first, with the host that opens left out. First go hosts that
    nothing is known to need, by GDSF; then by next use: the least cost / (memory * distance), which with equal sizes and
    costs is Belady's rule: the furthest. Nobody goes whose bytes turn out not to be needed. None as limit is no limit.
    """
    held = sum(host.memory for host in resident.values())
    if limit is None or held + opening <= limit:
        return []
    distance = {name: place for place, name in reversed(list(enumerate(upcoming, 1)))}

    def worth(name: str) -> tuple[float, float]:
        host = resident[name]
        next_use = host.cost / (max(host.memory, 1) * distance[name]) if name in distance else 0.0
        return next_use, host.priority

    gone: list[str] = []
    for name in sorted((name for name in resident if name not in pinned), key=worth):
        if held + opening <= limit:
            break
        if resident[name].memory > 0:
            gone.append(name)
            held -= resident[name].memory
    if held + opening > limit:
        return None
    for name in reversed(gone[:-1]):  # the last one alone may have been large enough
        if held + resident[name].memory + opening <= limit:
            held += resident[name].memory
            gone.remove(name)
    return gone
