"""From a heap of requests to an order of work, and what it will cost: who is opened when, which prompt after which. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import nlargest

from composer.pool.order import Waiting, order_of
from composer.pool.queues import AND, HostQueue, Job, host_for
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
    `passes` are those of the answers' tokens, at most: every stream of a request computes each of them, of which one is
    written.
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
    passes: int = 0


@dataclass(frozen=True, slots=True)
class Machine:
    """What a forecast has to know: `memory` per host and its adapters in bytes, the `weights` file of a host, what is
    `resident`, and the `limit`, both in bytes (None: no limit); how many hosts compute `at_once`, and whether the next one
    is opened `ahead`, while others compute."""

    memory: Callable[[str, Sequence[str]], int]
    weights: Callable[[str], str]
    resident: Mapping[str, int] = field(default_factory=dict[str, int])
    limit: int | None = None
    at_once: int = 1
    ahead: bool = True


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
        host = host_for(host_of, request)
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

    Turns begin in the plan's order, `at_once` of them side by side. A host that fits beside those at work is opened
    `ahead`, from the moment on when the last of them is open, so only the longer of its load and their work counts
    (METHODS J.3, MoE-Lens); the others wait until there is room. Where nobody has measured, all that is unknown takes a
    second in the play, and the seconds are None.
    """
    held = {name: Held(size) for name, size in machine.resident.items()}
    peak = sum(machine.resident.values())
    steps: list[Step] = []
    running: list[tuple[float, str]] = []  # when the last turns end, and whose they are
    begun = over = 0.0  # when the last turn had its host open, and when all have ended
    tokens_in = tokens_out = passes = 0
    bound, known = False, True
    names = [batch.host for batch in plan.batches]
    for place, batch in enumerate(plan.batches):
        shares = _shares(batch, typical or {})
        tokens_in += sum(own.read for own in shares.values()) // _CHARS
        tokens_out += round(sum(_written(request, typical or {}) for request in batch.requests))
        passes += round(sum(own.computed for own in shares.values()))
        bound = bound or any(request.arm not in (typical or {}) for request in batch.requests)
        calls, opened, memory = len(batch.requests), batch.host not in held, machine.memory(batch.host, batch.adapters)
        turn = min(running)[0] if len(running) == machine.at_once else 0.0
        open_at, load = turn, 0.0 if not opened else _opening(speeds, batch.host, memory)
        if opened:
            early = min(begun, turn) if machine.ahead else turn
            for open_at in sorted({early, turn, *(end for end, _ in running if end > turn)}):
                busy = {host for end, host in running if end > open_at}
                gone = to_evict(held, memory, machine.limit, upcoming=names[place + 1 :], pinned=busy)
                if gone is not None:
                    break
            for name in gone or ():
                del held[name]
            held[batch.host] = Held(memory)
            peak = max(peak, sum(host.memory for host in held.values()))
        work = _work(speeds, shares)
        steps.append(Step(batch.host, calls, opened, memory, load, work))
        known = known and load is not None and work is not None
        begun = max(turn, open_at + (1.0 if load is None else load))
        running = nlargest(machine.at_once, [*running, (begun + (1.0 if work is None else work), batch.host)])
        over = max(over, running[0][0])
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
        seconds=over if known else None,
        passes=passes,
    )


def _lanes(queue: HostQueue) -> tuple[Lane, ...]:
    """The lanes, most requests first, as the queue gives them out."""
    lanes: dict[str, list[Request]] = {}
    for job in queue.jobs():
        lanes.setdefault(job.adapter, []).append(job.request)
    order = sorted(lanes, key=lambda adapter: -len(lanes[adapter]))
    return tuple(Lane(adapter or None, tuple(lanes[adapter])) for adapter in order)


@dataclass(slots=True)
class _Share:
    """What one base has to do for a batch: its `streams`, the characters they read, and the tokens they compute."""

    streams: int = 0
    read: int = 0
    computed: float = 0.0


def _shares(batch: Batch, typical: Mapping[str, float]) -> dict[str, _Share]:
    """What each base of the host has to do: every stream of a request reads its own prompt and computes every token."""
    first = batch.host.split(AND)[0]
    found: dict[str, _Share] = {}
    for request in batch.requests:
        written = _written(request, typical)
        for stream in request.streams:
            own = found.setdefault(stream.base or first, _Share())
            own.streams, own.read = own.streams + 1, own.read + _length(stream.prompt)
            own.computed += written
    return found


def _written(request: Request, typical: Mapping[str, float]) -> float:
    """Tokens of its answer."""
    return min(typical.get(request.arm, float("inf")), request.sampling.max_tokens)


def _opening(speeds: Speeds | None, host: str, memory: int) -> float | None:
    """Seconds to open a host; of several bases the sum of what each took, where that was measured."""
    if speeds is None:
        return None
    bases = host.split(AND)
    if len(bases) > 1 and speeds.hosts.keys() >= set(bases):
        return sum(speeds.hosts[base].load for base in bases)
    return speeds.load_seconds(host, memory)


def _work(speeds: Speeds | None, shares: Mapping[str, _Share]) -> float | None:
    """Seconds that a host computes: its bases take turns, since each token waits for all of its streams."""
    if speeds is None or not speeds.hosts.keys() >= shares.keys():
        return None
    return sum(
        speeds.hosts[base].work_seconds(own.streams, own.read // _CHARS, own.computed) for base, own in shares.items()
    )


def _length(prompt: Prompt) -> int:
    return len(prompt) if isinstance(prompt, str) else sum(len(turn.content) for turn in prompt)
