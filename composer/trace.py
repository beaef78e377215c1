"""What happened to each query and why: events while it happens, a record afterwards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from composer.types import Draft, Role


@dataclass(frozen=True, slots=True)
class Routed:
    """A query was given to arms: every arm's score, and the reason in the router's words."""

    id: str
    arms: tuple[str, ...]
    scores: Mapping[str, float]
    reason: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Written:
    """A piece of a draft, where the engine streams; `at` as in Delta."""

    id: str
    arm: str
    text: str
    at: int | None = None


@dataclass(frozen=True, slots=True)
class Drafted:
    """A draft is there (in the store, too, if it is complete). `draft` is the whole of it, `sample` its index, `role` what
    it was asked for."""

    id: str
    arm: str
    text: str
    ok: bool
    cached: bool
    tokens: int
    seconds: float
    failure: str | None
    draft: Draft
    sample: int = 0
    role: Role = "draft"

    @classmethod
    def of(cls, id: str, arm: str, draft: Draft, sample: int = 0, role: Role = "draft") -> Drafted:
        """The event of a draft."""
        failure = draft.error.message if draft.error else None
        usage = draft.usage
        told = (draft.text, draft.ok, draft.cached, usage.tokens_out, usage.seconds, failure)
        return cls(id, arm, *told, draft, sample, role)


@dataclass(frozen=True, slots=True)
class Answered:
    """A query is settled."""

    id: str
    text: str
    status: str
    trace_id: str


@dataclass(frozen=True, slots=True)
class Planned:
    """What the first round of a batch will cost, before anything is asked: `calls` per arm, of these in the store
    (`stored`), loads, the `peak` of bytes, and seconds (None: unknown)."""

    calls: Mapping[str, int]
    stored: Mapping[str, int]
    loads: int
    peak: int
    seconds: float | None


Event = Routed | Planned | Written | Drafted | Answered


def nothing(_: Event) -> None:
    """A listener that does not listen."""
