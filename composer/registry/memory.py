"""What a host may take: the bytes that are free, and a refusal before anything is loaded that cannot fit."""

from __future__ import annotations

from pathlib import Path

from composer.errors import ConfigError, MemoryBudgetError
from composer.registry.gguf import Header, read_header

# What a llama.cpp process takes beside weights and cache: itself, its tokenizer, its buffers.
_OVERHEAD = 100 * 2**20
# Cache and all else of a small model, where nothing says how large its cache is.
UNKNOWN_CACHE = 70 * 2**20


def available_memory() -> int | None:
    """Bytes that new processes can use without swapping; None where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    found = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return int(found[0]) * 1024 if found else None


def when_loaded(weights: Path, context: int, slots: int) -> int:
    """Bytes that a file of weights takes with a cache for `slots` requests of `context` tokens each.

    A header that does not say how large the cache of a token is gets a flat share.
    """
    try:
        cache = _cache_per_token(read_header(weights))
    except ConfigError:  # no GGUF file; if that is a mistake, the engine says so
        cache = None
    return weights.stat().st_size + (UNKNOWN_CACHE if cache is None else cache * context * slots + _OVERHEAD)


def _cache_per_token(header: Header) -> int | None:
    """Bytes of a token's keys and values over all layers, in 16 bits each; None where the header does not say."""
    family = header.metadata.get("general.architecture")

    def number(name: str) -> int:
        found = header.metadata.get(f"{family}.{name}")
        return max(found, 0) if isinstance(found, int) else 0

    heads = number("attention.head_count")
    width = number("embedding_length") // heads if heads else 0
    keys, values = number("attention.key_length") or width, number("attention.value_length") or width
    return 2 * number("block_count") * (number("attention.head_count_kv") or heads) * (keys + values) or None


def refuse_what_cannot_fit(host: str, needed: int, budget: int | None, where: str, *, held: int = 0) -> None:
    """Raise MemoryBudgetError if `host` alone needs more bytes than the budget, or without one than the machine has
    free when the `held` bytes of our other hosts are given back."""
    limit = limit_of(budget, held)
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


def limit_of(budget: int | None, held: int) -> int | None:
    """Bytes that may be resident: the budget, else what is free beside the `held` ones; None where nobody knows."""
    if budget is not None:
        return budget
    free = available_memory()
    return None if free is None else free + held


def mebibytes(size: int) -> str:
    """A size for people."""
    return f"{size / 2**20:,.0f} MiB"
