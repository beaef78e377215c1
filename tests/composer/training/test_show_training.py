"""How a training is shown: lines for logs, one live line for people."""

from __future__ import annotations

import io
import sys

import pytest

from composer.training import show
from composer.training.process import Step

STEPS = [
    Step(0, 90, None, 2.0, 0, None),
    *(Step(number, 90, 1.0, 1.5 if number == 20 else None, 20 if number >= 20 else 0, 45.0) for number in range(1, 31)),
]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_log_gets_a_line_per_look_and_now_and_then_one_between(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 1000))
    monkeypatch.setattr(show.time, "monotonic", lambda: next(clock))
    said: list[str] = []

    with show.watching(said.append) as hear:
        hear("8 rows to learn from, 2 held back")
        for step in STEPS:
            hear(step)

    assert said[:2] == ["8 rows to learn from, 2 held back", "step 0 of 90, held-out loss 2.000"]
    assert "step 20 of 90, loss 1.000, held-out loss 1.500 (best), 45 s left" in said
    assert 4 < len(said) < 10


def test_a_terminal_gets_one_live_line_with_loss_and_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")

    with show.watching(lambda _: None) as hear:
        hear("asking [small] the held-out questions")
        for step in STEPS:
            hear(step)

    shown = screen.getvalue()
    assert "asking [small] the held-out questions" in shown
    assert "step 30 of 90, loss 1.000, held-out loss 1.500, best at 20, 45 s left" in shown


def test_a_reader_that_has_gone_ends_nothing() -> None:
    def gone(_: str) -> None:
        raise BrokenPipeError

    with show.watching(gone) as hear:
        hear("words")
