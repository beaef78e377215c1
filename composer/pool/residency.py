"""What has to go before something else may open."""

from __future__ import annotations

from composer.registry.memory import limit_of


def to_evict(resident: dict[str, int], opening: int, budget: int | None) -> list[str]:
    """The hosts to close, longest unused first, until `opening` bytes fit beside the rest.

    `resident` maps host to bytes, in order of last use. Without a budget everything that fits the machine stays.
    """
    held = sum(resident.values())
    limit = limit_of(budget, held)
    if limit is None:
        return []
    gone: list[str] = []
    for name, size in resident.items():
        if held + opening <= limit:
            break
        gone.append(name)
        held -= size
    return gone
