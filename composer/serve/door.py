"""The door: what is under way, how much of it there may be, and one call from its question to its answer."""

from __future__ import annotations

import asyncio
import secrets
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from composer.asker import Wishes
from composer.config import AUTO
from composer.errors import ComposerError
from composer.pipeline import Pipeline
from composer.serve.body import Asked
from composer.serve.callers import Callers
from composer.serve.limits import Limits
from composer.serve.metrics import Metrics, Watch
from composer.serve.ready import Readiness
from composer.serve.refusal import Refused, internal, of_error, stopping
from composer.serve.reply import Passing, Told, choice_of, usage_of
from composer.serve.traces import Traces
from composer.settings.specs import StageSpec
from composer.show import many
from composer.state import Query, State
from composer.trace import Drafted, Event, Routed, Written
from composer.types import Draft

_LATE = 0.25  # seconds after the deadline within which a caller is told
_STAGES = {"decide", "persona", "contrast", "generate", "verify", "aggregate"}
Piece = tuple[int, str]
"""A piece of the text of a choice."""


class Door:
    """Callers come and go; pipeline, pool and store stay. Make it inside the event loop and the open pipeline; `say`
    hears what the operator should know."""

    def __init__(self, pipeline: Pipeline, limits: Limits, say: Callable[[str], None]) -> None:
        self.pipeline, self.limits, self.say = pipeline, limits, say
        self.started = int(time.time())
        self.closing = False
        self.answers = 0
        self.ready = Readiness(pipeline)
        self.callers = Callers(limits.share, self._wait)
        self.metrics = Metrics(lambda: self._under_way)
        self._traces = Traces(pipeline, say)
        self._under_way = 0
        self._calls: set[Call] = set()
        self._usual = 1.0  # seconds that an answer takes of late

    def models(self) -> list[str]:
        """What may be asked: `auto`, every expert, every named pipeline."""
        settings = self.pipeline.settings
        return [AUTO, *settings.arms, *settings.pipelines]

    def check(self, model: str) -> None:
        """Raise Refused, 404, for a model that nobody has; of an expert that is not asked by its name it says why."""
        if model in (known := self.models()):
            return
        told = f"no model is called {model[:64]!r}: /v1/models lists them"
        if model in self.pipeline.settings.experts:
            told = ": ".join(self.pipeline.settings.unanswering(model, known))
        raise Refused(404, told, code="model_not_found", param="model")

    def begin(self, asked: Asked, caller: str = "") -> Call:
        """Start to answer; the caller's request itself is counted already. Raises Refused: 404 for a model that nobody
        has, 429 when too much is under way, 503 at the end."""
        if self.closing:
            raise stopping()
        self.check(asked.model)
        if self._under_way + asked.n > self.limits.queue:
            told = f"{self._under_way} answers are under way, at most {self.limits.queue} may be"
            raise Refused(429, told, code="queue_full", retry=self._wait())
        self.callers.take(caller, asked.n - 1)
        self._under_way += asked.n
        call = Call(self, asked)
        self._calls.add(call)
        call.work.add_done_callback(lambda _: self._ended(call, caller))
        return call

    def passes(self, model: str) -> bool:
        """Whether an answer may be passed on while it is written, if its route names one expert: nothing that comes
        later can change it. So it is for an expert by name, and where a pipeline asks once and draws once."""
        settings = self.pipeline.settings
        if model in settings.arms:
            return settings.arms[model].strategy is None  # a program is no part of its answer
        return asks_once(settings.pipeline if model == AUTO else settings.pipelines[model])

    def stop(self) -> None:
        """Take no more requests."""
        self.closing = True

    def cut(self) -> None:
        """End what is under way: its callers are told."""
        for call in list(self._calls):
            call.work.cancel()

    async def close(self) -> None:
        """End what is under way, and write what is left to write."""
        self.stop()
        self.cut()
        await asyncio.gather(*(call.work for call in self._calls), return_exceptions=True)
        await self.ready.close()
        await self._traces.close()

    async def answered(self, state: State, model: str) -> None:
        """Remember what was answered."""
        self.answers += len(state.answers)
        self.ready.saw(state)
        await self._traces.put(state, model)

    def summary(self) -> str:
        """What was done since the start, in a line."""
        if not self.answers:
            return "nothing was asked"
        ledger = self.pipeline.ledger
        drafts = f"{many(ledger.drafts, 'draft')} ({ledger.cached} from the store, {ledger.failed} failed or cut)"
        written = many(ledger.tokens_out, "token")
        return f"{many(self.answers, 'answer')} of {drafts}, {many(ledger.loads, 'load')}, {written} written"

    def _wait(self) -> int:
        """Seconds after which somebody will have ended, most likely."""
        return min(30, max(1, round(self._usual)))

    def _ended(self, call: Call, caller: str) -> None:
        self._under_way -= call.asked.n
        self.callers.leave(caller, call.asked.n - 1)
        self._calls.discard(call)
        seconds = time.monotonic() - call.began
        self.metrics.ended(call.asked.model, _status(call.work), seconds)
        if not call.work.cancelled():
            self._usual = 0.9 * self._usual + 0.1 * seconds


