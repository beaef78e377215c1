"""From a heap of requests to an order of work, and what it will cost: who is opened when, which prompt after which. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from composer.pool.order import Waiting, order_of
from composer.pool.queues import HostQueue, Job
from composer.pool.residency import Held, to_evict
from composer.pool.speeds import Speeds
from composer.types import Prompt, Request

_CHARS = 4  # of a prompt per token, roughly; tokenizers differ, and none is loaded for a prediction


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


@dataclass(frozen=True, slots=True)
class Step:
    """One host's part of a forecast; its `memory` in bytes, seconds None where nobody has measured."""

    host: str
    calls: int
    opened: bool
    memory: int
    load_seconds: float | None
    work_seconds: float | None


@dataclass(frozen=True, slots=True)
class Forecast:
    """What `requests` will cost: `calls` per arm, and what the store has already (`stored`), the `steps` in their order.

    `floor` is the fewest loads possible, the distinct weight files that are not open yet; `peak` the most bytes at a
    time; `seconds` of wall time, None where a host's speed is unknown. Tokens are an estimate: prompts by their length,
    answers as long as those the store has of the arm, else as long as they may be (`bound` says that this was needed).
    """

    calls: Mapping[str, int]
    stored: Mapping[str, int]
    steps: tuple[Step, ...]
    loads: int
    floor: int
    peak: int
    tokens_in: int
    tokens_out: int
    bound: bool
    seconds: float | None


@dataclass(frozen=True, slots=True)
class Machine:
    """What a forecast has to know: `memory` per host and its adapters in bytes, the `weights` file of a host, what is
    `resident`, and the `limit`, both in bytes (None: no limit)."""

    memory: Callable[[str, Sequence[str]], int]
    weights: Callable[[str], str]
    resident: Mapping[str, int] = field(default_factory=dict[str, int])
    limit: int | None = None


def make_plan(
    requests: Sequence[Request],
    host_of: Callable[[str], str],
    resident: Collection[str] = (),
    load: Callable[[str], float] = lambda _: 1.0,
) -> Plan:
    """Group `requests` per host and, inside it, per adapter (Symbolic-MoE's grouping, METHODS A.8 and J.1).

    `host_of` maps an expert to its host, `load` a host to the seconds that opening it takes. The order is that in which
    the scheduler would begin: what is `resident` first, then by Smith's rule, among equals by first need. Lanes and what
    is in them stand as the queues would give them out. Equal input gives an equal plan.
    """
    queues: dict[str, HostQueue] = {}
    for request in requests:
        host = host_of(request.streams[0].expert)
        queue = queues.setdefault(host, HostQueue(host, patience=0.0, lead=0.0))
        queue.push(Job("", host, request), request)
    waiting = [
        Waiting(name, queue.queued, priority=queue.waiting().priority, load=0.0 if name in resident else load(name))
        for name, queue in queues.items()
    ]
    return Plan(
        tuple(Batch(name, _lanes(queues[name])) for name in order_of(waiting, 0.0, patience=0.0, lead=float("-inf")))
    )


def forecast(
    plan: Plan,
    machine: Machine,
    *,
    stored: Mapping[str, int] | None = None,
    typical: Mapping[str, float] | None = None,
    speeds: Speeds | None = None,
) -> Forecast:
    """What `plan` will cost on `machine`. `typical` are the tokens of an answer per arm, where that is known.

    A host that fits beside the one before it is opened while that computes, so only the longer of the two counts
    (METHODS J.3, MoE-Lens); the others are loaded in turn.
    """
    held = {name: Held(size) for name, size in machine.resident.items()}
    peak = sum(machine.resident.values())
    steps: list[Step] = []
    clock: float | None = 0.0
    spare = 0.0  # seconds of the host before, in which this one can be opened
    tokens_in = tokens_out = 0
    bound = False
    names = [batch.host for batch in plan.batches]
    for place, batch in enumerate(plan.batches):
        read, written, guessed = _tokens(batch, typical or {})
        tokens_in, tokens_out, bound = tokens_in + read, tokens_out + written, bound or guessed
        calls, opened, memory = len(batch.requests), batch.host not in held, machine.memory(batch.host, batch.adapters)
        load: float | None = 0.0
        if opened:
            before = names[place - 1 : place]
            beside = to_evict(held, memory, machine.limit, upcoming=names[place + 1 :], pinned=before)
            gone = beside if beside is not None else to_evict(held, memory, machine.limit, upcoming=names[place + 1 :])
            spare = spare if beside is not None else 0.0
            for name in gone or ():
                del held[name]
            held[batch.host] = Held(memory)
            peak = max(peak, sum(host.memory for host in held.values()))
            load = speeds.load_seconds(batch.host, memory) if speeds else None
        speed = speeds.hosts.get(batch.host) if speeds else None
        work = speed.work_seconds(calls, read, written) if speed else None
        steps.append(Step(batch.host, calls, opened, memory, load, work))
        clock = None if clock is None or load is None or work is None else clock + max(load - spare, 0.0) + work
        spare = work or 0.0
    fresh = {machine.weights(step.host) for step in steps if step.opened}
    return Forecast(
        calls=dict(Counter(request.arm for batch in plan.batches for request in batch.requests)),
        stored=dict(stored or {}),
        steps=tuple(steps),
        loads=sum(step.opened for step in steps),
        floor=len(fresh),
        peak=peak,
        tokens_in=tokens_in,
        tokens_out=tokens_out,
        bound=bound,
        seconds=clock,
    )


def _lanes(queue: HostQueue) -> tuple[Lane, ...]:
    """The lanes, most requests first, as the queue gives them out."""
    lanes: dict[str, list[Request]] = {}
    for job in queue.jobs():
        lanes.setdefault(job.adapter, []).append(job.request)
    order = sorted(lanes, key=lambda adapter: -len(lanes[adapter]))
    return tuple(Lane(adapter or None, tuple(lanes[adapter])) for adapter in order)


def _tokens(batch: Batch, typical: Mapping[str, float]) -> tuple[int, int, bool]:
    """Tokens that a batch reads and writes, and whether a length of answers was unknown."""
    read = sum(_length(stream.prompt) for request in batch.requests for stream in request.streams) // _CHARS
    written = sum(
        min(typical.get(request.arm, float("inf")), request.sampling.max_tokens) for request in batch.requests
    )
    return read, round(written), any(request.arm not in typical for request in batch.requests)


def _length(prompt: Prompt) -> int:
    return len(prompt) if isinstance(prompt, str) else sum(len(turn.content) for turn in prompt)
