"""The pool: every request becomes a draft, from the store if it is there, else from its expert's host."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from dataclasses import replace

from composer.errors import EngineError
from composer.faults import kill_point
from composer.pool import clock
from composer.pool.hosts import Hosts
from composer.pool.ledger import Ledger
from composer.pool.plan import Forecast, Machine, Plan, forecast, make_plan
from composer.pool.queues import Job, adapters_of, host_for
from composer.pool.resolver import Drafts, Resolver, cannot_serve, is_special, model_of, with_row
from composer.pool.scheduler import Scheduler
from composer.pool.speeds import Speeds
from composer.pool.status import HostStatus, Status
from composer.pool.submission import Item, Submission, Want
from composer.pool.together import Together
from composer.types import Delta, Draft, Failure, Request, draft_key, ended

PATIENCE = 30.0  # seconds: nothing is overtaken by what came so much later
LANDING = 256  # drafts on their way into the store; the slots wait for it when there are more
LATE = 0.1  # seconds after its deadline that a draft which is being written or stored may still come
_BREATH = 512  # requests read or queued before others may run


class Pool:
    """Serves the requests of any number of callers, who meet in its queues.

    `memory` bounds what is resident, in bytes (None: what the machine has); `at_once` local hosts compute at a time, one
    per accelerator; `patience` is in seconds; `speeds` are what `calibrate` measured, for what loads cost before any is
    seen. Hosts stay open until something else needs their room, or `close`. Belongs to the event loop it is first used in.
    """

    def __init__(
        self,
        resolver: Resolver,
        store: Drafts,
        *,
        memory: int | None = None,
        at_once: int = 1,
        patience: float = PATIENCE,
        speeds: Speeds | None = None,
    ) -> None:
        self.ledger = Ledger()
        self._resolver = resolver = Together(resolver)
        self._store = store
        self.speeds = speeds
        self._at_once = at_once
        self._hosts = Hosts(resolver, self.ledger, memory=memory, speeds=speeds)
        self._scheduler = Scheduler(self._hosts, resolver, self, patience=patience, at_once=at_once)
        self._flights: dict[str, Job] = {}
        self._tasks: set[asyncio.Task[None]] = set()  # looking up, landing
        self._bringing: dict[asyncio.Task[None], Submission] = {}
        self._closed = False
        self._landing = asyncio.Semaphore(LANDING)

    def expect(self, adapters: Mapping[str, tuple[str, ...]]) -> None:
        """These adapters, by model, will be asked once others have answered: a host that is opened takes them too, if it has room."""
        self._hosts.expected |= adapters

    def plan(self, requests: Sequence[Request]) -> Plan:
        """The order in which `requests` would be served if none were in the store."""
        return make_plan(requests, self._resolver.host_of, self._hosts.resident, self._hosts.load_seconds)

    def keeps(self, requests: Sequence[Request]) -> bool:
        """Whether all the hosts that `requests` need fit into memory at once, so that none is opened twice for them."""
        needs: dict[str, set[str]] = {}
        for request in requests:
            needs.setdefault(host_for(self._resolver.host_of, request), set()).update(adapters_of(request))
        limit = self._hosts.limit()
        return limit is None or limit >= sum(
            self._hosts.estimate(host, sorted(adapters)) for host, adapters in needs.items()
        )

    async def preview(self, requests: Sequence[Request], typical: Mapping[str, float] | None = None) -> Forecast:
        """What `requests` would cost now: nothing is opened, fetched or asked. `typical` are the tokens of an answer per
        arm, for arms of which the store has none of these. Raises MemoryBudgetError for a host that cannot fit, StoreError."""
        keyed: dict[str, Request] = {}
        for request in requests:
            keyed.setdefault(self._key(request), request)
        stored = await self._stored(keyed)
        plan = self.plan([request for key, request in keyed.items() if key not in stored])
        for batch in plan.batches:
            self._hosts.refuse(batch.host, {frozenset(adapters_of(request)) for request in batch.requests})
        lengths: dict[str, list[int]] = {}
        for key, draft in stored.items():
            lengths.setdefault(keyed[key].arm, []).append(draft.usage.tokens_out)
        return forecast(
            plan,
            Machine(
                self._hosts.estimate, self._resolver.weights, self._hosts.resident, self._hosts.limit(), self._at_once
            ),
            stored=Counter(keyed[key].arm for key in stored),
            typical={**(typical or {}), **{arm: sum(found) / len(found) for arm, found in lengths.items()}},
            speeds=self.speeds,
        )

    def status(self) -> Status:
        """How things stand. Cheap: ask it as often as you like."""
        resident, loads = self._hosts.resident, self._hosts.loads
        hosts = {}
        for name, queue in self._scheduler.queues.items():
            copies = [copy for copy in {*resident, *loads} if model_of(copy) == name]
            hosts[name] = HostStatus(
                queued=queue.queued,
                running=self._scheduler.running(name),
                done=queue.done,
                tokens_per_second=queue.tokens / queue.busy if queue.busy else 0.0,
                resident=sum(resident.get(copy, 0) for copy in copies),
                loads=sum(loads.get(copy, 0) for copy in copies),
                busy=queue.busy,
                opening=sum(self._hosts.opening.get(copy, 0.0) for copy in copies),
            )
        ledger = self.ledger
        return Status(
            hosts=hosts,
            loads=ledger.loads,
            floor=len(ledger.weights | {self._resolver.weights(name) for name, host in hosts.items() if host.queued}),
            ahead=ledger.ahead,
            wasted=ledger.wasted,
            resident=sum(resident.values()),
            memory=self._hosts.memory,
        )

    async def submit(
        self, requests: Sequence[Request], still_wanted: Callable[[Request], bool] = lambda _: True
    ) -> AsyncIterator[Item]:
        """Yield (request id, delta or draft) as they land; exactly one draft per request, keyed, in any order.

        The store is looked into first; a key is asked once however many want it; a draft is in the store before it is
        yielded. `still_wanted` is asked when a request's turn comes, and before its host is opened: if it says no, its
        draft is `cancelled`. Whose deadline has passed hears it then, though its draft may still come for others. Raises SourceError, MemoryBudgetError or ConfigError before the first call if a host cannot
        be prepared; a host that does not start, or dies again and again, gives failed drafts. Closing the iterator
        withdraws what waits and cancels what is under way, unless another caller wants the same.
        """
        submission = Submission(len(requests), still_wanted)
        if self._closed:
            raise _over()
        bringing = self._spawn(self._bring(submission, requests))
        self._bringing[bringing] = submission
        try:
            while (item := await submission.next()) is not None:
                yield item
        finally:
            del self._bringing[bringing]
            bringing.cancel()
            submission.silence()
            self._leave(submission)
            await asyncio.wait([bringing, *submission.ending])

    async def close(self) -> None:
        """End every host, for good. Whoever still waits gets `cancelled` drafts, or an EngineError."""
        self._closed = True
        await self._scheduler.close()
        for bringing, submission in self._bringing.items():
            if not bringing.done():
                bringing.cancel()
                submission.fail(_over())
        while self._tasks:
            await asyncio.wait(self._tasks)  # a draft that was paid for is kept
        for job in list(self._flights.values()):
            self._deliver(job, Draft(job.key, "", "cancelled"))
            if job.queued:
                self._scheduler.withdraw(job)
        await self._hosts.aclose()

    # From requests to queued jobs

    async def _bring(self, submission: Submission, requests: Sequence[Request]) -> None:
        """Queue what is neither in the store nor under way. What goes wrong is the caller's to hear."""
        try:
            for place, request in enumerate(requests):
                self._enter(submission, request)
                if place % _BREATH == _BREATH - 1:
                    await asyncio.sleep(0)
        except Exception as why:
            self._give_up(submission, why)
        await self._queue(submission, list(submission.fresh))

    def _enter(self, submission: Submission, request: Request) -> None:
        """Join the flight of the request's draft, or begin one."""
        key = self._key(request)
        job = self._flights.get(key)
        if job is None:
            job = self._flights[key] = Job(key, host_for(self._resolver.host_of, request), request)
            submission.fresh[job] = None
        elif job.queued:
            self._scheduler.hurry(job, request)
        elif job.written:
            submission.hear(request, Delta(job.written, 0))
        job.wants.append((submission, request))
        submission.jobs[job] = None
        if request.deadline is not None:
            submission.by(request.deadline, self._overdue).append((job, request))

    def _key(self, request: Request) -> str:
        return draft_key(
            request, {stream.expert: self._resolver.fingerprint(stream.expert) for stream in request.streams}
        )

    async def _stored(self, asked: Mapping[str, Request]) -> dict[str, Draft]:
        found = await self._store.get(list(asked))
        return {key: draft for key, draft in found.items() if draft.stop != "bound" or asked[key].bounded}

    async def _queue(self, submission: Submission, jobs: Sequence[Job]) -> None:
        """Look fresh jobs up, make their hosts ready, queue them: every file is there before a token is spent. Those that
        are not the submission's to bring any more are left to whoever has inherited them."""
        try:
            stored = await self._stored({job.key: job.request for job in jobs})
            for place, job in enumerate(jobs):
                if job.key in stored and submission.claim(job):
                    self._deliver(job, stored[job.key])
                    if place % _BREATH == 0:
                        await asyncio.sleep(0)
            for job in [job for job in submission.fresh if is_special(job.request)]:
                refused = cannot_serve(self._resolver.unopened(job.host), job.host, job.request)
                if refused is not None and submission.claim(job):
                    self._deliver(job, replace(refused, key=job.key))
            needs: dict[str, dict[frozenset[str], None]] = {}
            for job in jobs:
                if job in submission.fresh:
                    needs.setdefault(job.host, {})[frozenset(job.adapters)] = None
            for host, adapters in needs.items():
                self._hosts.refuse(host, adapters)
            for host, adapters in needs.items():
                await self._hosts.prepare(host, adapters)
        except Exception as why:
            self._give_up(submission, why)
        for start in range(0, len(jobs), _BREATH):
            part = [job for job in jobs[start : start + _BREATH] if submission.claim(job)]
            self._scheduler.add(job for job in part if job.wants)
            if start:
                await asyncio.sleep(0)
        self._scheduler.wake()

    def _give_up(self, submission: Submission, why: Exception) -> None:
        submission.fail(why)
        self._leave(submission)

    def _leave(self, submission: Submission) -> None:
        """The caller has gone: what only it wanted is withdrawn; what others want too is brought on for them."""
        for job in submission.jobs:
            job.wants = [want for want in job.wants if want[0] is not submission]
            if not job.wants:
                self._abandon(job, submission)
        submission.jobs.clear()
        heirs: dict[Submission, list[Job]] = {}
        for job in submission.fresh:
            if job.wants:
                heirs.setdefault(job.wants[0][0], []).append(job)
        submission.fresh.clear()
        for heir, jobs in heirs.items():
            heir.fresh.update(dict.fromkeys(jobs))
            self._spawn(self._queue(heir, jobs))

    def _abandon(self, job: Job, submission: Submission | None = None) -> None:
        """Nobody wants the job. A draft that is landing already is kept: it was paid for."""
        if job.landing:
            return
        self._landed(job)
        if job.queued:
            self._scheduler.withdraw(job)
        elif job.task is not None:
            job.task.cancel()
            if submission is not None:
                submission.ending.append(job.task)

    def _overdue(self, submission: Submission, due: Sequence[Want], *, last: bool = False) -> None:
        """The deadline of these has passed: they hear it now, wherever their draft is. Engines keep deadlines themselves,
        so what is in flight has a moment for what they say; the `last` time nobody waits for them."""
        flying = []
        for job, request in due:
            if (submission, request) not in job.wants:
                continue
            if not last and (job.task is not None or job.landing):
                flying.append((job, request))
                continue
            job.wants.remove((submission, request))
            self._tell(submission, request, job, _late(job))
            if not job.wants:
                self._abandon(job)
        if flying:
            submission.after(LATE, lambda: self._overdue(submission, flying, last=True))

    # What turns tell us (the Desk)

    def wanted(self, job: Job) -> bool:
        """Ask every caller of the job; those who say no get a `cancelled` draft, those whose deadline has passed a failed
        one: no host is opened for either."""
        for submission, request in list(job.wants):
            draft = Draft(job.key, "", "cancelled")
            try:
                if request.deadline is not None and request.deadline <= clock.now():
                    draft = _late(job)
                elif submission.still_wanted(request):
                    continue
            except Exception as why:
                submission.fail(why)
            job.wants.remove((submission, request))
            self._tell(submission, request, job, draft)
        if not job.wants:
            self._abandon(job)
        return bool(job.wants)

    def hear(self, job: Job, delta: Delta) -> None:
        """Pass a piece on, and keep it for who joins later."""
        # An engine that begins a draft again says from where on.
        job.written = (job.written if delta.at is None else job.written[: delta.at]) + delta.text
        for submission, request in job.wants:
            submission.hear(request, delta)

    def land(self, job: Job, draft: Draft) -> None:
        """Price the draft (as the registry does, else as the engine knows), store it if it is complete, and only then tell whoever wants it."""
        cost = self._resolver.cost(job.request, draft.usage)
        usage = draft.usage if cost is None else replace(draft.usage, cost=cost)
        draft = ended(replace(draft, key=job.key, usage=usage), job.request)
        if draft.error is not None and draft.error.kind == "timeout" and self._goes_on(job, draft):
            return
        job.landing = True
        kill_point("pool.before_journal")
        if draft.ok:
            self._spawn(self._journal(job, draft))
        else:
            self._deliver(job, with_row(self._resolver, job.host, draft))

    def _goes_on(self, job: Job, draft: Draft) -> bool:
        """The engine gave up at the deadline it was given: whoever has joined since and has more time is asked for again."""
        now = clock.now()
        if job.until is None or now < job.until - LATE:  # it has another reason
            return False
        over = [want for want in job.wants if want[1].deadline is not None and want[1].deadline <= now]
        if len(over) == len(job.wants):
            return False
        for submission, request in over:
            job.wants.remove((submission, request))
            self._tell(submission, request, job, draft)
        self._scheduler.again(job)
        return True

    def fail(self, job: Job, why: Exception) -> None:
        """Whoever wants the job hears why there is no draft."""
        self._landed(job)
        for submission, _ in job.wants:
            submission.jobs.pop(job, None)
            submission.fail(why)
        job.wants = []

    async def room(self) -> None:
        """Wait while too many drafts are on their way into the store."""
        if self._landing.locked():
            async with self._landing:
                pass

    async def _journal(self, job: Job, draft: Draft) -> None:
        async with self._landing:
            try:
                await self._store.put(draft, job.request)
            except Exception as why:
                self.fail(job, why)
                return
        self._deliver(job, draft)

    def _deliver(self, job: Job, draft: Draft) -> None:
        self._landed(job)
        wants, job.wants = job.wants, []
        for place, (submission, request) in enumerate(wants):
            if place == 1 and draft.error is None:
                draft = replace(draft, cached=True)  # the same work wanted twice is paid once
            self._tell(submission, request, job, draft)

    def _landed(self, job: Job) -> None:
        if self._flights.get(job.key) is job:  # it may be another's by now
            del self._flights[job.key]

    def _tell(self, submission: Submission, request: Request, job: Job, draft: Draft) -> None:
        draft = ended(draft, request)  # another may have asked for the same otherwise
        self.ledger.charge(draft)
        if not any(other is submission for other, _ in job.wants):  # it may want the same twice, by other deadlines
            submission.jobs.pop(job, None)
        submission.hear(request, draft)

    def _spawn(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _late(job: Job) -> Draft:
    what = "no whole reply by its deadline" if job.task or job.landing else "its deadline passed before its turn came"
    return Draft(job.key, "", "error", error=Failure("timeout", what))


def _over() -> EngineError:
    return EngineError("the pool is closed", remedy="make a new one")
