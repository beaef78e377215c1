"""Every push breaks things in small numbers; `make faults` does it in large ones (docs/faults.md)."""

from __future__ import annotations

import asyncio
import sys

import pytest

from composer.engines.openai import OpenAIEngine
from composer.engines.testing import check_engine
from composer.types import Draft, Host, Request, Stream
from evals.faults.__main__ import MEASURES, Measure, page
from evals.faults.bench import Bench, Finding
from evals.faults.server import answer_to

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")


@pytest.mark.parametrize("measure", [each for each in MEASURES if each.push], ids=lambda measure: str(measure.id))
def test_the_promise_is_kept(measure: Measure) -> None:
    with Bench() as bench:
        finding = measure.work(bench, measure.push)

    assert finding.passed, f"{finding.id}, {finding.fault}: {finding.figure}"


async def test_a_server_of_somebody_else_keeps_the_contract_of_engines() -> None:
    with Bench() as bench:
        host = Host("far", "openai", slots=2)
        await check_engine(lambda: OpenAIEngine(url=bench.url, model="ok"), host, ["one", "two"])


async def test_the_ledger_counts_calls_by_prompt_and_the_answer_is_that_of_the_prompt() -> None:
    with Bench() as bench:
        engine = OpenAIEngine(url=f"{bench.url}/v1", model="flaky:0.5", retries=0)
        await engine.open(Host("far", "openai", slots=4))
        requests = [Request(str(i), (Stream("far", f"prompt {i % 4}"),)) for i in range(40)]
        drafts = [(name, piece) async for name, piece in engine.generate(requests) if isinstance(piece, Draft)]
        await engine.close()

        assert bench.calls("flaky:0.5").total() == 40
        assert len(bench.calls("flaky:0.5")) == 4
        assert bench.told("begun", 0) == 40
    answered = [(name, draft.text) for name, draft in drafts if draft.error is None]
    assert 0 < len(answered) < 40
    assert all(text == answer_to(f"prompt {int(name) % 4}") for name, text in answered)


async def test_a_server_that_is_not_there_fails_each_draft() -> None:
    engine = OpenAIEngine(url="http://127.0.0.1:9", model="ok", retries=0)
    await engine.open(Host("far", "openai"))
    asked = [Request("a", (Stream("far", "?"),))]

    async with asyncio.timeout(10):
        [draft] = [piece async for _, piece in engine.generate(asked) if isinstance(piece, Draft)]
    await engine.close()

    assert draft.error is not None and draft.error.kind == "unreachable"


def test_a_broken_promise_is_shown_and_what_was_not_measured_is_named() -> None:
    before = page([Finding("S14", "abused", "kept", "0", 9, True), Finding("R6, R9", "cut", "refused", "0", 2, True)])

    now = page([Finding("R1", "kill | kill", "kept", "lost 1", 1000, False)], before)

    assert "| R1 | kill / kill | kept | lost 1 | 1,000 | **no** |\n| R6, R9 | cut |" in now
    assert "Not measured: R2, R3, R4, R5, R11" in now
    assert now.endswith("| S14 | abused | kept | 0 | 9 | yes |\n")
