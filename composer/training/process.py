"""The process that trains: started with its job, heard, and stopped without losing the best so far."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from composer.errors import ComposerError, InputError
from composer.exits import INTERRUPTED
from composer.registry.to_hf import ConvertError, needs_torch
from composer.training.lessons import Lessons

_CHILD = Path(__file__).with_name("child.py")
_TAIL = 400  # characters of its log that an error quotes


class StoppedError(ComposerError):
    """It was stopped before there was anything to keep."""

    code = "stopped"
    exit_code = INTERRUPTED


@dataclass(frozen=True, slots=True)
class Step:
    """How a training stands: the loss of late (None before the first step), that on what is held back (None: not looked
    at here), the step with the lowest of those, and the seconds left."""

    step: int
    steps: int
    loss: float | None
    held: float | None
    best: int
    left: float | None


def run_job(
    python: str, job: Mapping[str, Any], lessons: Lessons, hear: Callable[[Step | str], None]
) -> tuple[dict[str, Any], dict[str, list[str]]]:
    """Let the child do the job; how it ended, with what it told at its start, and what was answered when. Whoever cannot
    wait for the end of a step (SIGTERM, a second Ctrl-C) gets the best of the last look."""
    told: dict[str, Any] = {}
    replies: dict[str, list[str]] = {}
    looks: list[Step] = []
    step = Step(0, job["steps"], None, None, 0, None)
    stopping = False

    def stop() -> None:
        nonlocal stopping
        stopping = True
        child.stop()
        with suppress(RuntimeError):  # the signal came while a line was being written: this one is not told
            hear("stopping after this step, with the best so far (again: at once)")

    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="coe-train-") as place, _started(python, job, Path(place)) as child:
        try:
            with _stopping(stop):
                for event in child.events():
                    kind = event.pop("event", None)
                    if kind == "step":
                        step = Step(steps=job["steps"], **event)
                        looks += [step] if step.held is not None else []
                        hear(step)
                    elif kind == "ready":
                        told.update(event)
                        hear(
                            f"training {event['weights']:,} numbers on {event['device']}, the base in {event['dtype']}"
                        )
                    elif kind == "replies":
                        replies[event["when"]] = event["replies"]
                    elif kind == "done":
                        return {**told, **event}, replies
                    elif kind == "error":
                        if stopping and event["row"] is None:
                            break
                        raise _failure(python, event, lessons)
        except KeyboardInterrupt:
            stopping = True
        if not stopping:
            raise ConvertError(
                f"the training ended by itself: {child.tail()}", where=python, remedy="free memory, or lower --size"
            )
    if step.best == 0 or (job["asked"] and "before" not in replies):
        raise StoppedError("stopped before any step was better than the base: nothing is written")
    held = next(look.held for look in looks if look.step == step.best)
    done = {"why": "stopped", "steps": step.step, "best": step.best, "first": looks[0].held, "held": held}
    return {**told, **done, "seconds": time.monotonic() - began}, replies


def _failure(python: str, event: Mapping[str, Any], lessons: Lessons) -> ComposerError:
    if event["missing"]:
        remedy = needs_torch(python, "peft", "gguf")
        return ConvertError(f"{python} cannot train: {event['error']}", remedy=remedy)
    if event["row"] is not None:
        row = (*lessons.train, *lessons.held)[event["row"]]
        return InputError(f"line {row.question.line}: {event['error']}", remedy="shorten it, or leave the line out")
    return ConvertError(
        f"the training failed: {event['error']}", where=python, remedy="lower --rate, give more rows, or lower --size"
    )


@dataclass(frozen=True, slots=True)
class _Child:
    """The process at work. Its lines come through a queue, so that a signal never tears one in two; b"" is the end."""

    process: subprocess.Popen[bytes]
    lines: queue.SimpleQueue[bytes]
    log: Path

    def events(self) -> Iterator[dict[str, Any]]:
        """What it tells, as it comes; what a library prints is no event."""
        while line := self.lines.get():
            with suppress(ValueError):
                event = json.loads(line)
                if isinstance(event, dict):
                    yield cast(dict[str, Any], event)

    def stop(self) -> None:
        """Let it end after the step that it is at."""
        assert self.process.stdin is not None
        with suppress(OSError):
            self.process.stdin.close()

    def tail(self) -> str:
        """How it ended."""
        code = self.process.wait()
        return f"code {code}: {self.log.read_text(encoding='utf-8', errors='replace').strip()[-_TAIL:]}"


@contextmanager
def _started(python: str, job: Mapping[str, Any], place: Path) -> Iterator[_Child]:
    """The child with its job; it is gone when the block ends."""
    (place / "job.json").write_text(json.dumps(job), encoding="utf-8")
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "VIRTUAL_ENV"))}
    with (place / "log").open("wb") as log:
        try:
            process = subprocess.Popen(
                [python, "-P", str(_CHILD), str(place / "job.json")],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment,
                start_new_session=True,  # Ctrl-C is for us; we tell it to stop
            )
        except OSError as why:
            raise ConvertError(f"{python} cannot be run: {why}", remedy=needs_torch(python, "peft", "gguf")) from why
    child = _Child(process, queue.SimpleQueue(), place / "log")

    def read() -> None:
        assert process.stdout is not None
        with process.stdout as out:
            for line in out:
                child.lines.put(line)
        child.lines.put(b"")

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        yield child
    finally:
        process.kill()  # what it has to save is saved: it has told so, or nobody waits for it
        child.stop()
        process.wait()
        reader.join()


@contextmanager
def _stopping(stop: Callable[[], None]) -> Iterator[None]:
    """The first Ctrl-C calls `stop` inside the block; a second one, and SIGTERM, is KeyboardInterrupt."""
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or before == signal.SIG_IGN:
        yield
        return

    def handler(number: int, frame: Any) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if number != signal.SIGINT:  # led here; it does not wait for long
            raise KeyboardInterrupt
        stop()

    signal.signal(signal.SIGINT, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
