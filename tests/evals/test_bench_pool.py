"""The loads that the pool's bench promises, counted on scripted hosts; and that plans come out in the order foretold."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from composer.pool.locality import loads, lru
from evals.bench.pool_plans import Way, compare, kendall, table, wrong_pairs
from evals.bench.pool_scripts import ROOM, from_file, loads_of, streaming, traffic

ROWS = traffic(120)
TRACE = [expert for row in ROWS for expert in row]


def test_a_file_costs_as_many_loads_as_there_are_weights_and_stopping_no_more() -> None:
    everything = loads_of(partial(from_file, rows=ROWS)).loads
    stopping = loads_of(partial(from_file, rows=ROWS, enough=2)).loads

    assert everything == len(set(TRACE)) == 12
    assert stopping <= everything


def test_a_stream_costs_a_quarter_of_the_loads_of_question_order_at_most() -> None:
    everything = loads_of(partial(streaming, rows=ROWS)).loads
    stopping = loads_of(partial(streaming, rows=ROWS, enough=2)).loads

    assert everything <= 80 <= loads(TRACE, ROOM, lru) / 4
    assert stopping <= everything


QUICK, SAME, SLOW = Way("quick", 1, 1.0, (2.0, 2.2)), Way("same", 1, 1.2, (2.1, 1.9)), Way("slow", 9, 3.0, (4.0, 4.1))


def test_the_order_of_plans_is_judged_by_what_differs_by_more_than_noise() -> None:
    turned = Way("turned", 5, 2.0, (9.0, 9.0))

    assert kendall([QUICK, SAME, SLOW]) == (1.0, 2)  # who is the quicker of the first two nobody can tell
    assert wrong_pairs([QUICK, SAME, SLOW]) == []
    assert kendall([QUICK, SAME, SLOW, turned]) == (pytest.approx(3 / 5), 5)
    assert wrong_pairs([turned, SLOW]) == [(turned, SLOW)]
    assert [line.split()[0] for line in table([SLOW, QUICK])[1:3]] == ["quick", "slow"]


@pytest.mark.slow
async def test_real_plans_that_are_foretold_to_differ_come_out_in_that_order(tmp_path: Path) -> None:
    ways = await compare(tmp_path)

    print("\n".join(table(ways)))
    assert max(way.predicted for way in ways) > 2 * min(way.predicted for way in ways)  # there is something to foretell
    assert wrong_pairs(ways) == []
