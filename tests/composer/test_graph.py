"""The loop: stages in order, rounds bounded, the last stage once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest

from composer.errors import StoreError
from composer.graph import Run, build
from composer.stages.kit import Stage
from composer.state import Answer, Part, Query, State, Update


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


class Apart:
    """A stage that gives on one row after the other, the last one first; the first row waits for `others`."""

    def __init__(self, log: list[str]) -> None:
        self.log = log
        self.others = asyncio.Event()

    async def __call__(self, state: State) -> Update:
        self.log.append(f"all {len(state.queries)}")
        return {}

    async def landing(self, state: State) -> AsyncGenerator[Part]:
        for row in reversed(range(len(state.queries))):
            if not row:
                await self.others.wait()
            self.log.append(f"gives {state.queries[row].id}")
            yield (row,), state.part([row])


class End:
    """Answers; `whole` as it is told."""

    def __init__(self, log: list[str], apart: Apart, whole: bool) -> None:
        self.log, self.apart, self.whole = log, apart, whole

    async def __call__(self, state: State) -> Update:
        self.log.append("ends " + " ".join(query.id for query in state.queries))
        self.apart.others.set()
        answers = tuple(Answer(query.id, query.text, "ok", (), None, 1.0, None, "") for query in state.queries)
        return {"answers": answers, "open": (False,) * len(answers)}


def apart(whole: bool) -> tuple[Run, list[str]]:
    async def decide(state: State) -> Update:
        log.append(f"decides {len(state.queries)}")
        return {"round": state.round + 1, "open": tuple(state.round < 1 for _ in state.queries)}

    log: list[str] = []
    stage = Apart(log)
    stages = [("decide", decide), ("generate", stage), ("aggregate", End(log, stage, whole))]
    return build(stages, rounds=5), log


ROWS = tuple(Query(name, f"what is {name}?") for name in "abc")


async def test_a_row_goes_on_by_itself_and_the_batch_comes_back_in_its_order() -> None:
    run, log = apart(whole=False)

    state = await run(State.of(ROWS))

    assert log.index("ends c") < log.index("gives a")
    assert log.count("decides 1") == 3  # the second round of each row
    assert [answer.text for answer in state.answers] == [query.text for query in ROWS]
    assert not any(state.open) and state.round == 2


async def test_rows_stay_together_where_an_answer_depends_on_the_others() -> None:
    run, log = apart(whole=True)

    await run(State.of(ROWS))

    assert run.whole
    assert log == ["decides 3", "all 3", "decides 3", "all 3", "ends a b c"]


async def test_every_row_is_told_once_as_soon_as_it_is_answered() -> None:
    run, log = apart(whole=False)
    told: list[str] = []

    async def settled(state: State) -> None:
        told.extend(answer.id for answer in state.answers)
        log.append("told")

    await run.settle(State.of(ROWS), settled)

    assert told == ["c", "b", "a"] and log.index("told") < log.index("gives a")


async def test_what_fails_in_a_part_fails_as_it_is() -> None:
    run, _ = apart(whole=False)

    async def settled(_: State) -> None:
        raise StoreError("full")

    with pytest.raises(StoreError, match="full"):
        await run.settle(State.of(ROWS), settled)
