"""What has to go before something else may open."""

from __future__ import annotations

from composer.registry.memory import available_memory


def to_evict(resident: dict[str, int], opening: int, budget: int | None) -> list[str]:
    """The hosts to close, longest unused first, until `opening` bytes fit beside the rest.

    `resident` maps host to bytes, in order of last use. Without a budget everything that fits the machine stays.
    """
    limit = available_memory() if budget is None else budget
    if limit is None:
        return []
    # Without a budget, what is resident is no longer counted as available: only the newcomer has to fit.
    held = sum(resident.values()) if budget is not None else 0
    gone: list[str] = []
    for name, size in resident.items():
        if held + opening <= limit:
            break
        gone.append(name)
        held -= size
    return gone
