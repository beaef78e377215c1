"""The loop: stages in order, rounds bounded, the last stage once."""

from __future__ import annotations

import pytest

from composer.graph import Stage, build
from composer.state import Query, State, Update


def stages(log: list[str], closes_in: int) -> list[tuple[str, Stage]]:
    async def decide(state: State) -> Update:
        log.append("decide")
        return {"round": state.round + 1}

    async def verify(state: State) -> Update:
        log.append("verify")
        return {"open": tuple(state.round < closes_in for _ in state.queries)}

    async def aggregate(_: State) -> Update:
        log.append("aggregate")
        return {}

    return [("decide", decide), ("verify", verify), ("aggregate", aggregate)]


async def test_the_loop_ends_when_no_row_is_open() -> None:
    log: list[str] = []

    await build(stages(log, closes_in=2), rounds=9)(State.of((Query("1", "x"),)))

    assert log == ["decide", "verify", "decide", "verify", "aggregate"]


async def test_the_loop_is_bounded() -> None:
    log: list[str] = []

    state = await build(stages(log, closes_in=99), rounds=3)(State.of((Query("1", "x"),)))

    assert log.count("decide") == 3
    assert state.round == 3


async def test_our_own_state_comes_back() -> None:
    state = await build(stages([], closes_in=1), rounds=1)(State.of((Query("1", "x"),)))

    assert isinstance(state, State)


async def test_an_unknown_field_is_refused_by_name() -> None:
    async def wrong(_: State) -> Update:
        return {"anwsers": ()}

    async def end(_: State) -> Update:
        return {}

    with pytest.raises(TypeError, match="anwsers"):
        await build([("decide", wrong), ("aggregate", end)], rounds=1)(State.of((Query("1", "x"),)))
