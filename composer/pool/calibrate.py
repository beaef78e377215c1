"""Measures once how fast this machine loads, reads and writes with each host's weights, and remembers it."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import platform
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from composer.engines.base import Engine
from composer.errors import EngineError
from composer.folders import cache_folder
from composer.pool.resolver import Resolver
from composer.pool.speeds import HostSpeed, Speeds
from composer.types import Draft, Host, Message, Request, Sampling, Stream

WRITTEN = 48  # tokens that each probe may write
_WORDS = 160  # of the prompt that reading is measured with, where the context has room for them


async def calibrate(
    resolver: Resolver, hosts: Sequence[str], *, say: Callable[[str, HostSpeed], None] = lambda _name, _speed: None
) -> Speeds:
    """Open each of `hosts` in turn, ask it a few requests, close it; keep the figures and return all that are known.

    `say` hears each host's as it is measured. Hosts that take no memory here are left out: their speed is somebody
    else's, and their tokens may cost money. A load is measured as it is found, mostly from a warm page cache. Raises
    EngineError for a host that does not start or answer, SourceError or ConfigError for files, OSError for ours.
    """
    found: dict[str, HostSpeed] = {}
    for name in hosts:
        host = await asyncio.to_thread(resolver.host, name, ())
        if host.memory == 0:
            continue
        found[name] = await measure(resolver.engine(name), host)
        say(name, found[name])
        _remember({resolver.weights(name): found[name]})  # at once: a later host may fail
    return load_speeds({name: resolver.weights(name) for name in hosts}) or Speeds(0.0, 0.0)


async def measure(engine: Engine, host: Host) -> HostSpeed:
    """The speeds of one host, opened and closed for it. Raises EngineError."""
    began = time.monotonic()
    try:
        opened = await engine.open(host)
        load = time.monotonic() - began
        words = min(_WORDS, host.context // 4)
        read, reading = await _ask(engine, host, ["long"], words=words, tokens=1)
        prefill = max(1, sum(d.usage.tokens_in - d.usage.cached_in for d in read)) / reading
        slots = engine.caps.slots
        return HostSpeed(
            prefill=prefill,
            decode_one=await _writing(engine, host, ["alone"], prefill),
            decode=await _writing(engine, host, [f"slot {slot}" for slot in range(slots)], prefill),
            slots=slots,
            load=load,
            memory=max(host.memory, opened.memory),
        )
    finally:
        await engine.close()


def load_speeds(weights: Mapping[str, str]) -> Speeds | None:
    """What was measured on this machine: `weights` maps the hosts of interest to what identifies their files. None if
    nothing was, or what was written cannot be read: then it is measured again."""
    known = _read()
    if not known:
        return None
    start, per_gb = _line([(speed.memory / 1e9, speed.load) for speed in known.values()])
    return Speeds(start, per_gb, {name: known[sha] for name, sha in weights.items() if sha in known})


def speeds_file() -> Path:
    """Where this machine's figures are: in the user's cache, one file per kind of machine."""
    return cache_folder() / "speeds" / f"{machine()}.json"


def machine() -> str:
    """What figures belong to: the processor, how many of it, and the memory, as 16 hex digits."""
    with contextlib.suppress(OSError, ValueError):
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 30
        return _sha(platform.machine(), _processor(), os.cpu_count(), memory)
    return _sha(platform.machine(), platform.processor(), os.cpu_count())


async def _writing(engine: Engine, host: Host, topics: Sequence[str], prefill: float) -> float:
    """Tokens per second that are written together, without the time that reading takes."""
    drafts, seconds = await _ask(engine, host, topics, words=8, tokens=WRITTEN)
    read = sum(draft.usage.tokens_in - draft.usage.cached_in for draft in drafts)
    written = max(1, sum(draft.usage.tokens_out for draft in drafts))
    return written / max(seconds - read / prefill, seconds / 10)


async def _ask(
    engine: Engine, host: Host, topics: Sequence[str], *, words: int, tokens: int
) -> tuple[list[Draft], float]:
    """The drafts of one request per topic, all at once, and the seconds they took."""
    requests = []
    for topic in topics:
        text = f"{topic}: write a long story about " + " ".join(f"{topic[0]}{place}" for place in range(words // 2))
        prompt = (Message("user", text),) if host.chat else text
        requests.append(Request(topic, (Stream(host.name, prompt),), Sampling(max_tokens=tokens), role="probe"))

    async def one(request: Request) -> list[Draft]:
        return [piece async for _, piece in engine.generate([request]) if isinstance(piece, Draft)]

    began = time.monotonic()
    drafts = [draft for found in await asyncio.gather(*map(one, requests)) for draft in found]
    for draft in drafts:
        if draft.error is not None:
            raise EngineError(
                f"it cannot be measured: {draft.error.message}", where=host.name, remedy="coe experts check"
            )
    return drafts, max(time.monotonic() - began, 1e-6)


def _line(points: Iterable[tuple[float, float]]) -> tuple[float, float]:
    """Seconds to start, and per GB, by least squares, neither below 0; with one size of files all is put on the size.

    >>> _line([(1.0, 3.0), (2.0, 5.0)]), _line([(2.0, 1.0)])
    ((1.0, 2.0), (0.0, 0.5))
    """
    pairs = list(points)
    x, y = (sum(column) / len(pairs) for column in zip(*pairs, strict=True))
    spread = sum((a - x) ** 2 for a, _ in pairs)
    slope = sum((a - x) * (b - y) for a, b in pairs) / spread if spread > 1e-6 else -1.0
    if slope < 0 or y - slope * x < 0:
        return 0.0, y / x if x else 0.0
    return y - slope * x, slope


def _read() -> dict[str, HostSpeed]:
    """The figures by weights; nothing where there is no file, or one of another form."""
    try:
        rows: dict[str, Any] = json.loads(speeds_file().read_text(encoding="utf-8"))["weights"]
        return {sha: HostSpeed(**row) for sha, row in rows.items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {}


def _remember(found: Mapping[str, HostSpeed]) -> None:
    """Add to the file, or replace in it."""
    path = speeds_file()
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = {sha: asdict(speed) for sha, speed in (_read() | dict(found)).items()}
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fresh.write_text(json.dumps({"processor": _processor(), "weights": rows}, indent=2) + "\n", encoding="utf-8")
    fresh.replace(path)


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


def _sha(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
