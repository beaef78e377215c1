"""What the tests of runs share: three questions, experts from a script, and what files and the store hold."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from composer.pipeline import Pipeline
from composer.store import DraftStore
from composer.types import Draft, Failure, Request
from routers.types import Array

Say = Callable[[Request], str | Draft | Failure]
Make = Callable[[Say], Pipeline]
ROWS = [{"id": "a", "question": "one"}, {"id": "b", "question": "two"}, {"id": "c", "question": "three"}]


class Letters:
    """An encoder whose vectors say nothing."""

    def encode(self, texts: Sequence[str]) -> Array:
        return np.ones((len(texts), 1), dtype=np.float32)


def write(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def failing(*ids: str) -> Say:
    return lambda r: Failure("timeout", "too slow") if r.parent in ids else f"answer to {r.parent}"


def finished(tmp_path: Path, run_id: str) -> dict[str, str]:
    """What the store holds as final, id to status."""

    async def look() -> dict[str, str]:
        async with DraftStore.open(tmp_path / "drafts.sqlite") as store:
            return {trace["id"]: trace["status"] for trace in await store.traces(run_id)}

    return asyncio.run(look())
