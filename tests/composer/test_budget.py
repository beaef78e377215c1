"""What may still be spent: never more than was allowed, and a stop is a stop."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from composer.budget import Budget, Limits, most_tokens, seconds_until
from composer.errors import InputError
from composer.types import Draft, Message, Request, Sampling, Stream, Usage


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def request(name: str, tokens: int = 10) -> Request:
    return Request(name, (Stream("math", "2 + 2"),), Sampling(max_tokens=tokens))


def draft(tokens: int, **more: Any) -> Draft:
    return Draft("", "4", "stop", Usage(tokens_in=0, tokens_out=tokens), **more)


def test_without_limits_everything_is_admitted() -> None:
    budget = Budget()

    assert all(budget.admits(request(str(i))) for i in range(1000))
    assert (budget.why, budget.left()) == (None, None)


def test_calls_are_counted_when_they_are_sent_and_a_request_only_once() -> None:
    budget = Budget(Limits(calls=2))

    assert [budget.admits(request(name)) for name in "aab"] == [True, True, True]
    assert (budget.admits(request("c")), budget.why) == (False, "max-calls")


@given(st.lists(st.tuples(st.integers(1, 60), st.floats(0, 1), st.booleans()), max_size=40), st.integers(1, 300))
def test_tokens_never_pass_their_bound_whatever_lands_when(calls: list[tuple[int, float, bool]], bound: int) -> None:
    budget = Budget(Limits(tokens=bound))
    spent = 0

    for i, (most, share, lands) in enumerate(calls):
        asked = request(str(i), most)
        if budget.admits(asked) and lands:
            used = int(share * most_tokens(asked))
            spent += used
            budget.landed(asked, draft(used))

    assert budget.tokens == spent <= bound


def test_a_budget_that_no_call_fits_into_says_so() -> None:
    small, enough = Budget(Limits(tokens=14)), Budget(Limits(tokens=15))

    for budget in (small, enough):
        budget.admits(request("a"))
        budget.admits(request("b"))

    assert (small.told, enough.told) == ("max-tokens (one call may cost 15 tokens)", "max-tokens")


def test_what_came_from_the_store_or_from_others_is_free() -> None:
    budget = Budget(Limits(tokens=15))

    budget.landed(request("never sent"), draft(1000))
    assert budget.admits(request("a"))
    budget.landed(request("a"), draft(1000, cached=True))

    assert (budget.tokens, budget.admits(request("b"))) == (0, True)


@pytest.mark.parametrize(("limits", "why"), [(Limits(seconds=5), "max-seconds"), (Limits(deadline=5), "deadline")])
def test_at_the_end_of_its_time_nothing_is_sent_and_all_is_cut(limits: Limits, why: str) -> None:
    clock = Clock()
    budget = Budget(limits, clock=clock)
    assert budget.admits(request("a")) and budget.left() == 5

    clock.now += 5

    assert (budget.admits(request("b")), budget.why, budget.left()) == (False, why, 0)


async def test_a_stop_lets_calls_land_for_a_while_and_the_first_reason_stays() -> None:
    budget = Budget()
    over = asyncio.create_task(budget.over())
    await asyncio.sleep(0)

    budget.stop("interrupted", grace=0.05)
    budget.stop("terminated", grace=100)
    assert (budget.admits(request("a")), budget.why) == (False, "interrupted")
    await asyncio.sleep(0.01)
    assert not over.done()

    async with asyncio.timeout(1):
        await over


def test_the_most_a_request_can_cost_counts_all_of_it() -> None:
    chat = Request("1", (Stream("m", (Message("user", "zwölf"),)),), Sampling(max_tokens=10))

    assert most_tokens(chat) >= 6 + 10


@pytest.mark.parametrize(
    ("said", "left"),
    [
        ("12:30", 1800),
        ("11:00", 23 * 3600),
        ("12:00:30", 30),
        ("2027-01-01T13:00", 3600),
        ("2027-01-01T13:00:00+00:00", 3600),
        ("2027-01-02", 12 * 3600),
    ],
)
def test_a_deadline_is_a_time_or_a_date(said: str, left: float) -> None:
    now = datetime(2027, 1, 1, 12, tzinfo=UTC)

    assert seconds_until(said, now if "+" in said else now.replace(tzinfo=None)) == left


@pytest.mark.parametrize("said", ["soon", "25:00", "2026-01-01T00:00", "", "10"])
def test_what_is_no_moment_to_come_is_refused(said: str) -> None:
    with pytest.raises(InputError, match="--deadline"):
        seconds_until(said, datetime(2027, 1, 1, 12))


@pytest.mark.parametrize("limits", [{"calls": 0}, {"tokens": -1}, {"seconds": 0.0}, {"seconds": float("nan")}])
def test_what_is_no_budget_is_refused(limits: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=f"--max-{next(iter(limits))}"):
        Limits(**limits)
