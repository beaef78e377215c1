"""Who asks on the way to an answer, and of whom: for all that returns requests and sends none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from composer.types import Prompt, Request, Role, Sampling, Stream


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

    def request(
        self, arm: str, role: Role, stream: Stream, sampling: Sampling, *, sample: int = 0, place: int = 0
    ) -> Request:
        """A request of one stream on this behalf; `place` numbers what an arm is asked in a role."""
        return Request(
            id=f"{self.id}:{arm}:{role}:{sample + place}",
            streams=(stream,),
            sampling=sampling,
            sample=sample,
            role=role,
            arm=arm,
            parent=self.id,
            deadline=self.deadline,
            priority=self.priority,
        )
