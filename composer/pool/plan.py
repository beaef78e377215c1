"""From a heap of requests to an order of work: which hosts, which adapters in each, which prompt after which. Pure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from composer.types import Prompt, Request


@dataclass(frozen=True, slots=True)
class Lane:
    """The requests of one adapter (None: the bare base) on one host, prompts with a common beginning side by side."""

    adapter: str | None
    requests: tuple[Request, ...]


@dataclass(frozen=True, slots=True)
class Batch:
    """All the work of one host: it is opened once, with the union of the adapters its lanes need."""

    host: str
    lanes: tuple[Lane, ...]

    @property
    def adapters(self) -> tuple[str, ...]:
        """The adapters that have to be there when the host opens, sorted."""
        named = {stream.adapter for request in self.requests for stream in request.streams}
        return tuple(sorted(name for name in named if name is not None))

    @property
    def requests(self) -> tuple[Request, ...]:
        """Every request, lane after lane."""
        return tuple(request for lane in self.lanes for request in lane.requests)


@dataclass(frozen=True, slots=True)
class Plan:
    """What will be opened, in this order."""

    batches: tuple[Batch, ...]


def make_plan(requests: Sequence[Request], host_of: Callable[[str], str], resident: Collection[str] = ()) -> Plan:
    """Group `requests` per host and, inside it, per adapter (Symbolic-MoE's grouping, METHODS A.8 and J.1).

    `host_of` maps an expert to its host. Hosts that are `resident` go first, since they cost no load; the others follow
    in order of their first request. Inside a lane higher priority goes first, then prompts in text order, so that equal
    beginnings meet in the prefix cache. Equal input gives an equal plan.
    """
    hosts: dict[str, dict[str, list[Request]]] = {}
    for request in requests:
        lanes = hosts.setdefault(host_of(request.streams[0].expert), {})
        lanes.setdefault(request.streams[0].adapter or "", []).append(request)
    order = sorted(hosts, key=lambda name: name not in resident)
    return Plan(
        tuple(
            Batch(
                host=name,
                lanes=tuple(
                    Lane(adapter or None, tuple(sorted(lane, key=lambda r: (-r.priority, _text(r.streams[0].prompt)))))
                    for adapter, lane in sorted(hosts[name].items())
                ),
            )
            for name in order
        )
    )


def _text(prompt: Prompt) -> str:
    return prompt if isinstance(prompt, str) else "\n".join(turn.content for turn in prompt)
