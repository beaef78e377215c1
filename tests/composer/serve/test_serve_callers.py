"""One caller has a share of the server, and no more; the others do not notice."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import httpx
import pytest
from scripted import ONE, Scripted
from served import KEY, LIMITS, Data, ask, chat, served

from composer.serve.callers import Callers
from composer.serve.guard import Keys
from composer.serve.limits import Limits
from composer.serve.refusal import Refused

ANN, BEN = {"authorization": f"Bearer {KEY}"}, {"authorization": f"Bearer {'b' * 22}"}
KEYS = Keys([KEY, "b" * 22])


async def asks(client: httpx.AsyncClient, who: Data, *bodies: Data) -> list[httpx.Response]:
    """The answers to bodies that one caller sends side by side."""
    posts = (client.post("/v1/chat/completions", json=body, headers=who) for body in bodies)
    return list(await asyncio.gather(*posts))


async def test_who_asks_too_much_at_once_is_told_so_and_others_are_answered(bench: Scripted) -> None:
    bench.delay = 0.05
    async with served(bench.pipeline(ONE), replace(LIMITS, each=3), KEYS) as (client, door):
        many = [ask(text=f"question {i}") for i in range(8)]
        ann, ben, health = await asyncio.gather(
            asks(client, ANN, *many), asks(client, BEN, ask()), client.get("/healthz", headers=ANN)
        )
        after = await asks(client, ANN, *many[:3])
        left = [door.callers[name] for name in map(KEYS.caller, (ANN["authorization"], BEN["authorization"])) if name]

    refused = [told for told in ann if told.status_code == 429]
    assert (len(refused), ben[0].status_code, health.status_code) == (5, 200, 200)
    assert refused[0].json()["error"]["code"] == "too_many_requests" and int(refused[0].headers["retry-after"]) >= 1
    assert [told.status_code for told in after] == [200] * 3
    assert left == [0, 0]


async def test_several_answers_take_several_places(bench: Scripted) -> None:
    async with served(bench.pipeline(ONE), replace(LIMITS, each=3)) as (client, door):
        told = [await chat(client, ask(n=n, temperature=1)) for n in (3, 4)]
        left = door.callers[""]

    assert ([one.status_code for one in told], left) == ([200, 429], 0)


async def test_streams_and_refused_bodies_give_their_places_back(bench: Scripted) -> None:
    async with served(bench.pipeline(ONE), replace(LIMITS, each=1)) as (client, door):
        streams = [(await chat(client, ask(stream=True))).status_code for _ in range(2)]
        wrong = [(await chat(client, ask(temprature=1))).status_code for _ in range(2)]
        left = door.callers[""]

    assert (streams, wrong, left) == ([200, 200], [400, 400], 0)


async def test_a_body_that_drips_takes_a_place(bench: Scripted) -> None:
    async def dripping() -> object:
        yield b"{"
        await asyncio.sleep(30)

    async with served(bench.pipeline(ONE), replace(LIMITS, each=1, body=0.2)) as (client, _):
        json = {"content-type": "application/json"}
        slow = asyncio.create_task(client.post("/v1/chat/completions", content=dripping(), headers=json))  # type: ignore[arg-type]
        await asyncio.sleep(0.05)
        meanwhile = await chat(client, ask())
        slow.cancel()
        await asyncio.gather(slow, return_exceptions=True)
        after = await chat(client, ask())

    assert (meanwhile.status_code, after.status_code) == (429, 200)


def test_nobody_can_fill_the_queue_alone_unless_the_operator_says_so() -> None:
    assert Limits(max_tokens=1).share * 4 == Limits(max_tokens=1).queue
    assert Limits(max_tokens=1, queue=1000).share == 250
    assert Limits(max_tokens=1, each=2).share == 2


def test_a_refused_take_takes_nothing() -> None:
    callers = Callers(2, lambda: 7)
    with callers.entered("a"):
        with pytest.raises(Refused) as refused:
            callers.take("a", 2)
        assert (refused.value.status, refused.value.retry, callers["a"]) == (429, 7, 1)

    assert callers["a"] == 0
