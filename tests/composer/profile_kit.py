"""What the tests of profiles share: two arms on one host, three questions, and what is measured of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from composer.engines.base import Engine
from composer.engines.scripted import ScriptedEngine
from composer.jsonl import Labelled, Question
from composer.pool.pool import Pool
from composer.profile import Profile, measure
from composer.store import DraftStore
from composer.types import Draft, Failure, Fingerprint, Host, Kind, Prompt, Request, Usage
from routers.types import Arm
from tests.composer.plain_arms import PlainArms

ENCODER = "e" * 64
PRINTS = {"sums": "p1", "law": "p2"}
Say = Callable[[Request], str | Draft | Failure]


class Fake(PlainArms):
    """Two arms on one host; what stages and what the pool ask of a registry."""

    generalist = "law"

    def __init__(self, answer: Say) -> None:
        self.answer = answer

    def arms(self) -> tuple[Arm, ...]:
        return (Arm("sums"), Arm("law"))

    def messages(self, arm: str, text: str) -> Prompt:
        return text

    def kind(self, arm: str) -> Kind:
        return "text"

    def host_of(self, expert: str) -> str:
        return "small"

    def host(self, name: str, adapters: Sequence[str]) -> Host:
        return Host(name, "scripted")

    def estimate(self, name: str, adapters: Sequence[str]) -> int:
        return 0

    def weights(self, name: str) -> str:
        return name

    def where(self, name: str) -> str:
        return name

    def fingerprint(self, expert: str) -> Fingerprint:
        return Fingerprint("w", expert, None, None, "scripted", 2048)

    def engine(self, name: str) -> Engine:
        return ScriptedEngine(self.answer)

    def cost(self, request: Request, usage: Usage) -> float | None:
        return None


def item(id: str, text: str, answer: str, task: str | None = "sums", split: str | None = "profile") -> Labelled:
    return Labelled(Question(id, text, (), "number", 1), answer, task, split)


ITEMS = (item("a", "1 + 1?", "2"), item("b", "2 + 2?", "4", split="calibration"), item("c", "3 + 3?", "6", None, None))
ROWS = np.eye(3, dtype=np.float32)


async def measured(
    tmp_path: Path, answer: Say, items: Sequence[Labelled] = ITEMS, arms: Sequence[str] | None = None
) -> Profile:
    registry = Fake(answer)
    async with DraftStore.open(tmp_path / "drafts.sqlite") as store:
        pool = Pool(registry, store)
        try:
            return await measure(items, pool, registry, ROWS[: len(items)], encoder=ENCODER, prints=PRINTS, arms=arms)
        finally:
            await pool.close()


def right(request: Request) -> str:
    """`sums` is always right, `law` never."""
    prompt = str(request.streams[0].prompt)
    return f"The answer is {2 * int(prompt[0])}." if request.arm == "sums" else "I do not know."


def cells(profile: Profile) -> dict[tuple[str, str], float]:
    return {(row["question"], row["arm"]): row["score"] for row in profile.table.to_pylist()}
