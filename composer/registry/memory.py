"""What a host may take: the bytes that are free, and a refusal before anything is loaded that cannot fit."""

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


def mebibytes(size: int) -> str:
    """A size for people."""
    return f"{size / 2**20:,.0f} MiB"
