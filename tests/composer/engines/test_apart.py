"""Who wants to be alone is; nobody waits for ever."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from composer.engines.apart import Apart


async def visit(apart: Apart, inside: list[str], seen: list[Sequence[str]], name: str) -> None:
    async with apart.enter(alone=name.isupper()):
        inside.append(name)
        seen.append(tuple(inside))
        await asyncio.sleep(0.001)
        inside.remove(name)


async def test_who_wants_to_be_alone_is_and_those_who_came_later_wait_for_it() -> None:
    apart, seen = Apart(), list[Sequence[str]]()

    async with asyncio.timeout(10):
        inside: list[str] = []
        await asyncio.gather(*(visit(apart, inside, seen, name) for name in "abCdEFgh"))

    assert all(len(names) == 1 for names in seen if names[-1].isupper())
    assert [names[-1] for names in seen] == list("abCdEFgh")
    assert ("a", "b") in seen and ("g", "h") in seen


@pytest.mark.parametrize("who", ["inside", "waiting"])
async def test_whoever_is_cancelled_leaves_the_door_open(who: str) -> None:
    apart, seen = Apart(), list[Sequence[str]]()

    async def stay(*, alone: bool) -> None:
        async with apart.enter(alone=alone):
            await asyncio.Event().wait()

    first = asyncio.create_task(stay(alone=who == "inside"))
    await asyncio.sleep(0)
    second = asyncio.create_task(stay(alone=True))
    await asyncio.sleep(0)
    for task in (first, second) if who == "inside" else (second, first):
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    async with asyncio.timeout(10):
        await visit(apart, [], seen, "A")
        await visit(apart, [], seen, "b")
    assert seen == [("A",), ("b",)]
