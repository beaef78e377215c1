"""Who asks on the way to an answer, and of whom: for all that returns requests and sends none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from composer.types import Prompt, Sampling, Stream


class Asking(Protocol):
    """What is asked of the registry here."""

    def stream(self, arm: str, prompt: Prompt) -> Stream:
        """The expert and its adapter with this prompt."""
        ...

    def sampling(self, arm: str) -> Sampling:
        """How it draws."""
        ...

    def messages(self, arm: str, text: str) -> Prompt:
        """A text as the expert takes it."""
        ...

    def description(self, expert: str) -> str:
        """What it says it knows."""
        ...


@dataclass(frozen=True, slots=True)
class Asker:
    """On whose behalf something is asked: the id of the query, and what its caller wants of the time."""

    id: str
    deadline: float | None = None
    priority: int = 0
