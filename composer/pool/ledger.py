"""The honest ledger: what was called, what came from the store, what it cost."""

from __future__ import annotations

from dataclasses import dataclass, field

from composer.costs import Cost
from composer.types import Draft, Reuse


@dataclass(slots=True)
class Ledger:
    """Counts since the pool was made. A cached draft counts as a draft and charges nothing else.

    `loads` counts weights opened, `ahead` those of them opened before their turn and `wasted` those closed again unused;
    `weights` are the distinct weight files of opened hosts (their sha256), `cost` is money in the registry's currency:
    None as soon as one charged call has no known price.
    """

    drafts: int = 0
    cached: int = 0
    failed: int = 0
    cancelled: int = 0
    loads: int = 0
    ahead: int = 0
    wasted: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    passes: int = 0
    cost: float | None = 0.0
    weights: set[str] = field(default_factory=set)
    arms: dict[str, Cost] = field(default_factory=dict)  # the same per arm, where it is told
    reused: Reuse | None = None  # of the hosts that were closed; None where none of them tells

    def reuse(self, more: Reuse | None) -> None:
        """Enter what the prefix cache of a host has found, once it is closed."""
        if more is not None:
            known = self.reused or Reuse()
            self.reused = Reuse(known.looked_up + more.looked_up, known.found + more.found)

    def charge(self, draft: Draft, arm: str = "") -> None:
        """Enter one draft that a request received; `arm` is the one it was asked for."""
        if arm:
            self.arms.setdefault(arm, Cost()).add(draft)
        if draft.stop == "cancelled":
            self.cancelled += 1
            return
        self.drafts += 1
        self.failed += not draft.ok
        if draft.cached:
            self.cached += 1
            return
        usage = draft.usage
        self.tokens_in += usage.tokens_in
        self.tokens_out += usage.tokens_out
        self.passes += usage.passes
        self.cost = None if self.cost is None or usage.cost is None else self.cost + usage.cost
