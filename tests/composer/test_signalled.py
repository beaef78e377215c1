"""Signals while something hangs that nobody can interrupt: the end comes all the same, with the right exit code."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Literal

import pytest
from scripted import ONE, Scripted

from composer.budget import Budget
from composer.running.batch import ask_once
from composer.running.stopping import stopping
from composer.store import DraftStore
from composer.types import Request

# A run whose sentence encoder hangs in a thread, as native code may.
HANGS = """
import sys, time
from pathlib import Path
import composer.running.stopping
from composer.cli import main
from composer.pipeline import Pipeline

class Hanging:
    def encode(self, texts):
        print("hangs", flush=True)
        time.sleep(60)

Pipeline.encoder = lambda self: Hanging()
composer.running.stopping.HARD = 0.5
sys.argv = ["coe", "run", "in.jsonl", "--out", "out.jsonl"]
main()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no such signals")
def test_what_hangs_is_ended_after_the_second_signal(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text('{"id": "a", "question": "What is 2 + 2?"}\n')
    with subprocess.Popen(
        [sys.executable, "-c", HANGS], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout and process.stderr
        assert process.stdout.readline() == "hangs\n"
        process.send_signal(signal.SIGTERM)
        said = process.stderr.readline()  # two that come before the first is taken are one
        process.send_signal(signal.SIGTERM)
        began = time.monotonic()
        said += process.stderr.read()

    assert process.returncode == 143
    assert time.monotonic() - began < 5
    assert "once more ends it at once" in said and "Traceback" not in said
    assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="no such signals")
def test_signals_stop_the_budget_and_handlers_are_put_back() -> None:
    budget, before = Budget(), signal.getsignal(signal.SIGTERM)

    with stopping(budget) as stopper:
        assert stopper.exit_code is None
        os.kill(os.getpid(), signal.SIGTERM)
        assert (budget.stopped, stopper.exit_code) == ("terminated", 143)
        with pytest.raises(SystemExit) as ended:
            os.kill(os.getpid(), signal.SIGINT)

    assert ended.value.code == 143  # the first one says why
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.skipif(sys.platform == "win32", reason="no such signal")
def test_what_nohup_ignores_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stopping(Budget()) as stopper:
            os.kill(os.getpid(), signal.SIGHUP)
            assert stopper.why is None
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.skipif(sys.platform == "win32", reason="no such signal")
@pytest.mark.parametrize("ending", ["interrupted", "terminated"])
def test_a_question_that_a_signal_cut_short_is_listed_as_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: Literal["interrupted", "terminated"]
) -> None:
    def struck(_: Request) -> str:
        os.kill(os.getpid(), signal.SIGINT)
        return "too late"

    async def states() -> list[str]:
        async with DraftStore.open(tmp_path / "drafts.sqlite") as store:
            return [run.state for run in await store.runs()]

    with pytest.raises(KeyboardInterrupt), Scripted(tmp_path, monkeypatch).pipeline(ONE, struck) as pipeline:
        ask_once(pipeline, "alone?", signalled=lambda: ending)

    assert asyncio.run(states()) == [ending]
