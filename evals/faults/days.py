"""A day of the pool, drawn by its seed: callers come and go, hosts break, it crashes and goes on, and every promise is held (R31)."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

from composer.budget import Budget, Limits
from composer.errors import EngineError, MemoryBudgetError, SourceError, StoreError
from composer.pool.pool import Pool
from composer.types import Delta, Draft, Mix, Request, Sampling, Stream
from evals.faults import clock
from evals.faults.clock import BEGIN, Hanging, SimulatedLoop
from evals.faults.machine import EXPERTS, Machine, Store, key_of, text_of
from evals.faults.nature import nature

LATE = 0.25  # seconds after its deadline within which a request is told (P3)
HORIZON = 86400.0  # seconds: longer than all calls of a day one after the other
_ERRAND = 2.0  # seconds that looking for files may take
_GREEDY = Sampling()
_DRAWN = tuple(Sampling(temperature=0.7, seed=seed) for seed in range(3))


@dataclass(slots=True)
class Day:
    """What happened: `wrong` are the promises that were broken, `seen` the faults, `history` (seconds, what, detail)."""

    seed: int
    wrong: list[str] = field(default_factory=list)
    seen: Counter[str] = field(default_factory=Counter)
    history: list[tuple[float, str, str]] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def digest(self) -> str:
        """The same for the same history."""
        return hashlib.sha256(repr(self.history).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Caller:
    """One caller and what it will do. Times are seconds after its start, shares are drawn anew for every request."""

    name: str
    requests: tuple[Request, ...]
    deadlines: tuple[float | None, ...]
    starts: float
    visits: int  # how often it comes, at once after it has ended or gone
    leaves: float  # share of the pieces after which it goes
    killed: float | None  # when its task is cancelled
    doubts: float  # share of the requests that it does not want any more when it is asked
    raises: float  # share of those times that its predicate fails
    reads: float  # seconds between two pieces
    limits: Limits | None
    stops: float | None  # when its budget is stopped


def simulate(seed: int) -> Day:
    """That day."""
    day, chance = Day(seed), random.Random(seed)
    loop = SimulatedLoop(lambda: chance.random() * _ERRAND if chance.random() < 0.2 else 0.0)
    try:
        clock.simulate(_lives(day, chance, loop), loop)
    except Hanging as why:
        day.wrong.append(f"hangs: {why}")
    day.wrong += loop.complaints
    day.seconds = loop.time() - BEGIN
    return day


async def _lives(day: Day, chance: random.Random, loop: SimulatedLoop) -> None:
    """One machine, one store, and as many processes as crash or are closed."""
    machine = Machine(nature(chance), chance)
    machine.history, machine.seen, machine.wrong = day.history, day.seen, day.wrong
    span = 0.1 + machine.nature.opening + 10 * machine.nature.word
    callers = _callers(chance, span)
    drafts: dict[str, Draft] = {}
    for number in range(lives := chance.choice([1, 1, 1, 2, 3])):
        how = chance.choice(["crash", "close"]) if number < lives - 1 or chance.random() < 0.1 else "end"
        life = _Life(machine, Store(machine, drafts), loop)
        machine.note("begin", f"{len(drafts)} drafts; {machine.nature}" if not number else f"{len(drafts)} drafts")
        drafts = await life.live(callers, None if how == "end" else chance.random() * 5 * span, crash=how == "crash")


def _callers(chance: random.Random, span: float) -> list[Caller]:
    texts, unruly = chance.choice([2, 10, 100]), chance.choice([0.0, 0.2, 0.5])
    together = chance.choice([0.0, 1.0, 5.0])
    hasty = chance.choice([0.0, 0.3, 1.0])

    def maybe(value: float) -> float:
        return value if chance.random() < unruly else 0.0

    def caller(name: str) -> Caller:
        requests = tuple(
            _request(chance, f"{name}.{place}", texts, deltas)
            for deltas in [chance.random() < 0.3]
            for place in range(chance.choice([1, 3, 10, 20]))
        )
        common = chance.random() * 5 * span if chance.random() < hasty else None
        alike = chance.random() < 0.7
        deadlines = tuple(
            common if alike or common is None else chance.choice([None, common * chance.random()]) for _ in requests
        )
        limits = chance.choice([Limits(calls=chance.randint(1, 20)), Limits(tokens=2000), Limits(seconds=span)])
        return Caller(
            name,
            requests,
            deadlines,
            starts=chance.random() * together * span,
            visits=chance.choice([1, 1, 1, 2]),
            leaves=maybe(0.2),
            killed=maybe(chance.random() * 3 * span) or None,
            doubts=maybe(chance.random()),
            raises=maybe(0.02),
            reads=maybe(chance.random()),
            limits=limits if maybe(1.0) else None,
            stops=maybe(chance.random() * 3 * span) or None,
        )

    return [caller(f"c{number}") for number in range(chance.randint(1, 6))]


def _request(chance: random.Random, name: str, texts: int, deltas: bool) -> Request:
    prompt, priority = f"question {chance.randrange(texts)}", chance.choice([0, 0, 0, 1])
    if chance.random() < 0.03:
        pair = (Stream("a.x", prompt, "x"), Stream("a.y", prompt, "y", -0.5))
        return Request(name, pair, _GREEDY, mix=Mix(), arm="a.x", priority=priority)
    expert = chance.choice(EXPERTS)
    sampling = chance.choice(_DRAWN) if chance.random() < 0.3 else _GREEDY
    streams = (Stream(expert, prompt, expert.partition(".")[2] or None),)
    return Request(name, streams, sampling, sampling.seed, arm=expert, priority=priority, deltas=deltas)


class _Life:
    """One process: a pool, until everybody is served, or it is closed, or it crashes."""

    def __init__(self, machine: Machine, store: Store, loop: SimulatedLoop) -> None:
        self.machine, self.store, self.loop = machine, store, loop
        kind = machine.nature
        self.pool = Pool(machine, store, memory=kind.memory, at_once=kind.at_once, patience=kind.patience)
        self.over = self.crashed = False

    async def live(self, callers: Sequence[Caller], until: float | None, *, crash: bool) -> dict[str, Draft]:
        """Serve them; what the store holds for the next life."""
        tasks = [asyncio.create_task(self.call(caller)) for caller in callers]
        watching = asyncio.create_task(self.watch())
        try:
            async with asyncio.timeout(HORIZON):
                if until is not None:
                    await asyncio.wait(tasks, timeout=until)
                drafts = None
                if until is not None:
                    self.machine.note("crash" if crash else "shut", f"{sum(not task.done() for task in tasks)} wait")
                    self.over, self.crashed = True, crash
                    drafts = self.store.crashed() if crash else None
                    await self.pool.close()
                await asyncio.gather(*tasks)
                self.over = True
                await self.pool.close()
        except TimeoutError:
            self.machine.blame("somebody waits for ever")
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        await self.look_around()
        return dict(self.store.drafts) if drafts is None else drafts

    async def look_around(self) -> None:
        """Nothing is left."""
        if left := asyncio.all_tasks() - {asyncio.current_task()}:
            self.machine.blame(f"{len(left)} tasks are left")
        if self.machine.open:
            self.machine.blame(f"{len(self.machine.open)} hosts are left open")
        if any(status.queued or status.running or status.resident for status in self.pool.status().hosts.values()):
            self.machine.blame("something is left in the queues")
        await asyncio.sleep(_ERRAND)  # a thread that looks for a file cannot be stopped
        if timers := self.loop.timers():
            self.machine.blame(f"{timers} timers are left")

    async def watch(self) -> None:
        """Somebody looks on."""
        chance, sample = self.machine.chance, [_request(self.machine.chance, "sample", 3, False)]
        while True:
            await asyncio.sleep(0.1 + 10 * chance.random())
            status = self.pool.status()
            if status.resident > self.machine.nature.memory and not self.machine.nature.grows:
                self.machine.blame("the pool knows of more bytes than are allowed")
            if any(min(host.queued, host.running) < 0 for host in status.hosts.values()):
                self.machine.blame("fewer than none wait")
            self.pool.keeps(sample)
            with suppress(MemoryBudgetError, StoreError):
                await self.pool.preview(sample)

    async def call(self, caller: Caller) -> None:
        """One caller's way, from its start to its end."""
        await asyncio.sleep(caller.starts)
        for _ in range(caller.visits):
            await self.visit(caller)

    async def visit(self, caller: Caller) -> None:
        """Read, until it has read everything, or goes, or is killed."""
        reading = asyncio.create_task(self.read(caller))
        killing = self.loop.call_later(caller.killed or HORIZON, reading.cancel)
        try:
            await reading
        except asyncio.CancelledError:
            if caller.killed is None:
                self.machine.blame(f"{caller.name} is cancelled, and nobody did")
        finally:
            killing.cancel()

    async def read(self, caller: Caller) -> None:
        """Submit, and hear what comes, within the budget; again what the budget refused at first and has room for."""
        budget = Budget(caller.limits, clock=self.loop.time)
        stopping = self.loop.call_later(caller.stops or HORIZON, budget.stop, "interrupted", 1.0)
        now = self.loop.time()
        asked = [
            replace(request, deadline=None if after is None else now + after)
            for request, after in zip(caller.requests, caller.deadlines, strict=True)
        ]
        work = asyncio.create_task(self.collect(caller, asked, budget))
        cut = asyncio.create_task(budget.over())
        try:
            await asyncio.wait({work, cut}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()
            work.cancel()
            cut.cancel()
            await asyncio.gather(work, cut, return_exceptions=True)
        if not work.cancelled() and (why := work.exception()) is not None:
            self.judge_failure(caller, why)

    async def collect(self, caller: Caller, asked: Sequence[Request], budget: Budget) -> None:
        while asked:
            hearing = _Hearing(self, caller, asked, budget)
            if await hearing.hear():
                return
            asked = [request for request in asked if request.id in hearing.refused and budget.has_room(request)]

    def judge_failure(self, caller: Caller, why: BaseException) -> None:
        """Whether the submission may have failed like that."""
        kind = self.machine.nature
        self.machine.note("fails", f"{caller.name}: {why!r}")
        known = (
            (isinstance(why, EngineError) and self.over and "closed" in str(why))
            or (isinstance(why, SourceError) and kind.missing)
            or (isinstance(why, StoreError) and kind.full)
            or (isinstance(why, ValueError) and kind.bug)
            or (isinstance(why, ZeroDivisionError) and caller.raises)
            or (isinstance(why, MemoryBudgetError) and (kind.memory < 130 or kind.grows))
        )
        if not known:
            self.machine.blame(f"{caller.name} fails: {why!r}")


class _Hearing:
    """One submission, and what is told of it."""

    def __init__(self, life: _Life, caller: Caller, asked: Sequence[Request], budget: Budget) -> None:
        self.life, self.machine, self.caller, self.budget = life, life.machine, caller, budget
        self.asked = {request.id: request for request in asked}
        self.keys = {request.id: key_of(request) for request in asked}
        self.began = self.machine.loop.time()
        self.told: set[str] = set()
        self.refused: set[str] = set()
        self.withdrawn: set[str] = set()

    def wanted(self, request: Request) -> bool:
        chance = self.machine.chance
        if self.caller.raises and chance.random() < self.caller.raises:
            raise ZeroDivisionError
        if self.caller.doubts and chance.random() < self.caller.doubts:
            self.withdrawn.add(request.id)
            return False
        if self.budget.admits(request):
            return True
        self.refused.add(request.id)
        return False

    async def hear(self) -> bool:
        """Whether the caller left before the end."""
        stream = self.life.pool.submit(list(self.asked.values()), self.wanted)
        for key in self.keys.values():
            self.machine.expect(key)
        try:
            async for name, piece in stream:
                if self.life.crashed:
                    continue  # nobody hears it
                if isinstance(piece, Delta):
                    self.judge_piece(self.asked[name], piece)
                else:
                    self.machine.note("told", f"{name} {piece.error.kind if piece.error else piece.stop}")
                    self.judge(self.asked[name], piece)
                    self.told.add(name)
                    self.machine.forget(self.keys[name])
                    if name not in self.refused and name not in self.withdrawn:
                        self.budget.landed(self.asked[name], piece)
                if self.caller.leaves and self.machine.chance.random() < self.caller.leaves:
                    self.machine.note("leaves", self.caller.name)
                    return True
                if self.caller.reads:
                    await asyncio.sleep(self.caller.reads)
        finally:
            for name in self.keys.keys() - self.told:
                self.machine.forget(self.keys[name])
            await stream.aclose()  # type: ignore[attr-defined]
        if self.told != set(self.asked) and not self.life.crashed:
            self.machine.blame(f"{self.caller.name} hears {len(self.told)} of {len(self.asked)} drafts")
        return False

    def judge_piece(self, request: Request, piece: Delta) -> None:
        """Whether it is a piece of the right text."""
        if piece.at is None:
            self.machine.blame(f"{request.id} hears a piece and not where it belongs")
        elif not text_of(request).startswith(piece.text, piece.at):
            self.machine.blame(f"{request.id} hears another text: {piece}")

    def judge(self, request: Request, draft: Draft) -> None:
        """Whether it may be told this draft, now."""
        blame, kind, now = self.machine.blame, self.machine.nature, self.machine.loop.time()
        if request.id in self.told:
            blame(f"{request.id} is told twice")
        if draft.key != self.keys[request.id]:
            blame(f"{request.id} is told the draft of another key")
        late = request.deadline is not None and now >= request.deadline
        over = now - max(self.began, request.deadline or now)
        if over > LATE and not self.caller.reads:
            blame(f"{request.id} is told {over:.2f} s after its deadline: {draft.stop} {draft.error}")
        if draft.ok:
            if draft.text != text_of(request):
                blame(f"{request.id} is told {draft.text!r}")
            if draft.key not in self.life.store.drafts:
                blame(f"{request.id} is told what is not in the store")
        elif draft.error is not None:
            known = {
                "timeout": late or kind.hangs > 0,
                "host_died": kind.killed > 0 or kind.deadly > 0,
                "bad_response": kind.noise > 0,
                "unsupported": len(request.streams) > 1 and kind.caps.adapter_slots == 1,
                "host_failed": kind.refuses > 0 or kind.missing > 0 or bool(kind.grows),
            }
            if not known.get(draft.error.kind):
                blame(f"{request.id} fails without reason: {draft.error}")
        elif draft.stop == "cancelled":
            if not (self.life.over or request.id in self.refused or request.id in self.withdrawn):
                blame(f"{request.id} is cancelled, and nobody said so")
        elif not kind.cut or not text_of(request).startswith(draft.text):
            blame(f"{request.id} is told {draft.stop}: {draft.text!r}")
