"""Progress of a batch on stderr: a bar where there is a terminal, plain lines where there is none."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from composer.pipeline import Pipeline
from composer.trace import Drafted, Event, Routed

Show = Callable[[str, int, int, int], None]
EVERY = 10.0  # seconds between two plain lines


@contextmanager
def watch(pipeline: Pipeline, what: str) -> Iterator[None]:
    """Show how many of the planned drafts of `pipeline` are done, until the block ends."""
    wanted = done = cached = 0
    with _bar() if sys.stderr.isatty() else _lines() as show:

        def listen(event: Event) -> None:
            nonlocal wanted, done, cached
            if isinstance(event, Routed):
                wanted += len(event.arms)
            elif isinstance(event, Drafted):
                done += 1
                cached += event.cached
                show(what, done, wanted, cached)

        pipeline.listen(listen)
        yield


@contextmanager
def _bar() -> Iterator[Show]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("")

        def show(what: str, done: int, wanted: int, cached: int) -> None:
            note = f"{what} ({cached} from the store)" if cached else what
            progress.update(task, description=note, completed=done, total=max(wanted, done))

        yield show


@contextmanager
def _lines() -> Iterator[Show]:
    last = time.monotonic()

    def show(what: str, done: int, wanted: int, cached: int) -> None:
        nonlocal last
        if time.monotonic() - last >= EVERY:
            last = time.monotonic()
            sys.stderr.write(f"{done} of {wanted} {what}, {cached} from the store\n")

    yield show
