"""The loads that the pool's bench promises, counted on scripted hosts."""

from __future__ import annotations

from functools import partial

from composer.pool.locality import loads, lru
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
