"""One host at work: as many requests in flight as it has slots, the next one taken whenever one ends."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Protocol

from composer.errors import ComposerError
from composer.pool import clock
from composer.pool.hosts import Running
from composer.pool.queues import HostQueue, Job
from composer.types import Delta, Draft, Failure

if TYPE_CHECKING:
    from composer.pool.scheduler import Scheduler

_LOOK = 0.02  # seconds between two looks at who else waits: with many hosts a look costs more than a request


class Desk(Protocol):
    """Where jobs come from and their drafts go."""

    def wanted(self, job: Job) -> bool:
        """Whether somebody still wants the job; those who do not are told that it is cancelled."""
        ...

    def hear(self, job: Job, delta: Delta) -> None:
        """A piece of a draft that is being written."""
        ...

    def land(self, job: Job, draft: Draft) -> None:
        """The job is done."""
        ...

    def fail(self, job: Job, why: Exception) -> None:
        """The job cannot be done, for a reason that is no draft: whoever wants it gets the exception."""
        ...

    async def room(self) -> None:
        """Returns when another draft may land: at once, unless the store is far behind."""
        ...


class Turn:
    """The turn of `queue`'s host, in its process `name`, from its first request until it has none or others come first.

    Requests that arrive meanwhile join. Nothing is opened if nothing of the queue is wanted. A host that dies costs what
    is in flight: it is opened again for that and for the rest, but if it dies again with nothing answered in between,
    or under the same request, then what it has not answered fails.
    """

    def __init__(self, name: str, queue: HostQueue, scheduler: Scheduler, desk: Desk) -> None:
        self.name, self.queue = name, queue
        self._scheduler, self._desk = scheduler, desk
        self._running: Running | None = None
        self._jobs: dict[asyncio.Task[None], Job | None] = {}  # what every slot that is in use works on
        self._idle, self._came = asyncio.Event(), asyncio.Event()
        self._over = False
        self._death: Draft | None = None
        self._barren = 0  # deaths since the last answer
        self._mark = self._look_again = 0.0

    @property
    def running(self) -> int:
        """Requests in flight."""
        return len(self._jobs)

    @property
    def slots(self) -> int:
        """Requests that may be in flight; 0 until the host is open."""
        return self._running.engine.caps.slots if self._running else 0

    async def run(self) -> None:
        """Work until the turn ends."""
        try:
            while not self._over and self._scheduler.prune(self.queue):
                self._running = None  # what comes meanwhile waits: with other adapters it is closed and opened again
                try:
                    self._running = await self._scheduler.open(self)
                except ComposerError as why:
                    self._fail_rest(Draft("", "", "error", served_by=self.name, error=Failure("host_failed", str(why))))
                    return
                self._mark = clock.now()
                self._look_again = self._mark + _LOOK  # it was opened for something, so it does something
                self.fill()
                if not self._jobs:
                    self._refuse_wide()
                await self._drain()
                if self._death is not None:
                    await self._bury(self._death)
        finally:
            self._over, self._running = True, None
            await self._stop()

    async def _drain(self) -> None:
        """Wait until nothing is in flight, and for a moment whether something comes after all."""
        while self._jobs:
            self._idle.clear()
            await self._idle.wait()
            if not (self._jobs or self._over or self._death or self.queue.queued):
                self._came.clear()
                if seconds := self._scheduler.linger(self):
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(self._came.wait(), seconds)

    def fill(self) -> None:
        """Put work into the free slots. To be called whenever there may be some."""
        while self._running is not None and len(self._jobs) < self.slots and (job := self._take()) is not None:
            task = asyncio.create_task(self._work(job))
            self._jobs[task] = job
            job.task = task
            task.add_done_callback(self._ended)
            self._came.set()

    def _take(self) -> Job | None:
        """The next job; None if there is none, or not now."""
        if self._over or self._running is None or self._death is not None:
            return None
        now = clock.now()
        if now >= self._look_again:
            self._look_again = now + _LOOK
            if self.queue.queued and not self._scheduler.keeps(self, now):
                self._over = True
                return None
            self._scheduler.look_ahead(self, now)
        mixed = self._running.engine.caps.mixed_adapters
        flying = next((job.adapter for job in self._jobs.values() if job is not None), None)
        while (job := self.queue.take(now, has=self._running.adapters, flying=flying, mixed=mixed)) is not None:
            if self._desk.wanted(job):
                return job
        return None

    async def _work(self, job: Job | None) -> None:
        """A slot: job after job, as long as there are any."""
        task = asyncio.current_task()
        assert task is not None
        while job is not None:
            self._jobs[task] = job
            job.task = task
            try:
                await self._one(job)
                await self._desk.room()
            finally:
                if job.task is task:  # not if it was queued again and another took it
                    job.task = None
            self._jobs[task] = None
            job = self._take()

    async def _one(self, job: Job) -> None:
        assert self._running is not None
        draft: Draft | None = None
        try:
            async with contextlib.aclosing(self._running.engine.generate([job.sent()])) as pieces:  # type: ignore[type-var]
                async for _, piece in pieces:
                    if isinstance(piece, Draft):
                        draft = piece
                    else:
                        self._desk.hear(job, piece)
        except Exception as why:
            self._desk.fail(job, why)
            return
        now = clock.now()
        self.queue.busy += now - self._mark
        self._mark = now
        if draft is None:
            draft = Draft("", "", "error", error=Failure("bad_response", f"{self.name!r} ended without a draft"))
        if draft.error is not None and draft.error.kind == "host_died":
            self._died(job, draft)
            return
        self._barren = 0
        self.queue.done += 1
        self.queue.tokens += draft.usage.tokens_out
        self._desk.land(job, draft)

    def _ended(self, task: asyncio.Task[None]) -> None:
        job = self._jobs.pop(task)
        if job is not None and not task.cancelled() and isinstance(why := task.exception(), Exception):
            self._desk.fail(job, why)
        self.fill()
        if not self._jobs:
            self._idle.set()

    def _died(self, job: Job, draft: Draft) -> None:
        self._death = draft
        job.deaths += 1
        if job.deaths > 1:
            self._desk.land(job, draft)
        elif job.wants:
            self._scheduler.again(job)

    async def _bury(self, death: Draft) -> None:
        """Close what is left of the host, so that it opens again; or give up."""
        self._death, self._running = None, None
        self._barren += 1
        await self._scheduler.hosts.close(self.name)
        if self._barren > 1:
            self._fail_rest(death)

    def _fail_rest(self, draft: Draft) -> None:
        """Nothing that waits for this host can be served now."""
        self._over = True
        self._fail(self.queue.jobs(), draft)

    def _refuse_wide(self) -> None:
        """The host is open and takes nothing: what needs more adapters at once than it holds would open it for ever."""
        assert self._running is not None
        most = self._running.engine.caps.adapter_slots
        if most is not None:
            wide = [job for job in self.queue.jobs() if len(set(job.adapters)) > most]
            why = Failure("unsupported", f"{self.name!r} holds {most} adapters at once, and this needs more")
            self._fail(wide, Draft("", "", "error", served_by=self.name, error=why))

    def _fail(self, jobs: Iterable[Job], draft: Draft) -> None:
        for job in jobs:
            self.queue.drop(job)
            if self._desk.wanted(job):
                self._desk.land(job, draft)

    async def _stop(self) -> None:
        for task in (tasks := list(self._jobs)):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
