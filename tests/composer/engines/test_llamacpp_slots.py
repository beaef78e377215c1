"""Who gets which slot: the one that knows the prompt, with the same adapter; several at once, and nobody is overtaken."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

from composer.engines.llamacpp_slots import Slots


async def take(slots: Slots, *wants: tuple[str | None, str]) -> list[int]:
    async with slots.lent(wants) as places:
        return places


async def test_a_prompt_goes_where_most_of_it_was_read_with_its_adapter() -> None:
    slots = Slots(3)
    [first] = await take(slots, (None, "Rules: be short. One?"))
    [other] = await take(slots, ("a", "Rules: be short. One?"))

    assert other != first
    assert await take(slots, (None, "Rules: be short. Two?")) == [first]
    assert await take(slots, ("a", "Rules: be short. Two?")) == [other]


async def test_a_new_prompt_goes_where_nothing_was_asked_for_longest() -> None:
    slots = Slots(2)
    [first] = await take(slots, (None, "abcdefghij"))
    [second] = await take(slots, (None, "klmnopqrst"))
    await take(slots, (None, "abcdefghij"))

    assert await take(slots, (None, "0123456789")) == [second] != [first]


async def test_streams_get_slots_of_their_own_and_who_waits_for_two_is_not_overtaken() -> None:
    slots, order = Slots(2), []

    async def use(name: str, n: int) -> None:
        async with slots.lent([(None, name)] * n) as places:
            assert len(set(places)) == n
            order.append(name)
            await asyncio.sleep(0)

    async with AsyncExitStack() as stack:
        await stack.enter_async_context(slots.lent([(None, "held")]))
        waiting = [asyncio.create_task(use("two", 2)), asyncio.create_task(use("one", 1))]
        await asyncio.sleep(0.01)
        assert order == []
    await asyncio.gather(*waiting)

    assert order == ["two", "one"]


async def test_who_gives_up_waiting_leaves_the_slots_to_others() -> None:
    slots = Slots(1)
    async with slots.lent([(None, "held")]):
        waiting = asyncio.create_task(take(slots, (None, "x")))
        await asyncio.sleep(0.01)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)

    assert await asyncio.wait_for(take(slots, (None, "y")), 1) == [0]
