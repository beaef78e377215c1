"""Which host works when: queues of all callers, turns, hosts opened ahead of theirs, and a second process where it pays."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Iterable
from dataclasses import replace

from composer.pool import clock
from composer.pool.hosts import Hosts, Running
from composer.pool.order import Turns, Waiting, eligible, first_of, order_of
from composer.pool.queues import HostQueue, Job
from composer.pool.resolver import Resolver, replica, replicas_of
from composer.pool.turn import Desk, Turn
from composer.types import Request

LEAD = 5.0  # seconds before its deadline that a request jumps the queue
RECENT = 3  # turns in which something must have come for a stream to count as one
LINGER = 0.05  # of the next load's seconds


class Scheduler:
    """`at_once` local hosts compute at a time: more would share the same cores. What is served elsewhere needs no turn.

    A host keeps its turn while it has work that did not arrive more than `patience` seconds after what waits elsewhere.
    """

    def __init__(self, hosts: Hosts, resolver: Resolver, desk: Desk, *, patience: float, at_once: int) -> None:
        self.hosts = hosts
        self.queues: dict[str, HostQueue] = {}
        self._resolver, self._desk = resolver, desk
        self._patience, self._at_once = patience, at_once
        self._turns = Turns(patience=patience, lead=LEAD)
        self._working: dict[str, tuple[Turn, asyncio.Task[None]]] = {}
        self._arrived = 0.0  # when something was queued last
        self._begun = deque([-math.inf] * RECENT, maxlen=RECENT)  # when the last turns began
        self._closed = False

    # Work in and out

    def add(self, jobs: Iterable[Job]) -> None:
        """Queue jobs, all of one moment. Call `wake` afterwards."""
        now = self._arrived = clock.now()
        for job in jobs:
            job.arrived = now
            self._queue(job.host).push(job, job.request)

    def wake(self) -> None:
        """Fill free slots, and begin turns that can begin."""
        for turn, _ in list(self._working.values()):
            turn.fill()
        self._begin()

    def hurry(self, job: Job, request: Request) -> None:
        """A job that waits is wanted by another request too, which may be more urgent."""
        self._queue(job.host).push(job, request)

    def again(self, job: Job) -> None:
        """A job whose host died under it goes back into its queue, to the end."""
        job.arrived, job.written = clock.now(), ""
        self._queue(job.host).push(job, job.request)

    def withdraw(self, job: Job) -> None:
        """Nobody wants a queued job any more."""
        self._queue(job.host).drop(job)

    def running(self, host: str) -> int:
        """Requests in flight at a host and its replicas."""
        return sum(turn.running for turn, _ in self._working.values() if turn.queue.host == host)

    async def close(self) -> None:
        """Stop all work. What was in flight is lost."""
        self._closed = True
        tasks = [task for _, task in self._working.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # What a turn asks

    def prune(self, queue: HostQueue) -> bool:
        """Withdraw what nobody wants from the head of every lane; whether anything is left that is worth opening for."""
        while unwanted := [job for job in queue.firsts() if not self._desk.wanted(job)]:
            for job in unwanted:
                if job.queued:
                    queue.drop(job)
        return queue.queued > 0

    async def open(self, turn: Turn) -> Running:
        """The host of a turn, with the adapters that its next lane needs. Raises ComposerError."""
        now = clock.now()
        queue, name = turn.queue, turn.name
        order = [other for other in self._order(now) if other != name]
        return await self.hosts.open(
            name, queue.next_adapters(now), queue.wished(), upcoming=order, busy=self._working.keys()
        )

    def keeps(self, turn: Turn, now: float) -> bool:
        """Whether the turn goes on: nothing urgent and nothing too old waits for a turn elsewhere."""
        if not self.hosts.is_local(turn.name):
            return True
        others = [self._waiting(queue) for queue in self._unserved()]
        mine = replace(turn.queue.waiting(), load=0.0)
        return not others or self._turns.keeps(mine, others, now)

    def look_ahead(self, turn: Turn, now: float) -> None:
        """Begin to open the host whose turn comes next, when the present one will be done by then."""
        if self.hosts.fetching or not self.hosts.is_local(turn.name):
            return
        waiting = [self._waiting(queue) for queue in self._unserved()]
        if not waiting:
            return
        guess = first_of(eligible(waiting, now, patience=self._patience, lead=LEAD))
        queue, left = self.queues[guess.name], turn.queue.queued
        soon = left <= 2 * turn.slots or left * turn.queue.pace <= 2 * guess.load
        if not soon or guess.load == 0 or not self.prune(queue):
            return
        order = [other for other in self._order(now) if other != guess.name]
        self.hosts.open_ahead(
            guess.name,
            queue.next_adapters(now),
            queue.wished(),
            upcoming=order,
            busy=self._working.keys(),
            evict=not self._live(),
        )

    def linger(self, turn: Turn) -> float:
        """Seconds that a turn without work waits for more before another host has to be opened: while requests keep
        coming, the next may well be for this one."""
        waiting = self._unserved()
        if not waiting or not self._live() or not self.hosts.is_local(turn.name):
            return 0.0
        return LINGER * min(self.hosts.load_seconds(queue.host) for queue in waiting)

    def _live(self) -> bool:
        """Whether anything was queued since the last few turns began: if not, what waits is all that is to be done."""
        return self._arrived > self._begun[0]

    # Turns

    def _begin(self) -> None:
        if self._closed:
            return
        now = clock.now()
        for queue in [queue for queue in self.queues.values() if queue.queued and queue.host not in self._working]:
            if not self.hosts.is_local(queue.host):
                self._start(queue.host, queue)
        while sum(self.hosts.is_local(name) for name in self._working) < self._at_once:
            waiting = [self._waiting(queue) for queue in self._unserved() if self._fits(queue.host)]
            if waiting:
                name = self._turns.choose(waiting, now)
                self._start(name, self.queues[name])
            elif not self._spill():
                return

    def _start(self, name: str, queue: HostQueue) -> None:
        self._begun.append(clock.now())
        turn = Turn(name, queue, self, self._desk)
        task = asyncio.create_task(turn.run())
        self._working[name] = turn, task
        task.add_done_callback(lambda _: self._ended(name))

    def _ended(self, name: str) -> None:
        turn, task = self._working.pop(name)
        self.hosts.changed()
        if not task.cancelled() and (why := task.exception()) is not None:
            # A bug, ours or of an engine: nobody may wait for ever because of it.
            for job in turn.queue.jobs():
                turn.queue.drop(job)
                self._desk.fail(job, why if isinstance(why, Exception) else RuntimeError(repr(why)))
        self._begin()

    def _spill(self) -> bool:
        """Open another process of a host where the time that its queue saves is more than the load costs."""
        for host, queue in self.queues.items():
            names = [replica(host, place) for place in range(1, replicas_of(self._resolver, host) + 1)]
            serving = [self._working[name][0] for name in names if name in self._working]
            spare = next((name for name in names if name not in self._working), None)
            if not serving or spare is None or not self._fits(spare):
                continue
            if spill_pays(queue.queued, queue.pace, len(serving), self.hosts.load_seconds(spare)):
                self._start(spare, queue)
                return True
        return False

    def _queue(self, host: str) -> HostQueue:
        queue = self.queues.get(host)
        if queue is None:
            queue = self.queues[host] = HostQueue(host, patience=self._patience, lead=LEAD)
        return queue

    def _unserved(self) -> list[HostQueue]:
        """Local queues that wait for a turn."""
        serving = {turn.queue.host for turn, _ in self._working.values()}
        return [
            queue
            for queue in self.queues.values()
            if queue.queued and queue.host not in serving and self.hosts.is_local(queue.host)
        ]

    def _waiting(self, queue: HostQueue) -> Waiting:
        return replace(queue.waiting(), load=self.hosts.load_seconds(queue.host))

    def _order(self, now: float) -> list[str]:
        waiting = [self._waiting(queue) for queue in self._unserved()]
        return order_of(waiting, now, patience=self._patience, lead=LEAD)

    def _fits(self, name: str) -> bool:
        return not self._working or self.hosts.fits_beside(name, self._working)


def spill_pays(queued: int, pace: float, serving: int, load: float) -> bool:
    """Whether one more process than the `serving` ones saves more time than its `load` takes (METHODS J.5, LLEP).

    `pace` is the seconds per request that they need together; one more would do the same in serving / (serving + 1).

    >>> spill_pays(100, 0.5, 1, 20.0), spill_pays(10, 0.5, 1, 20.0)
    (True, False)
    """
    return queued * pace / (serving + 1) > load
