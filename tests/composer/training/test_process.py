"""The process that trains, played by a script: what it tells, how it fails, and how it is stopped."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from training_kit import READY, lessons, scripted, step

from composer.errors import ComposerError
from composer.training.process import Step, StoppedError, run_job

LOOKS = [READY, "a library's chatter", step(0, None, 2.0, 0, None), step(1, 1.5, None, 0), step(2, 1.2, 1.0, 2)]
DONE = {
    "event": "done",
    "why": "finished",
    "steps": 2,
    "best": 2,
    "loss": 1.2,
    "first": 2.0,
    "held": 1.0,
    "seconds": 1.0,
}


def job(folder: Path) -> dict[str, Any]:
    (folder / "out").mkdir(exist_ok=True)
    return {"steps": 9, "asked": [], "out": str(folder / "out")}


def test_steps_and_the_end_are_heard(tmp_path: Path) -> None:
    heard: list[Step | str] = []

    told, replies = run_job(scripted(tmp_path, [*LOOKS, DONE]), job(tmp_path), lessons(), heard.append)

    assert heard == [
        "training 7 numbers on cpu, the base in float32",
        Step(0, 9, None, 2.0, 0, None),
        Step(1, 9, 1.5, None, 0, 1.0),
        Step(2, 9, 1.2, 1.0, 2, 1.0),
    ]
    assert (told["why"], told["best"], told["versions"], replies) == ("finished", 2, {"torch": "0"}, {})


@pytest.mark.parametrize(
    ("event", "code", "words", "remedy"),
    [
        ({"error": "No module named 'peft'", "missing": "peft", "row": None}, "convert", "cannot train: No module", "make vllm-cpu"),
        ({"error": "the loss is nan at step 3", "missing": None, "row": None}, "convert", "the loss is nan", "--rate"),
        ({"error": "are 900 tokens", "missing": None, "row": 1}, "input", "line 4: are 900 tokens", "shorten it"),
        ({"error": "are 900 tokens", "missing": None, "row": 7}, "input", "line 2: are 900 tokens", "shorten it"),
    ],
)  # fmt: skip
def test_an_error_is_told_with_the_next_step(
    tmp_path: Path, event: dict[str, Any], code: str, words: str, remedy: str
) -> None:
    with pytest.raises(ComposerError) as caught:
        run_job(scripted(tmp_path, [{"event": "error", **event}]), job(tmp_path), lessons(), lambda _: None)

    assert caught.value.code == code and words in caught.value.what and remedy in str(caught.value.remedy)


def test_a_child_that_dies_is_told_with_the_end_of_its_log(tmp_path: Path) -> None:
    place = tmp_path / "dying"
    place.write_text("#!/bin/sh\necho out of memory >&2\nexit 9\n")
    place.chmod(0o755)

    with pytest.raises(ComposerError, match="ended by itself: code 9: out of memory"):
        run_job(str(place), job(tmp_path), lessons(), lambda _: None)
    with pytest.raises(ComposerError, match="cannot be run"):
        run_job(str(tmp_path / "none"), job(tmp_path), lessons(), lambda _: None)


def test_an_interpreter_without_torch_says_where_one_comes_from(tmp_path: Path) -> None:
    with pytest.raises(ComposerError) as caught:
        run_job(sys.executable, job(tmp_path), lessons(), lambda _: None)

    assert "cannot train: No module named" in caught.value.what and "--python" in str(caught.value.remedy)


def _pressing(at: int, times: int = 1) -> Any:
    """Hears steps, and presses Ctrl-C at one of them, and again when told that it is stopping."""
    left = times

    def hear(told: Step | str) -> None:
        nonlocal left
        if left and (told.step == at if isinstance(told, Step) else told.startswith("stopping")):
            left -= 1
            os.kill(os.getpid(), signal.SIGINT)

    return hear


def test_ctrl_c_ends_after_the_step_with_the_best_so_far(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT)

    told, _ = run_job(scripted(tmp_path, LOOKS, wait="stop"), job(tmp_path), lessons(), _pressing(2))

    assert (told["why"], told["best"], told["held"], told["dtype"]) == ("stopped", 5, 0.5, "float32")
    assert signal.getsignal(signal.SIGINT) == before


def test_a_second_ctrl_c_waits_no_longer_and_keeps_the_best_of_the_last_look(tmp_path: Path) -> None:
    told, _ = run_job(scripted(tmp_path, LOOKS, wait="ever"), job(tmp_path), lessons(), _pressing(2, times=2))

    assert (told["why"], told["steps"], told["best"], told["first"], told["held"]) == ("stopped", 2, 2, 2.0, 1.0)


def test_ctrl_c_before_any_gain_keeps_nothing(tmp_path: Path) -> None:
    with pytest.raises(StoppedError):
        run_job(scripted(tmp_path, LOOKS[:4], wait="ever"), job(tmp_path), lessons(), _pressing(1, times=2))
