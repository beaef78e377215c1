"""Requests of several streams in vLLM's loop: when all rows of one can begin together, and whether they stay together. Pure;
`vllm_loop.py` loads it in another interpreter, so nothing but the standard library is imported."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

RESTARTS = 3
"""How often a request of several streams is begun again before it fails."""


@dataclass(slots=True)
class Row:
    """One request of vLLM's: a stream of something that is asked. `tokens` are those of its prompt."""

    name: str
    prompt: Any
    sampling: Any
    adapter: Any
    tokens: int
    begun: bool = False  # it has come to a token

    @property
    def longest(self) -> int:
        """The most tokens it may come to hold."""
        return self.tokens + int(self.sampling.max_tokens)


@dataclass(slots=True)
class Together:
    """What all streams of a request have in common, and how far they are."""

    weights: Sequence[float]
    mix: Any
    restarts: int = 0
    why: str = ""  # it was begun again the last time
    passes: int = 0
    reserve: bool = False  # the cache was too full for it: next time there has to be room for all it may need
    left: set[str] = field(
        default_factory=set[str]
    )  # rows that still read their prompts, so that it is cached for the next time
    text: list[str] = field(default_factory=list[str])
    ids: list[int] = field(default_factory=list[int])
    logprobs: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    cached: int = 0

    def anew(self, why: str) -> None:
        """Forget what has been written."""
        self.restarts, self.why, self.cached = self.restarts + 1, why, 0
        self.reserve = self.reserve or bool(self.ids) or self.restarts > 1
        self.text, self.ids, self.logprobs = [], [], []


@dataclass(frozen=True, slots=True)
class Room:
    """What vLLM was opened with: rows at once, tokens a step computes, tokens its cache holds and in blocks of how many,
    adapters in a batch (None: it takes none), and whether it keeps what it has read."""

    rows: int
    step: int
    cache: int
    block: int
    adapters: int | None
    keeps: bool

    def begins(self, rows: Sequence[Row], here: Collection[Row], reading: int, group: Together) -> bool:
        """Whether all `rows` would read their prompts in the next step, beside those that are `here`, of which some still
        read `reading` tokens. Where their prompts never fit into one step it is tried as soon as nobody else reads: most
        of them may be cached."""
        if not here:
            return True
        adapters = {id(row.adapter) for row in (*rows, *here) if row.adapter is not None}
        if len(here) + len(rows) > self.rows or (self.adapters is not None and len(adapters) > self.adapters):
            return False
        if group.reserve and sum(map(self._held, (*rows, *here))) > self.cache:
            return False
        known = (
            self.block if group.restarts and self.keeps else self.step
        )  # of what was read before a rest of a block is left
        needed = sum(min(row.tokens, known) for row in rows)
        return reading == 0 if needed > self.step else reading + len(here) + needed <= self.step

    def never(self, rows: Sequence[Row]) -> str | None:
        """Why all `rows` can never begin together; None where they can."""
        tokens = sum(row.tokens for row in rows)
        if len(rows) > self.rows:
            return f"{len(rows)} streams need as many slots, there are {self.rows}: raise `slots`"
        if tokens > self.step and not self.keeps:
            return (
                f"the prompts of all streams hold {tokens} tokens, a step computes {self.step}: raise "
                "--max-num-batched-tokens (option `arguments`), or turn `prefix_caching` on"
            )
        return None

    def _held(self, row: Row) -> int:
        return -(-row.longest // self.block) * self.block


def apart(rows: Sequence[Row], told: Mapping[str, Any], combined: bool) -> str | None:
    """Why rows whose outputs of this step are `told` by name are not in step any more; None if they are."""
    if missing := [place for place, row in enumerate(rows) if row.name not in told]:
        return f"stream {', '.join(map(str, missing))} of {len(rows)} has come to no token beside the others"
    if not combined:
        return "its streams were not combined"
    outputs = [told[row.name].outputs[0] for row in rows]
    if any(list(output.token_ids) != list(outputs[0].token_ids) for output in outputs):
        return f"its streams say different tokens: {', '.join(str(list(output.token_ids)) for output in outputs)}"
    if not told[rows[0].name].finished and any(told[row.name].finished for row in rows):
        return "one of its streams has ended before the first"
    return None
