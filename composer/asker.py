"""Who asks on the way to an answer, what they wish, and of whom: for all that returns requests and sends none."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Protocol

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
class Wishes:
    """What one caller wants otherwise than the registry says; None leaves an expert's own setting.

    `sample` numbers repeated draws of one question (above 0 they need a temperature), `deltas`: pieces of the drafts are
    heard as they come, where the engine has them; `deadline` in seconds on the monotonic clock; more `priority` goes
    first.
    """

    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] | None = None
    sample: int = 0
    deltas: bool = False
    deadline: float | None = None
    priority: int = 0

    @property
    def told(self) -> dict[str, Any]:
        """What of it determines a text, as far as it is said at all."""
        names = ("max_tokens", "temperature", "top_p", "seed", "stop")
        found = {name: value for name in names if (value := getattr(self, name)) is not None}
        return found | ({"sample": self.sample} if self.sample else {})

    def of(self, own: Sampling) -> Sampling:
        """An expert's own sampling with these changes.

        >>> Wishes(temperature=0.5).of(Sampling(max_tokens=9)).max_tokens
        9
        """
        changes = {name: value for name, value in self.told.items() if name != "sample"}
        return replace(own, **changes) if changes else own


@dataclass(frozen=True, slots=True)
class Asker:
    """On whose behalf something is asked: the id of the query, and what its caller wishes."""

    id: str
    wishes: Wishes = Wishes()

    def request(
        self,
        arm: str,
        role: Role,
        stream: Stream,
        sampling: Sampling,
        *,
        sample: int = 0,
        place: int = 0,
        bounded: bool = False,
    ) -> Request:
        """A request of one stream on this behalf, drawn as it says whatever the caller wishes; `place` numbers what an arm is
        asked in a role, `bounded` as in Request."""
        return Request(
            id=f"{self.id}:{arm}:{role}:{sample + place}",
            streams=(stream,),
            sampling=sampling,
            sample=sample,
            role=role,
            arm=arm,
            parent=self.id,
            deadline=self.wishes.deadline,
            priority=self.wishes.priority,
            bounded=bounded,
        )

    def text(self, arm: str, role: Role, stream: Stream, own: Sampling, *, sample: int = 0, place: int = 0) -> Request:
        """A request for a text that may be returned to the caller: drawn as it wishes, and at a temperature anew for each `sample` and
        each repeated draw."""
        sampling = self.wishes.of(own)
        drawn = self.wishes.sample + sample if sampling.temperature else 0
        asked = self.request(arm, role, stream, replace(sampling, seed=sampling.seed + drawn), place=place)
        return replace(asked, sample=drawn)
