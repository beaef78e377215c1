"""What calls cost, as one line of a ledger: of a question, an arm, or a whole run."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from composer.types import Draft


@dataclass(slots=True)
class Cost:
    """Sums over drafts. `calls` were paid for, `cached` came from the store and charged nothing, `failed` are those of the
    calls that gave no whole draft, `cut` were ended by us before they were done: what those cost is not known and is in no sum.

    `seconds` is the time of the calls, side by side ones each in full; `cpu_seconds` None: not known; `money` is in the
    registry's currency, and None as soon as one call has no known price.
    """

    calls: int = 0
    cached: int = 0
    failed: int = 0
    cut: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    passes: int = 0
    seconds: float = 0.0
    cpu_seconds: float | None = None
    money: float | None = 0.0

    def add(self, draft: Draft) -> None:
        """Enter one draft."""
        if draft.stop == "cancelled":
            self.cut += 1
            return
        if draft.cached:
            self.cached += 1
            return
        usage = draft.usage
        self.calls += 1
        self.failed += not draft.ok
        self.tokens_in += usage.tokens_in
        self.tokens_out += usage.tokens_out
        self.passes += usage.passes
        self.seconds += usage.seconds
        self.money = None if self.money is None or usage.cost is None else self.money + usage.cost

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready, times to the millisecond."""
        data = asdict(self)
        data["seconds"] = round(self.seconds, 3)
        data["cpu_seconds"] = None if self.cpu_seconds is None else round(self.cpu_seconds, 3)
        return data


@dataclass(frozen=True, slots=True)
class Sums:
    """The ledger of a run over all its starts: in all, and per arm."""

    run: Cost
    arms: dict[str, Cost]

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"run": self.run.as_dict(), "arms": {name: line.as_dict() for name, line in self.arms.items()}}


def share_cpu(lines: dict[str, Cost], cpu_seconds: float) -> None:
    """Divide the CPU seconds of a run among its lines by the time of their calls: hosts serve several calls at once, so
    nobody measures them one by one."""
    whole = sum(line.seconds for line in lines.values())
    for line in lines.values():
        line.cpu_seconds = cpu_seconds * (line.seconds / whole if whole else 1 / len(lines))
