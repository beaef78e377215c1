"""What is resident, what has to go before something else may open, and what can never fit."""

from __future__ import annotations

from pathlib import Path

from composer.errors import MemoryBudgetError


def available_memory() -> int | None:
    """Bytes that new processes can use without swapping; None where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    found = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return int(found[0]) * 1024 if found else None


def refuse_what_cannot_fit(host: str, needed: int, budget: int | None, where: str) -> None:
    """Raise MemoryBudgetError if `host` alone needs more bytes than the budget (None: than the machine has free)."""
    limit = available_memory() if budget is None else budget
    if limit is None or needed <= limit:
        return
    whose = "the machine has free" if budget is None else "the memory budget allows"
    raise MemoryBudgetError(
        f"model {host!r} needs about {mebibytes(needed)}, {whose} {mebibytes(limit)}",
        where=where,
        remedy="lower `context` or `slots` of the model, take a smaller quantisation, or raise --memory"
        if budget is not None
        else "lower `context` or `slots` of the model, take a smaller quantisation, or free memory",
    )


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


def mebibytes(size: int) -> str:
    """A size for people."""
    return f"{size / 2**20:,.0f} MiB"
