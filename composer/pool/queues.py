"""What waits for a host: lanes per adapter, each in order of priority, deadline and text, and nobody overtaken for ever."""

from __future__ import annotations

import heapq
import itertools
import math
from collections import deque
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from composer.pool.order import Turns, Waiting
from composer.types import Prompt, Request

if TYPE_CHECKING:
    import asyncio

    from composer.pool.submission import Submission


AND = "&"  # in the name of a host of several bases; no model's name holds one


class Job:
    """One draft to be made, however many want it. `wants` are who does, with their own requests; the first one's is sent.

    `host` is its queue, `queued` says that it waits there since it `arrived` (monotonic seconds), `task` serves it now,
    `written` is what has been heard of its draft, `until` the deadline its engine was given, `landing` that the draft is
    there, `deaths` counts the hosts that died of it or around it.
    """

    __slots__ = (
        "arrived",
        "deaths",
        "host",
        "key",
        "landing",
        "queued",
        "request",
        "task",
        "until",
        "wants",
        "written",
    )

    def __init__(self, key: str, host: str, request: Request) -> None:
        self.key, self.host, self.request = key, host, request
        self.wants: list[tuple[Submission, Request]] = []
        self.arrived = 0.0
        self.queued = self.landing = False
        self.deaths = 0
        self.written = ""
        self.task: asyncio.Task[None] | None = None
        self.until: float | None = None

    @property
    def adapter(self) -> str:
        """The lane it belongs to; "" is the bare base."""
        return self.request.streams[0].adapter or ""

    @property
    def adapters(self) -> Iterator[str]:
        """Those that have to be there."""
        return adapters_of(self.request)

    def sent(self) -> Request:
        """What the engine is asked: the first one's request, by the latest deadline of all who wait, with pieces if any
        of them reads along. The first one may have gone: then its deadline is nobody's."""
        deadlines = [request.deadline for _, request in self.wants]
        latest = None if None in deadlines else max((d for d in deadlines if d is not None), default=None)
        self.until = latest
        deltas = any(request.deltas for _, request in self.wants)
        if latest == self.request.deadline and deltas == self.request.deltas:
            return self.request
        return replace(self.request, deadline=latest, deltas=deltas)


_Rank = tuple[int, int, float, tuple[str, ...], int, Job]


class Lane:
    """The jobs of one adapter. `queued` counts them; what was withdrawn stays in the heap until it surfaces."""

    def __init__(self, adapter: str, patience: float) -> None:
        self.adapter = adapter
        self.queued = 0
        self._patience = patience
        self._ranked: list[_Rank] = []
        self._aged: deque[Job] = deque()
        self._count = itertools.count()
        self._owed = False

    def push(self, job: Job, request: Request) -> None:
        """Queue `job`, with the urgency of `request`: again, where a later caller is in more of a hurry."""
        deadline = math.inf if request.deadline is None else request.deadline
        texts = _texts(request.streams[0].prompt)
        # What a host died of goes last: if it kills the next one too, the others have been answered by then.
        heapq.heappush(self._ranked, (job.deaths, -request.priority, deadline, texts, next(self._count), job))
        if not job.queued:
            job.queued = True
            self._aged.append(job)
            self.queued += 1

    def next(self) -> Job:
        """The next job (there must be one): the first by rank; but where that arrived more than the patience after the
        longest waiting one, every second place is that one's."""
        job, oldest = self.first(), self._oldest()
        return oldest if self._owed and job.arrived > oldest.arrived + self._patience else job

    def take(self) -> Job:
        """`next`, out of the queue."""
        job = self.next()
        self._owed = not self._owed
        self.drop(job)
        return job

    def drop(self, job: Job) -> None:
        """Take `job` out of the queue."""
        job.queued = False
        self.queued -= 1
        if not self.queued:
            self._ranked.clear()
            self._aged.clear()
        elif len(self._ranked) > 2 * self.queued + 64:
            self._ranked = [entry for entry in self._ranked if _valid(entry)]
            heapq.heapify(self._ranked)
            self._aged = deque(job for job in self._aged if job.queued)

    def waiting(self) -> Waiting:
        """How the lane stands (not empty)."""
        self.first()
        _, priority, deadline, *_ = self._ranked[0]
        return Waiting(self.adapter, self.queued, self._oldest().arrived, -priority, deadline)

    def jobs(self) -> list[Job]:
        """All of them, by rank."""
        return list(dict.fromkeys(entry[-1] for entry in sorted(self._ranked) if _valid(entry)))

    def first(self) -> Job:
        """The first by rank (there must be one)."""
        while not _valid(entry := self._ranked[0]):
            heapq.heappop(self._ranked)
        return entry[-1]

    def _oldest(self) -> Job:
        while not (job := self._aged[0]).queued:
            self._aged.popleft()
        return job


