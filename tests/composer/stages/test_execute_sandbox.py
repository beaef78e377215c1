"""What runs the programs of a pipeline: opened once, closed, harmed by none; its failure is not the expert's."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from composer.answers.sandbox import Monty, Outcome
from composer.errors import ConfigError, EngineError
from composer.pipeline import Pipeline
from composer.settings.strategy import StrategySpec
from composer.show import drafts_text
from composer.stages.running import Written, run_all
from composer.state import Query
from composer.traced import trace_of
from composer.types import Draft, Request
from tests.composer.answers.test_sandbox import PROGRAMS
from tests.composer.scripted import Scripted
from tests.composer.stages.program_kit import SUM, Book, measured, one, registry


@pytest.mark.parametrize("program", PROGRAMS[::9], ids=range(len(PROGRAMS[::9])))
def test_a_hostile_program_as_a_draft_gives_no_answer_and_does_no_harm(
    scripted: Scripted, program: str, tmp_path: Path
) -> None:
    program = program.replace("{file}", str(tmp_path / "made")).replace("{port}", "1")
    strategies = "[prose, {use: code, seconds: 0.3}, {use: tool, seconds: 0.3}]"
    fenced = f"```python\n{program}\n```"
    book = Book(general="It is 85.", coder="It is 85.", coder_code=fenced, coder_tool=[fenced, "Answer: 85"])
    state = one(scripted.pipeline(registry(strategies), book))

    code, tool = state.replies[0][2:]
    assert code.answer is None and code.worked is not None and code.worked.why
    assert tool.answer == "85" and state.answers[0].text == "85"
    assert not (tmp_path / "made").exists()


def test_programs_run_in_one_sandbox_that_is_closed_with_the_pipeline(
    scripted: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    began, closed = Monty.__enter__, Monty.close
    monkeypatch.setattr(Monty, "__enter__", lambda self: (told.append("open"), began(self))[1])
    monkeypatch.setattr(Monty, "close", lambda self: (told.append("close"), closed(self))[1])
    pipeline = scripted.pipeline(registry("[code]"), Book(general="85", coder_code="47 + 38"))
    with pipeline:
        for name in ("a", "b"):
            pipeline.run([Query(name, f"{SUM} {name}")])
        assert told == ["open"]
    assert told == ["open", "close"]


async def test_closing_waits_for_the_program_under_way_and_not_on_the_loop(scripted: Scripted) -> None:
    endless = "[{use: code, ask: '', seconds: 1.5}]"
    pipeline = scripted.pipeline(registry(endless), Book(general="85", coder_code="while True: pass"))
    began, run = asyncio.Event(), Monty.run
    loop = asyncio.get_running_loop()

    def told(self: Monty, program: str) -> Outcome:
        loop.call_soon_threadsafe(began.set)
        return run(self, program)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Monty, "run", told)
        work = asyncio.create_task(pipeline.astate([Query("q", SUM)], by="coder@code"))
        await began.wait()
        work.cancel()  # the last to leave closes what was opened
        beats = []
        while not work.done():
            beats.append(time.monotonic())
            await asyncio.sleep(0.02)

    assert beats[-1] - beats[0] > 1, "the program was waited for"
    assert max(np.diff(beats)) < 0.7, "others went on meanwhile"
    assert pipeline._sandboxes == {}


def test_without_what_runs_programs_nothing_is_loaded(scripted: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("composer.answers.sandbox.find_spec", lambda _: None)

    with pytest.raises(ConfigError, match=r"experts.coder.strategies\): .*pydantic-monty") as caught:
        scripted.pipeline(registry("[code]"), Book())
    assert "composition-of-experts[sandbox]" in (caught.value.remedy or "") and scripted.engines == []
    scripted.pipeline(registry("[prose]"), Book())  # who runs no program needs nothing


class Out:
    """A sandbox that is out of order."""

    def run(self, program: str) -> Outcome:
        return Outcome(None, "", "no processes left", broken=True)


def unopened(_: object) -> Monty:
    raise EngineError("what runs programs is not whole: no processes left")


@pytest.mark.parametrize("sandbox", [lambda _: Out(), unopened], ids=["breaks", "does not open"])
def test_what_runs_programs_fails_and_not_the_expert(
    scripted: Scripted, monkeypatch: pytest.MonkeyPatch, sandbox: Callable[[object], object]
) -> None:
    monkeypatch.setattr(Pipeline, "sandbox", lambda _, limits: sandbox(limits))
    book = Book(
        general="It is 84.", coder="It is 84.", coder_code="47 + 38", coder_tool=["<call>47 + 38</call>", "Answer: 85"]
    )
    pipeline = scripted.pipeline(registry("[prose, code, tool]"), book)
    state = one(pipeline)

    assert (state.answers[0].text, state.answers[0].status) == ("84", "degraded")
    assert "failed: what runs programs failed" in drafts_text(trace_of(state, 0))
    assert [draft["error"] and draft["error"]["kind"] for draft in trace_of(state, 0)["drafts"]][2:] == ["sandbox"] * 2
    assert len(book.prompts("coder@tool")) == 1, "nobody tells it what came of its call"


def test_what_runs_programs_fails_and_leaves_no_record(scripted: Scripted) -> None:
    found = measured(scripted, lambda _: Out())

    assert {row["arm"] for row in found.table.to_pylist()} == {"general", "coder"}


async def test_who_is_cancelled_leaves_no_program_running(scripted: Scripted) -> None:
    began, ran = asyncio.Event(), list[str]()
    loop = asyncio.get_running_loop()

    class Slow:
        def run(self, program: str) -> Outcome:
            ran.append(program)
            loop.call_soon_threadsafe(began.set)
            time.sleep(0.2)
            return Outcome(program, "", data=program)

    spec = StrategySpec("code", "")
    written = [Written(Query(str(i), "?"), "x@code", spec, Draft("", str(i), "stop"), "number") for i in range(9)]
    pipeline = scripted.pipeline(registry("[code]"), Book())
    work = asyncio.create_task(run_all(pipeline.registry, nobody, lambda _: Slow(), written))
    await began.wait()
    work.cancel()
    await asyncio.gather(work, return_exceptions=True)
    await asyncio.sleep(0.5)

    assert ran == ["0"]


async def nobody(requests: Sequence[Request]) -> dict[str, Draft]:
    raise AssertionError("nobody is asked")
