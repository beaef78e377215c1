"""Programs that models wrote, run where they can do nothing: an interface, and pydantic-monty behind it.

Monty interprets a part of Python in a process of its own that has no files, no network, no environment and no clock to wait on,
with limits of time, memory and depth. Off by default: only a strategy that the registry names runs programs at all.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol, Self

from composer.errors import ConfigError

SECONDS, MEMORY, DEPTH = 2.0, 64 * 2**20, 200
LONGEST = 2_000
"""Characters of what a program gives or prints that are kept."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a program: its value as text (None: it has none that is a number, a text, or a list of them), what it printed,
    and `why` it ended early ("": it did not)."""

    value: str | None
    printed: str
    why: str = ""


class Sandbox(Protocol):
    """Runs programs, one after the other, none of which knows of another."""

    def run(self, program: str) -> Outcome:
        """What comes of it. Raises nothing that a program can bring about."""
        ...


class Monty:
    """pydantic-monty; open as a context manager, it keeps its process for the next program. Raises ConfigError where it is not
    installed."""

    def __init__(self, *, seconds: float = SECONDS, memory: int = MEMORY) -> None:
        try:
            import pydantic_monty  # noqa: PLC0415 an extra
        except ImportError as why:
            raise ConfigError(
                "what runs programs is not installed", remedy="pip install 'composition-of-experts[sandbox]'"
            ) from why
        self._monty: Any = pydantic_monty
        self._limits = {
            "max_feed_duration_secs": seconds,
            "max_turn_duration_secs": seconds,
            "max_memory": memory,
            "max_recursion_depth": DEPTH,
            "max_suspensions": 1,
            "max_total_sleep_secs": 0.0,
        }
        self._pool: Any = pydantic_monty.Monty()

    def __enter__(self) -> Self:
        self._pool.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, why: BaseException | None, at: TracebackType | None) -> None:
        self._pool.__exit__(kind, why, at)

    def run(self, program: str) -> Outcome:
        """See `Sandbox`."""
        printed = _Printed()
        try:
            with self._pool.checkout(limits=self._limits) as session:
                value = session.feed_run(program, print_callback=printed)
        except Exception as why:  # whatever a program does, and whatever becomes of its process
            return Outcome(None, printed.text, f"{type(why).__name__}: {why}"[:300])
        return Outcome(_text(value), printed.text)


class _Printed:
    """Keeps the beginning of what is printed."""

    def __init__(self) -> None:
        self.text = ""

    def __call__(self, _stream: str, text: str) -> None:
        self.text = (self.text + text)[:LONGEST]


def _text(value: object) -> str | None:
    """A value as an answer: numbers and texts as they are, lists with commas.

    >>> _text([1, 2.5, "a"]), _text(True), _text({"a": 1})
    ('1, 2.5, a', None, None)
    """
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, int | float | str):
        try:
            return str(value)[:LONGEST]
        except ValueError:  # more digits than Python writes
            return None
    if isinstance(value, list | tuple):
        parts = [_text(one) if not isinstance(one, list | tuple) else None for one in value]
        return ", ".join(part for part in parts if part is not None)[:LONGEST] if None not in parts else None
    return None