def _status(work: asyncio.Task[Told]) -> int:
    """What HTTP calls the end of a call; 499: its caller has left."""
    if work.cancelled():
        return 499
    why = work.exception()
    return why.status if isinstance(why, Refused) else 200 if why is None else 500


def asks_once(steps: tuple[StageSpec, ...]) -> bool:
    """Whether a pipeline asks in one round, one draft of each arm, and takes what it gets."""
    options = {step.use: step.options for step in steps}
    policy = options["decide"].get("policy", "fixed")
    name = policy.get("use") if isinstance(policy, dict) else policy
    once = name == "fixed" and not options["decide"].get("abstain_below")
    return once and options["generate"].get("samples", 1) == 1 and options.keys() <= _STAGES


class Call:
    """One request under way: `work` ends with what is told of each answer, or raises Refused. `id` names it in traces."""

    def __init__(self, door: Door, asked: Asked) -> None:
        self.door, self.asked = door, asked
        self.id = f"chatcmpl-{secrets.token_hex(12)}"
        self.created, self.began = int(time.time()), time.monotonic()
        self.passing = [Passing() for _ in range(asked.n)]
        # who is asked by name is known now; else the route says whether it is one expert
        by_name = asked.model in door.pipeline.settings.arms
        self._pass = [by_name and door.passes(asked.model)] * asked.n
        self._pieces: asyncio.Queue[Piece | None] = asyncio.Queue()
        self._beside: list[Draft] = []  # what experts wrote for others to read
        self._spoke = asyncio.Event()
        self._watch = Watch(asked=by_name)
        self.work = asyncio.create_task(self._run())
        self.work.add_done_callback(lambda _: self._tell(None))

    async def begins(self, seconds: float) -> None:
        """Wait until there is something to send, no longer than `seconds`. Raises Refused if it has failed by then."""
        try:
            async with asyncio.timeout(seconds):
                await self._spoke.wait()
        except TimeoutError:
            return
        if self.work.done():
            await self.work

    async def next(self, seconds: float) -> Piece | None:
        """The next piece; None at the end. Raises TimeoutError if there is none for so long."""
        async with asyncio.timeout(seconds):
            return await self._pieces.get()

    async def cancel(self) -> None:
        """Nobody waits for it any more: the engine stops."""
        self.work.cancel()
        await asyncio.gather(self.work, return_exceptions=True)

    async def _run(self) -> Told:
        """The answers, or why there are none. The pool keeps the deadline of drafts; what comes before and after them does not."""
        try:
            async with asyncio.timeout(self.door.limits.deadline + _LATE):
                return await self._answer()
        except asyncio.CancelledError:
            if self.door.closing:
                raise stopping() from None
            raise
        except TimeoutError as why:
            raise Refused(504, f"no answer within {self.door.limits.deadline:g} s", code="timeout") from why
        except Refused:
            raise
        except ComposerError as why:
            refused = of_error(why)
            if refused.status >= 500:
                self.door.say(f"{self.id}: {why}")
            raise refused from why
        except Exception as why:
            traceback.print_exception(why, file=sys.stderr)
            raise internal() from why

    async def _answer(self) -> Told:
        asked, deadline = self.asked, self.began + self.door.limits.deadline
        queries = [
            Query(str(i), asked.question, turns=asked.turns, wishes=self._wishes(i, deadline)) for i in range(asked.n)
        ]
        state = await self.door.pipeline.astate(queries, run=self.id, by=asked.model, hear=self._hear)
        for replies in state.replies:
            for reply in replies:
                if reply.draft.error is not None:
                    self.door.say(f"{self.id}: {reply.arm}: {reply.draft.error.kind}: {reply.draft.error.message}")
        await self.door.answered(state, asked.model)
        told = Told(tuple(choice_of(state, row) for row in range(asked.n)), *usage_of(state, self._beside))
        degraded = sum(choice.about["status"] == "degraded" for choice in told.choices)
        self.door.metrics.answered(degraded, self._watch.ours())
        return told

    def _wishes(self, sample: int, deadline: float) -> Wishes:
        return replace(self.asked.wishes, sample=sample, deltas=self.asked.stream, deadline=deadline)

    def _hear(self, event: Event) -> None:
        self._watch.hear(event)
        self.door.metrics.hear(event)
        if isinstance(event, Drafted) and event.role in ("knowledge", "probe"):
            self._beside.append(event.draft)
        if not self.asked.stream:
            return
        if isinstance(event, Routed):
            # a second round would ask others too; then nothing was passed on in the first
            self._pass[int(event.id)] = len(event.arms) == 1 and self.door.passes(self.asked.model)
        elif isinstance(event, Written) and self._pass[int(event.id)]:
            text = self.passing[int(event.id)].take(event.text, event.at)
            if text:
                self._tell((int(event.id), text))

    def _tell(self, piece: Piece | None) -> None:
        self._pieces.put_nowait(piece)
        self._spoke.set()


def model_data(name: str, created: int) -> dict[str, Any]:
    """OpenAI's model object."""
    return {"id": name, "object": "model", "created": created, "owned_by": "coe"}
