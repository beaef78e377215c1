"""What is evaluated of a folder of recorded answers: pools and benchmarks, with their vectors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from composer.errors import InputError, suggest
from composer.pipeline import Pipeline
from composer.recorded import Recorded, read_folder, read_pools, vectors_of
from routers.types import Array


@dataclass(frozen=True, slots=True)
class Case:
    """One pool on its benchmarks, or one benchmark with all its models; `vectors` belong to the record's questions."""

    name: str
    record: Recorded
    vectors: Array


def cases(
    folder: Path, benchmark: str | None, pool: str | None, pipeline: Pipeline, say: Callable[[str], None]
) -> Iterator[Case]:
    """The pool that was named, else every benchmark that was named, else every benchmark of the folder.

    Raises InputError for a name that is not there.
    """
    record = read_folder(folder)
    known = list(dict.fromkeys(record.benchmark))
    wanted = None if benchmark is None else [name.strip() for name in benchmark.split(",")]
    for name in wanted or ():
        if name not in known:
            raise InputError(f"no benchmark is called {name!r}", where=str(folder), remedy=suggest(name, known))
    if pool is not None:
        pools = read_pools(folder)
        if pool not in pools:
            raise InputError(f"no pool is called {pool!r}", where=str(folder), remedy=suggest(pool, sorted(pools)))
        own, arms = pools[pool]
        parts = [(pool, record.of([name for name in own if wanted is None or name in wanted], arms))]
    else:
        parts = [(name, record.of([name])) for name in wanted or known]
    for name, part in parts:
        yield Case(name, part, _vectors(part, pipeline, say))


def _vectors(record: Recorded, pipeline: Pipeline, say: Callable[[str], None]) -> Array:
    """The vectors of a record's questions; each benchmark's are kept by themselves, whichever pools use them."""
    benchmark = np.array(record.benchmark)
    order = sorted(range(len(record)), key=record.ids.__getitem__)
    encoder = pipeline.registry.encoder_sha
    parts: dict[int, Array] = {}
    for name in dict.fromkeys(record.benchmark):
        rows = [i for i in order if benchmark[i] == name]
        found = vectors_of(
            [record.text[i] for i in rows], lambda texts: pipeline.encoder().encode(texts), encoder=encoder, say=say
        )
        parts.update(zip(rows, found, strict=True))
    return np.stack([parts[i] for i in range(len(record))])


def check_calls(calls: str, *, shares: bool = False) -> list[str]:
    """The budgets of `--calls`. Raises InputError for what is neither a whole number above 0, nor `all`, nor (with
    `shares`) a percentage of all arms."""
    found = [part.strip() for part in calls.split(",") if part.strip()]
    for part in found:
        number = part.removesuffix("%") if shares else part
        if part != "all" and not (number.isdecimal() and int(number) > 0):
            percent = ", percentages such as 75%," if shares else ""
            raise InputError(
                f"--calls has {part!r}", remedy=f"give whole numbers above 0{percent} or `all`, parted by commas"
            )
    if not found:
        raise InputError("--calls is empty", remedy="give for instance 1,3,all")
    return found
