"""When the streams of a request can begin together in vLLM, and how it is noticed that they are not together any more."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from composer.engines.vllm_groups import Room, Row, Together, apart
from composer.types import Mix

ROOM = Room(rows=4, step=100, cache=1000, block=16, adapters=2, keeps=True)


def row(name: str, tokens: int, adapter: Any = None, *, most: int = 10) -> Row:
    return Row(name, None, SimpleNamespace(max_tokens=most), adapter, tokens)


def pair(one: int, other: int, adapter: Any = None, most: int = 10) -> list[Row]:
    return [row("a", one, adapter, most=most), row("b", other, most=most)]


def group(**more: Any) -> Together:
    return Together((1.5, -0.5), Mix(), **more)


def test_all_rows_read_their_prompts_in_one_step_or_none_does() -> None:
    here = [row("x", 30), row("y", 200)]

    assert ROOM.begins(pair(40, 28), here, 30, group())
    assert not ROOM.begins(pair(40, 29), here, 30, group()), "30 tokens are being read, and two rows take one each"
    assert ROOM.begins(pair(40, 58), [row("y", 200)], 0, group())
    assert not ROOM.begins(pair(10, 10), [*here, row("z", 1)], 0, group()), "no slot for both"


def test_prompts_that_take_several_steps_are_tried_when_nobody_else_reads() -> None:
    long = pair(80, 80)

    assert not ROOM.begins(long, [row("x", 1)], 1, group())
    assert ROOM.begins(long, [row("x", 1)], 0, group())
    assert ROOM.begins(long, [], 0, group())
    assert ROOM.begins(long, [row("x", 60)], 60, group(restarts=1)), "all but the rest of a block is cached then"
    assert ROOM.never(long) is None


def test_an_adapter_too_many_would_leave_a_stream_behind() -> None:
    one, two, three = object(), object(), object()
    here = [row("x", 1, one), row("y", 1, two)]

    assert ROOM.begins(pair(10, 10, two), here, 0, group())
    assert not ROOM.begins(pair(10, 10, three), here, 0, group())


def test_who_was_put_out_of_the_cache_comes_back_when_all_it_may_need_is_free() -> None:
    small, here = Room(4, 100, 96, 16, None, True), [row("x", 20)]

    assert small.begins(pair(20, 20), here, 0, group()), "it may well be over before it needs so much"
    assert small.begins(pair(20, 20), here, 0, group(reserve=True)), "three times two blocks"
    assert not small.begins(pair(20, 20, most=13), here, 0, group(reserve=True))
    assert small.begins(pair(20, 20, most=99), [], 0, group(reserve=True)), "alone it is tried"


def test_what_can_never_begin_together_is_told_at_once() -> None:
    deaf = Room(4, 100, 1000, 16, None, keeps=False)

    assert "100" in str(deaf.never(pair(60, 60))) and "--max-num-batched-tokens" in str(deaf.never(pair(60, 60)))
    assert deaf.never(pair(50, 50)) is None
    assert "slots" in str(Room(1, 100, 1000, 16, None, True).never(pair(1, 1)))


def test_beginning_anew_forgets_the_text_and_counts() -> None:
    one = group(text=["a"], ids=[1], logprobs=[{}], cached=3, passes=4)
    one.anew("why")

    assert (one.restarts, one.why, one.text, one.ids, one.logprobs, one.cached) == (1, "why", [], [], [], 0)
    assert one.passes == 4 and one.reserve, "what was computed was computed"
    two = group()
    two.anew("late")
    assert not two.reserve
    two.anew("late")
    assert two.reserve, "the first token never came: perhaps the cache is full"


@dataclass
class Told:
    tokens: list[int]
    finished: bool = False
    outputs: list[Any] = field(init=False)

    def __post_init__(self) -> None:
        self.outputs = [SimpleNamespace(token_ids=self.tokens)]


@pytest.mark.parametrize(
    ("told", "combined", "why"),
    [
        ({"a": Told([5]), "b": Told([5])}, True, None),
        ({"a": Told([5], True), "b": Told([5])}, True, None),  # a stop text, which is looked for in the first alone
        ({"a": Told([5]), "b": Told([6])}, True, "different tokens"),
        ({"a": Told([5])}, True, "stream 1 of 2"),
        ({"b": Told([5])}, True, "stream 0 of 2"),
        ({"a": Told([5]), "b": Told([5])}, False, "not combined"),
        ({"a": Told([5]), "b": Told([5], True)}, True, "ended before"),
    ],
)
def test_streams_are_in_step_where_all_come_to_the_same_token(
    told: dict[str, Told], combined: bool, why: str | None
) -> None:
    found = apart(pair(1, 1), told, combined)

    assert found is None if why is None else why in str(found)
