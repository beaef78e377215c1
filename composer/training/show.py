"""A training on stderr: one live line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from composer.training.process import Step

EVERY = 10.0  # seconds between two plain lines, apart from looks at the held-out loss
_WIDTH = 20  # of the bar


def line(step: Step) -> str:
    """How a training stands, in one line.

    >>> line(Step(30, 600, 0.41237, 0.5, 30, 95.2))
    'step 30 of 600, loss 0.412, held-out loss 0.500 (best), 95 s left'
    >>> line(Step(40, 600, 0.4, 0.6, 30, None)), line(Step(0, 600, None, 2.5, 0, None))
    ('step 40 of 600, loss 0.400, held-out loss 0.600 (best at 30)', 'step 0 of 600, held-out loss 2.500')
    """
    parts = [f"step {step.step} of {step.steps}"]
    if step.loss is not None:
        parts.append(f"loss {step.loss:.3f}")
    if step.held is not None:
        mark = "" if step.step == 0 else " (best)" if step.best == step.step else f" (best at {step.best})"
        parts.append(f"held-out loss {step.held:.3f}{mark}")
    if step.left is not None:
        parts.append(f"{step.left:.0f} s left")
    return ", ".join(parts)


@contextmanager
def watching(say: Callable[[str], None]) -> Iterator[Callable[[Step | str], None]]:
    """What hears a training: `say` gets its words, and a line at each look at the held-out loss or every `EVERY` seconds.
    A terminal has a bar with the latest step below those instead."""
    if sys.stderr.isatty():
        with _live() as hear:
            yield hear
        return
    last = time.monotonic()

    def hear_plain(told: Step | str) -> None:
        nonlocal last
        if isinstance(told, Step) and told.held is None and time.monotonic() - last < EVERY:
            return
        last = time.monotonic()
        with suppress(OSError):  # whoever read our lines has gone: the work is worth finishing
            say(told if isinstance(told, str) else line(told))

    yield hear_plain


@contextmanager
def _live() -> Iterator[Callable[[Step | str], None]]:
    from rich.console import Console  # noqa: PLC0415 80 ms to import, and only a terminal needs it
    from rich.progress import BarColumn, Progress, TextColumn  # noqa: PLC0415

    console = Console(stderr=True, highlight=False)
    held: list[str] = []  # the last look, which stays in the line until the next
    with Progress(
        BarColumn(bar_width=_WIDTH), TextColumn("{task.description}", markup=False), console=console, transient=True
    ) as bar:
        task = bar.add_task("", total=None, visible=False)

        def hear(told: Step | str) -> None:
            if isinstance(told, str):
                console.print(told, markup=False)
                return
            if told.held is not None:
                held[:] = [f"held-out loss {told.held:.3f}, best at {told.best}"]
            shown = [f"step {told.step} of {told.steps}"]
            shown += [] if told.loss is None else [f"loss {told.loss:.3f}"]
            shown += held
            shown += [] if told.left is None else [f"{told.left:.0f} s left"]
            bar.update(task, completed=told.step, total=told.steps, description=", ".join(shown), visible=True)

        yield hear
