"""What the verbs of the command share: their common options, and how they print, complain and end."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

import typer

from composer.exits import CLOSED_PIPE, INTERRUPTED, TERMINATED

if TYPE_CHECKING:
    from composer.pipeline import Pipeline

HARD = 5.0  # seconds that hosts and files have to end after SIGTERM
_terminated = False  # whether SIGTERM came

Config = Annotated[Path | None, typer.Option("--config", "-c", help="The registry file (else found as documented).")]
AsJson = Annotated[bool, typer.Option("--json", help="Print data for programs.")]
Memory = Annotated[str | None, typer.Option(help="Most memory for resident models, such as 1GiB.")]
FormName = Annotated[str, typer.Option("--form", help="Of the answers: rows, or openai-batch.")]
Offline = Annotated[bool, typer.Option("--offline", envvar="COE_OFFLINE", help="Fetch nothing.")]


def make_pipeline(config: Path | None, memory: str | None, offline: bool) -> Pipeline:
    """The pipeline of a registry, as the common options say."""
    from composer.config import parse_size
    from composer.pipeline import Pipeline
    from composer.registry.progress import console_progress

    size = parse_size(memory, "--memory") if memory is not None else None
    return Pipeline.from_file(config, memory=size, offline=offline, progress=console_progress(), say=say)


def question_text(question: str) -> str:
    """The question of a command line, or with `-` what standard input says. Raises InputError where it is empty, or no UTF-8."""
    if question == "-":
        return _readable(sys.stdin.buffer.read(), "standard input", "utf-8-sig").strip()
    # Python keeps bytes of an argument that are no UTF-8 as halves of characters, which no engine can read.
    return _readable(question.encode("utf-8", "surrogateescape"), "QUESTION", "utf-8")


def _readable(told: bytes, where: str, form: str) -> str:
    from composer.errors import InputError

    try:
        text = told.decode(form)
    except UnicodeDecodeError as why:
        what = f"byte {why.start + 1} is not UTF-8"
        raise InputError(what, where=where, remedy="send the question as UTF-8") from why
    if not text.strip():
        raise InputError("the question is empty", where=where, remedy="ask something, such as 'What is 12 + 13?'")
    return text


def print_json(data: Any) -> None:
    """Data on stdout."""
    import json

    typer.echo(json.dumps(data, indent=2, ensure_ascii=False))


def say(text: str) -> None:
    """A note on stderr."""
    typer.echo(text, err=True)


def complain(text: str) -> None:
    """An error on stderr, with nothing in it that a terminal would obey."""
    from composer.show import printable

    typer.secho(printable(text), err=True, fg=typer.colors.RED)


def end_on_sigterm() -> None:
    """Let SIGTERM end us as Ctrl-C does, so that hosts and half-written files go with us; after `HARD` seconds at most."""

    def handler(number: int, frame: FrameType | None) -> None:
        global _terminated
        _terminated = True
        import threading

        timer = threading.Timer(HARD, lambda: os._exit(TERMINATED))
        timer.daemon = True
        timer.start()
        interrupt = signal.getsignal(signal.SIGINT)
        if not callable(interrupt):  # Ctrl-C is ignored, as behind a shell's `&`
            raise KeyboardInterrupt
        interrupt(number, frame)

    if signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
        signal.signal(signal.SIGTERM, handler)


def interrupted() -> int:
    """The exit code of who was interrupted: by Ctrl-C, or by SIGTERM."""
    return TERMINATED if _terminated else INTERRUPTED


def signalled() -> Literal["interrupted", "terminated"]:
    """Which of the two it was, as the store says it."""
    return "terminated" if _terminated else "interrupted"


class Ended(SystemExit):
    """The end by a signal about which the user was told all there is to say."""


def end_quietly(end: SystemExit) -> NoReturn:
    """End as `end` says; after Ctrl-C with a word, after a closed pipe without one and as shells report it."""
    if end.code == INTERRUPTED and not isinstance(end, Ended):  # typer has caught the KeyboardInterrupt
        complain(f"{signalled()}; what was finished is in the store: the same command goes on from there")
        if _terminated:
            raise SystemExit(TERMINATED) from end
    if end.code == 1 and type(sys.stdout).__name__ == "PacifyFlushWrapper":  # what typer leaves after EPIPE
        raise SystemExit(CLOSED_PIPE) from end
    raise end


def numbers(text: str, option: str, most: float) -> tuple[float, ...]:
    """The numbers of an option, none below 0 or above `most`. Raises InputError."""
    from composer.errors import InputError

    try:
        found = tuple(float(part) for part in text.split(",") if part.strip())
    except ValueError as why:
        raise InputError(f"{text!r} are no numbers: {why}", where=option, remedy="write 0.1,0.5") from why
    if wrong := [one for one in found if not 0 <= one <= most]:
        raise InputError(f"{wrong[0]:g} does not lie between 0 and {most:g}", where=option, remedy="write 0.1,0.5")
    return found
