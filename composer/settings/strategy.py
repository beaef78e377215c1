"""Strategies as the registry file declares them: an expert answers in prose, or writes a program, or reasons with calls of a
tool that runs expressions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from composer.errors import ConfigError
from composer.types import Sampling

if TYPE_CHECKING:
    from composer.settings.form import StrategyRow

Strategy = Literal["prose", "code", "tool"]
PROSE, CODE, TOOL = "prose", "code", "tool"
AT = "@"
"""What stands between an expert and its strategy in the name of an arm; no name of an expert has it."""

CALL_BEGINS, CALL_ENDS = "<call>", "</call>"
"""A call in a text stands between them. An expert is stopped where one ends, so that it does not make up the value: nothing but a call
has such an end, neither a program that shifts bits nor a text of one."""

ASKS: dict[str, str] = {
    CODE: "Write a short Python program that computes the answer to the question below. Its last line is an expression"
    " whose value is the answer. Write the program and nothing else.",
    TOOL: "Answer the question below step by step. Where something has to be calculated, counted or sorted, write it as a"
    " Python expression between <call> and </call>, for example <call>12 * 7</call>, and stop there: you are told its value and go"
    " on. Do so at most three times. Then write a last line that begins with `Answer:`.",
}
"""What an expert is told before the question, where the registry does not say it otherwise."""

Fault = Callable[[str, str, str], ConfigError]
"""The error of a setting: what, and the remedy."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a program may take: `seconds`, and `memory` in bytes."""

    seconds: float = 2.0
    memory: int = 64 * 2**20


@dataclass(frozen=True, slots=True)
class StrategySpec:
    """A strategy beside prose: `ask` stands before the question ("": it is asked as it is), `limits` hold for each of its
    programs."""

    use: Literal["code", "tool"]
    ask: str
    limits: Limits = Limits()

    def asked(self, question: str) -> str:
        """The question as an expert is asked it.

        >>> StrategySpec("code", "")  .asked("What is 2 + 3?")
        'What is 2 + 3?'
        """
        return f"{self.ask}\n\n{question}" if self.ask else question

    def sampling(self, own: Sampling) -> Sampling:
        """The expert's sampling; one that calls a tool is stopped where a call ends."""
        return own if self.use != TOOL or CALL_ENDS in own.stop else replace(own, stop=(*own.stop, CALL_ENDS))


def strategy_of(arm: str) -> Strategy:
    """The strategy that the name of an arm says.

    >>> strategy_of("coder@code"), strategy_of("general@tool"), strategy_of("general+manuals")
    ('code', 'tool', 'prose')
    """
    told = arm.rpartition(AT)[2] if AT in arm else PROSE
    return "code" if told == CODE else "tool" if told == TOOL else "prose"


def in_prose(rows: Sequence[StrategyRow]) -> bool:
    """Whether an expert with these rows of the file answers in prose as well."""
    return any(row.use == PROSE for row in rows)


def strategies_of(
    expert: str, rows: Sequence[StrategyRow], size: Callable[[str | None, str], int | None], error: Fault
) -> tuple[StrategySpec, ...]:
    """What the rows of an expert declare beside prose; `size` reads a size at a setting. Raises ConfigError."""
    found: list[StrategySpec] = []
    for place, row in enumerate(rows):
        at = f"experts.{expert}.strategies[{place}]"
        if any(row.use == before.use for before in rows[:place]):
            raise error(at, f"`{row.use}` stands twice", "remove one of them")
        if row.use == "prose":
            if (row.ask, row.seconds, row.memory) != (None, None, None):
                raise error(at, "prose has no options: it is the expert as it is", f"write `{PROSE}` alone")
            continue
        memory = size(row.memory, f"{at}.memory")
        usual = Limits()
        limits = Limits(row.seconds or usual.seconds, memory or usual.memory)
        found.append(StrategySpec(row.use, ASKS[row.use] if row.ask is None else row.ask, limits))
    return tuple(found)