class HostQueue:
    """All that waits for one host, and what it has done: `done` drafts of `tokens` in `busy` seconds.

    `adapters` are all that were ever asked of it: it is opened with them where they fit, so it need not open again.
    """

    def __init__(self, host: str, *, patience: float, lead: float) -> None:
        self.host = host
        self.queued = 0
        self.adapters: set[str] = set()
        self.done = 0
        self.tokens = 0
        self.busy = 0.0
        self._patience = patience
        self._lanes: dict[str, Lane] = {}
        self._turns = Turns(patience=patience, lead=lead)
        self._lane = ""  # whose turn it is
        self._pledged = False

    @property
    def pace(self) -> float:
        """Seconds per draft, as measured; 0 before the first."""
        return self.busy / self.done if self.done else 0.0

    def push(self, job: Job, request: Request) -> None:
        """Queue `job`, as `Lane.push`."""
        self.queued += not job.queued
        self.adapters.update(job.adapters)
        lane = self._lanes.get(job.adapter)
        if lane is None:
            lane = self._lanes[job.adapter] = Lane(job.adapter, self._patience)
        lane.push(job, request)

    def drop(self, job: Job) -> None:
        """Take `job` out of the queue."""
        lane = self._lanes[job.adapter]
        lane.drop(job)
        self._left(lane)

    def take(self, now: float, *, has: Collection[str], flying: str | None, mixed: bool) -> Job | None:
        """The next job for a free slot of a host that `has` these adapters. None if there is none that it can take, or if
        a lane has ended and what the host works on has not: jobs of the lane `flying`, if of any. Only an engine of
        `mixed` adapters takes two at once. Copies of a host share the lane whose turn it is, and end theirs each."""
        if not self.queued:
            return None
        alone = flying is None or mixed
        if self._lane not in self._lanes or not (self._pledged or self._keeps(now)):
            if not alone:
                return None
            self._lane = self._turns.choose([lane.waiting() for lane in self._lanes.values()], now)
        if not alone and flying != self._lane:
            return None
        lane = self._lanes[self._lane]
        if (lane.adapter or self.adapters) and not all(adapter in has for adapter in lane.next().adapters):
            return None
        self._pledged = False
        job = lane.take()
        self._left(lane)
        return job

    def next_adapters(self, now: float) -> set[str]:
        """What the host needs for the job that comes next (there must be one)."""
        if not self._keeps(now):
            self._lane = self._turns.choose([lane.waiting() for lane in self._lanes.values()], now)
        self._pledged = True  # what it is opened for it does, whatever comes meanwhile: at least one request
        return set(self._lanes[self._lane].next().adapters)

    def wished(self) -> list[str]:
        """The adapters that were ever asked of it, those that most wait for first."""

        def key(adapter: str) -> tuple[int, str]:
            lane = self._lanes.get(adapter)
            return -lane.queued if lane is not None else 0, adapter

        return sorted(self.adapters, key=key)

    def waiting(self) -> Waiting:
        """How the queue stands (not empty): urgency of its most pressing lane, age of its oldest job.

        Its pace is left out: measured in turns of few requests it says more of how full the slots were than of the host,
        and a hot host that once had a slow turn would wait for long (measured: 84 loads instead of 61)."""
        lanes = [lane.waiting() for lane in self._lanes.values()]
        first = lanes[0] if len(lanes) == 1 else max(lanes, key=lambda lane: (lane.priority, -lane.deadline))
        oldest = min(lane.oldest for lane in lanes)
        return replace(first, name=self.host, queued=self.queued, oldest=oldest)

    def firsts(self) -> list[Job]:
        """The first job of every lane."""
        return [lane.first() for lane in self._lanes.values()]

    def jobs(self) -> list[Job]:
        """All of them, lane after lane."""
        return [job for lane in self._lanes.values() for job in lane.jobs()]

    def _left(self, lane: Lane) -> None:
        self.queued -= 1
        if not lane.queued:
            del self._lanes[lane.adapter]

    def _keeps(self, now: float) -> bool:
        """Whether another job of the lane whose turn it is may start."""
        lane = self._lanes.get(self._lane)
        if lane is None or len(self._lanes) == 1:
            return lane is not None
        others = [other.waiting() for other in self._lanes.values() if other is not lane]
        return self._turns.keeps(lane.waiting(), others, now)


def host_for(host_of: Callable[[str], str], request: Request) -> str:
    """The host that serves all streams of a request: that of its expert, or `large&small` of both, the first stream's
    first."""
    if len(request.streams) == 1:
        return host_of(request.streams[0].expert)
    return AND.join(dict.fromkeys(host_of(stream.expert) for stream in request.streams))


def adapters_of(request: Request) -> Iterator[str]:
    """The adapters of a request's streams."""
    return (stream.adapter for stream in request.streams if stream.adapter is not None)


def _valid(entry: _Rank) -> bool:
    """Whether the job still waits, and not for another try than the entry was made for."""
    return entry[-1].queued and entry[-1].deaths == entry[0]


def _texts(prompt: Prompt) -> tuple[str, ...]:
    """What prompts are ordered by, so that equal beginnings meet in the prefix cache; no text is copied."""
    return (prompt,) if isinstance(prompt, str) else tuple(turn.content for turn in prompt)
